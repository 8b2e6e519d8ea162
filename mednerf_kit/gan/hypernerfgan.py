"""HyperNeRFGAN's generator as published (arXiv 2301.11631): factorised modulation of every layer of
a coloured NeRF, no pose.

W = S ⊙ (1 + act(L R / √r)), the idea of INR-GAN (arXiv 2011.12026). Against :mod:`.generator`:
biases are shared, the mapping's input has unit length per number, ReLUs carry a gain of √2, density
is ReLU(h), and nothing but the style makes a patient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.types import SUPPORT
from ..fields.coloured import ColouredField, Layer, no_shift, shifted
from ..fields.frequency import encoded_width
from ..fields.hyper import MlpWeights, Precision, padded_width
from .generator import GENERATORS, Latent, PatientGenerator, turned
from .layers import Linear, leaky_gain, leaky_relu


@GENERATORS.register("hypernerfgan")
class HyperNerfGan(PatientGenerator):
    """HyperNeRFGAN: z ~ N(0, 1) -> w -> the modulated weights of a coloured NeRF.

    z is brought to unit length per number, which leaves truncation without effect. Published sizes
    are the defaults.

    Options:
        code_dim: numbers of z, and of w.
        width: units of each hidden layer of the field.
        depth: hidden layers of the field.
        skip: the layer that gets the encoded point again; 0 means none.
        octaves: frequencies of the encoding of points.
        rank: rank of the factors L and R of a layer.
        modulation: ``demod`` scales each output row of W to unit length; ``tanh`` and ``sigmoid``
            bound the factor instead, and scale by 1/√inputs.
        outputs: 4 for density and colour, 1 for density alone.
        support: radius of the cylinder outside of which there is nothing, in field units.
        precision: what the field is computed in, ``fp32`` or ``bf16``; ``auto`` takes the faster.

    >>> generator = HyperNerfGan(code_dim=4, width=8, depth=2, skip=0, octaves=2, rank=2)
    >>> patients = generator.weights(generator.draw(3, torch.Generator().manual_seed(0)))
    >>> patients.layers[-1][0].norm(dim=-1).round(decimals=4)[0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        *,
        code_dim: int = 128,
        width: int = 128,
        depth: int = 8,
        skip: int = 5,
        octaves: int = 10,
        rank: int = 10,
        modulation: Literal["demod", "tanh", "sigmoid"] = "demod",
        outputs: Literal[1, 4] = 4,
        support: float = SUPPORT,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        if min(code_dim, width, depth, octaves, rank) < 1 or not 0 <= skip <= depth or support <= 0:
            raise UserError(
                f"got code_dim {code_dim}, width {width}, depth {depth}, octaves {octaves}, rank "
                f"{rank}, skip {skip}, support {support:g}",
                "wanted positive ones and a skip of 0 (none) to depth",
                "correct the generator's options",
            )
        self.field_outputs, self.code_dim = outputs, code_dim
        self.rank, self.modulation = rank, modulation
        self.field = ColouredField(octaves=octaves, skip=skip, support=support, precision=precision)
        gain = leaky_gain()
        self.mapping = nn.ModuleList(
            Linear(code_dim, code_dim, gain=gain, lr_multiplier=0.01) for _ in range(2)
        )
        first = padded_width(octaves)
        inputs = [first] + [width] * depth
        if skip:
            inputs[skip] += first
        sizes = list(zip(inputs, [width] * depth + [outputs], strict=True))
        self.shared = nn.ParameterList(torch.randn(o, i) for i, o in sizes)
        self.bias = nn.ParameterList(torch.zeros(o) for _, o in sizes)
        self.affine = nn.ModuleList(Linear(code_dim, (i + o) * rank) for i, o in sizes)
        # what meets the padding of the encoding does not count in a row's length
        with torch.no_grad():
            for k in {0, skip}:
                self.shared[k][:, encoded_width(octaves) - first :] = 0

    @property
    def latent_dim(self) -> int:
        """How many numbers make a patient."""
        return self.code_dim

    def latent(self, eps: Tensor) -> Latent:
        """Patients from standard normal numbers [B, latent_dim]."""
        w = eps * (eps.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = leaky_relu(layer(w))
        return Latent(w, torch.zeros(len(eps), 3, device=eps.device))

    def weights(self, latent: Latent) -> MlpWeights:
        """The NeRF of each patient; the latent's pose turns it as a rotation vector."""
        return MlpWeights(shifted(self._layers(latent.w), latent.deltas), turned(latent.pose))

    def _layers(self, w: Tensor) -> tuple[Layer, ...]:
        """Modulated weights; the ReLUs' gain of √2 is folded into the layer before each."""
        layers = []
        parts = zip(self.shared, self.bias, self.affine, strict=True)
        for k, (shared, bias, affine) in enumerate(parts):
            o = len(shared)
            factors = affine(w)
            left = factors[:, : o * self.rank].unflatten(1, (o, self.rank))
            right = factors[:, o * self.rank :].unflatten(1, (self.rank, -1))
            gain = math.sqrt(2) if k < len(self.shared) - 1 else 1.0
            weight = gain * self._modulated(shared, left @ right / math.sqrt(self.rank))
            layers.append((weight, (gain * bias).expand(len(w), -1)))
        return tuple(layers)

    def _modulated(self, shared: Tensor, m: Tensor) -> Tensor:
        """W = S ⊙ (1 + act(M)), [B, out, in]."""
        if self.modulation == "demod":
            w = shared * (1 + m)
            return w / (w.norm(dim=-1, keepdim=True) + 1e-8)
        bounded = torch.tanh(m) if self.modulation == "tanh" else torch.sigmoid(m) - 0.5
        return shared * (1 + bounded) / math.sqrt(shared.shape[1])

    def no_deltas(self, n: int) -> tuple[Tensor, ...]:
        """Zero additions to every layer, ready to be tuned."""
        return no_shift(self._layers(torch.zeros(1, self.code_dim, device=self.bias[0].device)), n)
