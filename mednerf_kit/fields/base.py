"""The contract of fields that are fitted to one scene.

A new field is a new module of this package that registers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Generator, Tensor, nn

from ..core.config import Registry
from ..core.types import FieldOutput

FIELDS: Registry[SceneField] = Registry("field", home=__package__)


class SceneField(nn.Module):
    """The contract of fields of one scene; ``density`` and ``forward`` alone have no default.

    Beside the recipe's options a constructor may name two facts: ``box`` [2, 3], the corners of
    what is to be fitted, and ``channels``, 3 for photographs and 0 for attenuation alone
    (``FieldOutput.color`` is then None). Weights start from torch's seed.
    """

    rng: Generator | None = None  # what it may draw from while it is trained; the task sets it
    note: str | None = None  # a remark for whoever trains it; the task reports and clears it
    # of samples too faint to be asked for theirs: on an empty black background it is white, for
    # nothing would make a black one denser
    faint_color: float = 0.0

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Attenuation per unit length at points x [..., 3] -> [...]; 0 outside a field's box."""
        raise NotImplementedError

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Samples x [..., R, S, 3] of lengths dt [..., R, S], seen along d [..., R, 1, 3].

        Nothing is evaluated where ``dt == 0``.
        """
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; ``rate`` multiplies the recipe's learning rate."""
        return [{"params": list(self.parameters()), "rate": 1.0}]

    def advance(self, progress: float) -> bool:
        """Take note of how far the training is, in [0, 1], before a step.

        True when parameters were replaced, so that the optimiser must be new.
        """
        return False

    def regularisers(self) -> Mapping[str, Tensor]:
        """Scalars that a recipe may weigh in its loss, such as ``density_l1``, by name.

        Each is computed when it is looked up.
        """
        return {}

    def shape_like(self, tensors: dict[str, Tensor]) -> None:
        """Give parameters and buffers the shapes of a saved state, before it is loaded.

        The optimiser must be new then.
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


def parameter_groups(*groups: tuple[Iterable[Tensor], float]) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser from pairs (parameters, rate); empty ones are left out.

    >>> groups = parameter_groups((nn.Linear(1, 1).parameters(), 1.0), ([], 0.1))
    >>> [group["rate"] for group in groups]
    [1.0]
    """
    listed = [(list(parameters), rate) for parameters, rate in groups]
    return [{"params": parameters, "rate": rate} for parameters, rate in listed if parameters]


def other_parameters(module: nn.Module, known: Iterable[Tensor]) -> list[nn.Parameter]:
    """The parameters of a module without those that are known, in the module's order."""
    left_out = {id(parameter) for parameter in known}
    return [parameter for parameter in module.parameters() if id(parameter) not in left_out]


class Penalties(Mapping[str, Tensor]):
    """Scalars by name, each computed when looked up, so that a recipe pays for what it weighs.

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
