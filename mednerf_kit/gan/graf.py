"""GRAF's generator: one NeRF MLP for all patients, conditioned on a shape and an appearance code
(arXiv 2007.02442, section 3.2.1).

The shape code joins the encoded point, the appearance code the colour branch. A code that is
constant over a patient only moves a layer's bias, so a patient is the shared weights with biases of
its own: the same batched network as a generated one. MedNeRF (arXiv 2202.01020) uses this generator
unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.types import SUPPORT
from ..fields.coloured import ColouredField, Layer, no_shift, shifted
from ..fields.frequency import encoded_width
from ..fields.hyper import MlpWeights, Precision, padded_width
from .generator import GENERATORS, Latent, PatientGenerator, turned


@GENERATORS.register("graf")
class GrafGenerator(PatientGenerator):
    """GRAF: a shape and an appearance code, both N(0, 1), condition one coloured NeRF.

    Published sizes are the defaults.

    Options:
        shape_dim: numbers of the shape code.
        appearance_dim: numbers of the appearance code.
        width: units of each layer of the trunk.
        depth: layers of the trunk.
        skip: the layer that gets the encoded point and the shape code again; 0 means none.
        octaves: frequencies of the encoding of points.
        view_octaves: frequencies of the encoding of directions; 0 makes colour independent of the
            viewing direction, as attenuation is.
        support: radius of the cylinder outside of which there is nothing, in field units.
        precision: what the field is computed in, ``fp32`` or ``bf16``; ``auto`` takes the faster.

    >>> sizes = {"shape_dim": 4, "appearance_dim": 4, "width": 8, "octaves": 2, "view_octaves": 0}
    >>> generator = GrafGenerator(depth=2, skip=0, **sizes)
    >>> generator.weights(generator.draw(3, torch.Generator().manual_seed(0))).batch
    3
    """

    def __init__(
        self,
        *,
        shape_dim: int = 128,
        appearance_dim: int = 128,
        width: int = 256,
        depth: int = 8,
        skip: int = 5,
        octaves: int = 10,
        view_octaves: int = 4,
        support: float = SUPPORT,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        least = min(shape_dim, appearance_dim, depth, octaves, width - 1)
        if least < 1 or view_octaves < 0 or support <= 0:
            raise UserError(
                f"got shape_dim {shape_dim}, appearance_dim {appearance_dim}, width {width}, "
                f"depth {depth}, octaves {octaves}, view_octaves {view_octaves}, "
                f"support {support:g}",
                "wanted positive ones, a width of at least 2 and view_octaves of at least 0",
                "correct the generator's options",
            )
        if not 0 <= skip < depth:
            raise UserError(
                f"got skip {skip} in {depth} layers",
                "wanted 0 (none) to the last hidden layer",
                "correct it",
            )
        self.field_outputs = 4
        self.shape_dim, self.code_dim = shape_dim, shape_dim + appearance_dim
        self.skip, self.width = skip, width
        self.octaves, self.encoded = octaves, encoded_width(octaves)
        self.field = ColouredField(
            octaves=octaves,
            skip=skip,
            support=support,
            branch=True,
            view_octaves=view_octaves,
            precision=precision,
        )
        point = self.encoded + shape_dim
        inputs = [point] + [width + (point if k == skip else 0) for k in range(1, depth)]
        self.trunk = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.head = nn.Linear(width, 1 + width)  # density and feature
        seen = encoded_width(view_octaves) if view_octaves else 0
        self.branch = nn.Linear(width + seen + appearance_dim, width // 2)
        self.color = nn.Linear(width // 2, 3)

    @property
    def latent_dim(self) -> int:
        """How many numbers make a patient: both codes."""
        return self.code_dim

    def latent(self, eps: Tensor) -> Latent:
        """Patients from standard normal numbers [B, latent_dim]."""
        return Latent(eps, torch.zeros(len(eps), 3, device=eps.device))

    def weights(self, latent: Latent) -> MlpWeights:
        """The NeRF of each patient; the latent's pose turns it as a rotation vector."""
        return MlpWeights(shifted(self._layers(latent.w), latent.deltas), turned(latent.pose))

    def _layers(self, w: Tensor) -> tuple[Layer, ...]:
        """The shared weights with the biases that the codes make. Weights are 0 where they meet the
        padding of the encoding.
        """
        shape, appearance = w[:, : self.shape_dim], w[:, self.shape_dim :]
        blank = torch.zeros(self.width, padded_width(self.octaves) - self.encoded, device=w.device)
        layers = []
        for k, layer in enumerate(self.trunk):
            assert isinstance(layer, nn.Linear)
            if k in (0, self.skip):
                plain = torch.cat([layer.weight[:, : -self.shape_dim], blank], 1)
                coded = layer.weight[:, -self.shape_dim :]
                layers.append(_conditioned(layer, plain, coded, shape))
            else:
                layers.append(_expanded(layer, len(w)))
        seen = self.branch.in_features - appearance.shape[1]
        plain, coded = self.branch.weight.split([seen, appearance.shape[1]], 1)
        return (
            *layers,
            _expanded(self.head, len(w)),
            _conditioned(self.branch, plain, coded, appearance),
            _expanded(self.color, len(w)),
        )

    def no_deltas(self, n: int) -> tuple[Tensor, ...]:
        """Zero additions to every layer, ready to be tuned."""
        blank = torch.zeros(1, self.code_dim, device=self.color.weight.device)
        return no_shift(self._layers(blank), n)


def _expanded(layer: nn.Linear, n: int) -> Layer:
    return layer.weight.expand(n, -1, -1), layer.bias.expand(n, -1)


def _conditioned(layer: nn.Linear, plain: Tensor, coded: Tensor, code: Tensor) -> Layer:
    """W (x, z) + b = W_x x + (W_z z + b)."""
    return plain.expand(len(code), -1, -1), code @ coded.T + layer.bias
