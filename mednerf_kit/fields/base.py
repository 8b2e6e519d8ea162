"""What a field that is fitted to one scene promises beside the
:class:`~mednerf_kit.core.types.Field` protocol.

Every method has a default, so a plain module with ``density`` and ``__call__`` is already a scene
field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Generator, Tensor, nn

from ..core.config import Registry
from ..core.types import FieldOutput

FIELDS: Registry[SceneField] = Registry("field", home=__package__)


class SceneField(nn.Module):
    """A field of one scene. The recipe's options arrive as keyword-only arguments, with two facts
    beside them:

    ``box`` [2, 3], the corners of what is to be fitted, and ``channels``, 3 for photographs and 0
    for attenuation alone (``Answer.color`` is then None). Weights start from torch's seed;
    ``random`` is what a field may draw from while it is trained, and ``note`` what it has to say to
    whoever trains it: the task sets the one and reports and clears the other.
    """

    rng: Generator | None = None
    note: str | None = None

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Attenuation per unit length at points x [..., 3] -> [...]; 0 outside the box of a boxed
        field.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Samples x [..., R, S, 3] of lengths dt [..., R, S] seen along d [..., R, 1, 3]; where
        ``dt == 0`` nothing is asked.
        """
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; ``rate`` multiplies the recipe's learning rate."""
        return [{"params": list(self.parameters()), "rate": 1.0}]

    def advance(self, progress: float) -> bool:
        """Called before the step at ``progress`` in [0, 1]; True when parameters were replaced and
        the optimiser must be new.
        """
        return False

    def regularisers(self) -> Mapping[str, Tensor]:
        """Named scalars that a recipe may weigh in its loss, such as ``density_l1`` and
        ``tv_density``, each computed when it is looked up.
        """
        return {}

    def shape_like(self, tensors: dict[str, Tensor]) -> None:
        """Give parameters and buffers the shapes of a saved state before it is loaded; the
        optimiser must be new then.
        """
        for name, value in [*self.named_parameters(), *self.named_buffers()]:
            if name in tensors and tensors[name].shape != value.shape:
                owner, _, leaf = name.rpartition(".")
                empty = value.detach().new_zeros(tensors[name].shape)
                setattr(
                    self.get_submodule(owner),
                    leaf,
                    nn.Parameter(empty) if isinstance(value, nn.Parameter) else empty,
                )


class Penalties(Mapping[str, Tensor]):
    """Scalars by name, each computed when it is looked up: a recipe pays only for those it weighs.

    >>> import torch
    >>> penalties = Penalties({"density_l1": lambda: torch.tensor(2.0)})
    >>> list(penalties), float(penalties["density_l1"])
    (['density_l1'], 2.0)
    """

    def __init__(self, calculators: Mapping[str, Callable[[], Tensor]]) -> None:
        self.calculators = calculators

    def __getitem__(self, name: str) -> Tensor:
        return self.calculators[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.calculators)

    def __len__(self) -> int:
        return len(self.calculators)
