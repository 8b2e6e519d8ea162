"""What a search of codes found: scenes that explain X-rays of one patient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..fields.hyper import MlpWeights
from ..gan.generator import Latent


@dataclass(frozen=True)
class Posterior:
    """Scenes that explain the X-rays, the best guess first."""

    latent: Latent  # [1 + K]
    code: MlpWeights  # [1 + K] their networks
    gains: Tensor  # [1 + K, n] of the input views
    angles_deg: Tensor  # [n] fitted
    distance: float  # fitted source distance, field units
    held_out_mse: float
    seconds: float
    tone: Tensor | None = None  # [1 + K, n, Q] of films whose tone curve was unknown
    has_scale: bool = True  # whether an X-ray told what line integral an image value stands for
