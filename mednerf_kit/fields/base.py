"""What a field that is fitted to one scene promises beside the :class:`~mednerf_kit.core.types.Field` protocol.

Every method has a default, so a plain module with ``density`` and ``__call__`` is already a scene field.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.config import Registry
from ..core.types import Answer

FIELDS: Registry[SceneField] = Registry("field", home=__package__)


class SceneField(nn.Module):
    """A field of one scene. The recipe's options arrive as keyword-only arguments, with two facts beside them:

    ``box`` [2, 3], the corners of what is to be fitted, and ``channels``, 3 for photographs and 0 for attenuation alone
    (``Answer.color`` is then None).
    """

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Attenuation per unit length at points x [..., 3] -> [...]; 0 outside the box of a boxed field."""
        raise NotImplementedError

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> Answer:
        """Samples x [..., R, S, 3] of lengths dt [..., R, S] seen along d [..., R, 1, 3]; where ``dt == 0`` nothing is asked."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; ``rate`` multiplies the recipe's learning rate."""
        return [{"params": list(self.parameters()), "rate": 1.0}]

    def advance(self, progress: float) -> bool:
        """Called before the step at ``progress`` in [0, 1]; True when parameters were replaced and the optimiser must be new."""
        return False

    def regularisers(self) -> dict[str, Tensor]:
        """Named scalars a recipe may weigh in its loss, such as ``l1`` and ``tv``."""
        return {}

    def shape_like(self, tensors: dict[str, Tensor]) -> None:
        """Give parameters and buffers the shapes of a saved state before it is loaded."""
