"""Where the X-rays of a search stand, in the field units of its prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.types import Rays
from ..imaging.geometry import Geometry
from ..imaging.view_frames import ViewFrame
from ..prior.load import Prior


def frame_options(views: Geometry) -> dict[str, Any]:
    """What a search is told beside the angles of views: their frames, where they have some."""
    return {"view_frames": views.view_frames} if views.view_frames else {}


@dataclass(frozen=True)
class XrayViews:
    """Views as stated, which a search may turn, and the distance of their orbit's source."""

    geometry: Geometry
    distance: float  # field units
    support: float  # of the field

    @classmethod
    def of(
        cls,
        prior: Prior,
        angles_deg: Tensor,
        view_frames: Sequence[ViewFrame],
        *,
        cols: int,
        support: float,
    ) -> XrayViews:
        """Views at angles [n] of the prior's orbit, or with frames, in pictures of ``cols``."""
        orbit = prior.geometry.at(angles_deg.tolist())
        geometry = replace(orbit, view_frames=tuple(view_frames)).resized(cols)
        return cls(geometry, prior.distance, support)

    def at(self, angles_deg: Tensor) -> XrayViews:
        """Others of the orbit."""
        return replace(self, geometry=self.geometry.at(angles_deg.tolist()))

    def rays(self, pixels: Tensor, log_distance: Tensor, turn_deg: Tensor | None = None) -> Rays:
        """Rays through pixels [R, 3] (view, row, column), the views turned by [n] degrees.

        ``log_distance`` is added to the logarithm of the orbit's distance.
        """
        return self.geometry.view_rays(
            pixels[:, 0],
            pixels[:, 1:].float(),
            distance=self.distance * log_distance.exp(),
            turn_deg=turn_deg,
            support=self.support,
        )
