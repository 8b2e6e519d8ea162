"""What a search of codes found: scenes that explain X-rays of one patient."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..fields.hyper import MlpWeights
from ..gan.generator import Latent
from ..imaging.geometry import Geometry
from ..imaging.view_frames import ViewFrame


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
    # of X-rays that stand on no orbit of the prior's, as fitted, with the prior's pixels
    view_frames: tuple[ViewFrame, ...] = ()

    def views_in(self, geometry: Geometry) -> Geometry:
        """The X-rays' views as fitted, in the field units of the prior's geometry."""
        orbit = geometry.at(self.angles_deg.tolist())
        return replace(orbit, view_frames=self.view_frames)
