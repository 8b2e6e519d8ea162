"""What DRRs are made with: the X-ray set-up, and what is done to a CT on its way to them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import UserError, unknown_name
from ..imaging.body import Body, find_body
from ..imaging.film import film_options
from ..imaging.geometry import CT_SCALES, DEFAULTS, Geometry
from ..imaging.volume import Volume
from ..imaging.voxels import AIR


@dataclass(frozen=True, kw_only=True)
class XraySetup:
    """The X-ray set-up that DRRs are made with, and how their brightness is stored.

    Without a ``geometry`` it is the default of the anatomy; what is given takes the place of its
    values.

    Options:
        geometry: a whole set-up; its angles, if it has any, win over ``views``.
        source_to_isocentre_mm: SOD, or SAD.
        source_to_detector_mm: SDD, or SID.
        pixel_mm: pixel pitch at the detector.
        detector_mm: side of the detector, instead of the pixel pitch.
        offset_mm: shift of the detector to image right and up.
        axis: axis of the orbit, x, y or z.
        tilt_deg: cranial elevation of the source.
        size: pixels along a side.
        views: number of views on a full turn.
        start_deg: angle of the first view.
        direction: sense of the turn, 1 or −1.
        line_integral_scale: line integral that becomes white; by default
            :data:`~mednerf_kit.imaging.geometry.CT_SCALES` of the anatomy, which cuts no real body,
            and a phantom's own scale for phantoms.
        autoscale: ``set`` has that one scale for all views; ``view`` stretches each view to its own
            maximum, as the published sets do.
        film: expose the views as this film of the bank (``imaging/film``); None stores line
            integrals.
    """

    geometry: Geometry | None = None
    source_to_isocentre_mm: float | None = None
    source_to_detector_mm: float | None = None
    pixel_mm: float | None = None
    detector_mm: float | None = None
    offset_mm: tuple[float, float] | None = None
    axis: Literal["x", "y", "z"] | None = None
    tilt_deg: float | None = None
    size: int = 128
    views: int = 72
    start_deg: float = 0.0
    direction: int = 1
    line_integral_scale: float | None = None
    autoscale: Literal["set", "view"] = "set"
    film: str | None = None

    def __post_init__(self) -> None:
        if self.autoscale not in ("set", "view"):
            raise unknown_name("autoscale", self.autoscale, ("set", "view"))
        if self.film is not None:
            film_options(self.film)
            if self.autoscale == "view":
                raise UserError(
                    f"got film '{self.film}' and a scale for each view",
                    "wanted one scale for the exposure of all views",
                    "leave --autoscale out",
                )

    def geometry_of(self, anatomy: str, *, phantom: bool = False) -> Geometry:
        """The geometry of the views of a patient of this anatomy, a phantom or a real one."""
        pixel_mm = self.pixel_mm
        if self.detector_mm is not None:
            if pixel_mm is not None:
                raise UserError(
                    "got both a detector side and a pixel pitch",
                    "wanted one of them",
                    "leave one out",
                )
            pixel_mm = self.detector_mm / self.size
        given: dict[str, Any] = {
            "source_to_isocentre_mm": self.source_to_isocentre_mm,
            "source_to_detector_mm": self.source_to_detector_mm,
            "offset_mm": self.offset_mm,
            "axis": self.axis,
            "tilt_deg": self.tilt_deg,
            "pixel_mm": pixel_mm,
            "line_integral_scale": self.line_integral_scale,
        }
        moved = [
            name for name in given if name != "line_integral_scale" and given[name] is not None
        ]
        if moved and self.geometry and self.geometry.view_frames:
            raise UserError(
                f"got {moved[0]} beside a geometry of view_frames",
                "wanted the set-up that the frames describe",
                "leave it out, or correct the frames",
            )
        default = DEFAULTS[anatomy]
        if not phantom:
            default = replace(default, line_integral_scale=CT_SCALES[anatomy])
        found = replace(
            (self.geometry or default).resized(self.size),
            **{name: value for name, value in given.items() if value is not None},
        )
        if not (self.geometry and self.geometry.views):
            found = found.orbit(self.views, start_deg=self.start_deg, direction=self.direction)
        if self.autoscale == "view":
            return replace(found, line_integral_scale=None)
        scale = found.line_integral_scale
        return replace(
            found, line_integral_scale=default.line_integral_scale if scale is None else scale
        )

    def joining(self, root: Path, geometry: Geometry) -> Geometry:
        """This geometry on the scale of the set at ``root``, where only a default scale differs."""
        given = self.line_integral_scale or (self.geometry and self.geometry.line_integral_scale)
        path = root / "geometry.json"
        if given or geometry.line_integral_scale is None or not path.is_file():
            return geometry
        theirs = Geometry.from_json(path)
        if theirs.line_integral_scale is None:
            return geometry
        same = replace(geometry, line_integral_scale=theirs.line_integral_scale)
        return same if same == theirs else geometry


@dataclass(frozen=True, kw_only=True)
class Handling:
    """What is done to a CT on its way to line integrals.

    Options:
        mask_table: apply :func:`~mednerf_kit.imaging.body.body_only` first.
        mu_water_per_mm: attenuation of water, which HU are relative to.
        air_below_hu: count everything below as air (published sets do below −800 HU).
        supersample: rays along each side of a pixel.
        isocentre: ``body`` puts the isocentre of a CT on the axis through the middle of the body,
            as a patient is placed, ``scan`` into the middle of the scan; along z both take the
            middle of the scan. Where a body lies in its scan is chance, of some 20 mm along the
            beam, and one view does not tell it.
    """

    mask_table: bool = False
    mu_water_per_mm: float = 0.0205
    air_below_hu: float | None = None
    supersample: int = 1
    isocentre: Literal["body", "scan"] = "body"

    def __post_init__(self) -> None:
        if self.isocentre not in ("body", "scan"):
            raise unknown_name("isocentre", self.isocentre, ("body", "scan"))

    def prepared(self, volume: Volume, line_integral_scale: float | None) -> Volume:
        """The volume in HU with this attenuation of water, and what counts as air as air.

        The volume given is used up: values in HU are changed where they lie, for a copy of a large
        CT takes its time and its memory. Attenuation in mm stays what it is. Relative attenuation
        stays too, and is refused where a scale or a threshold is wanted of it.
        """
        volume = replace(volume, mu_water_per_mm=self.mu_water_per_mm)
        if volume.quantity != "relative":
            volume = volume.to_hu()
            for part in volume.values:
                if self.air_below_hu is not None:
                    part.masked_fill_(part <= self.air_below_hu, AIR["hu"])
                part.clamp_min_(AIR["hu"])
            return volume
        if line_integral_scale is not None or self.mask_table or self.air_below_hu is not None:
            raise UserError(
                "got relative attenuation, which has no scale and no Hounsfield units",
                "wanted views that are stretched one by one, and nothing taken out",
                "add --autoscale view, and leave --mask-table and --air-below-hu out",
            )
        return volume

    def isocentre_of(self, volume: Volume, body: Body | None = None) -> tuple[float, float, float]:
        """The isocentre (x, y, z) of an aligned CT in HU, in its LPS coordinates.

        ``body`` is the body in it, where it has been found already; where there is none the
        isocentre is that of the scan.
        """
        x, y, z = volume.centre_mm
        if self.isocentre == "body":
            with suppress(UserError):
                x, y, _ = (body or find_body(volume)).centroid_mm(volume)
        return x, y, z


def stored_geometry(geometry: Geometry, film: str | None) -> Geometry:
    """A set's ``geometry.json``: no grey value of a film is a line integral, so it has no scale."""
    return geometry if film is None else replace(geometry, line_integral_scale=None)


def anatomy_of(text: str) -> str | None:
    """The anatomy that a name mentions.

    >>> anatomy_of("MyKnee.nii"), anatomy_of("anna")
    ('knee', None)
    """
    return next((name for name in DEFAULTS if name in text.lower()), None)
