"""A trained prior, read from a run folder, a snapshot or the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.config import Registry
from ..core.errors import UserError, reader
from ..engine.snapshots import load_snapshot, strip_prefix
from ..fields.hyper import MlpWeights, Precision
from ..gan.conditional import CONDITIONAL_GENERATORS, ConditionalGenerator
from ..gan.generator import GENERATORS, HyperGenerator, PatientGenerator
from ..imaging.geometry import Geometry, interpolated_by_angle
from ..recon.field_volume import FieldVolume, at_distance, bake
from .catalogue import find_prior
from .draws import DEFAULT_DRAW, Draw, Likeness
from .options import image_model_name

# pictures by which random patients are told from training patients: in so many directions, of so
# many columns, from so many voxels along a side
LOOK_VIEWS, LOOK_PX, LOOK_GRID = 8, 16, 32


@dataclass(frozen=True)
class Conditional:
    """A trained conditional generator, and the X-rays it answers."""

    generator: ConditionalGenerator
    angle_deg: float
    meta: dict[str, Any]


@dataclass(frozen=True)
class Prior:
    """A trained generator, ready to be sampled and inverted."""

    generator: PatientGenerator
    geometry: Geometry  # of the pictures it was trained on, at its own size
    codes: Tensor  # [P, latent_dim] of the training patients
    meta: dict[str, Any]
    path: Path
    conditional: Conditional | None = None

    @property
    def distance(self) -> float:
        """Source distance in field units: the median over training patients."""
        return float(self.meta["distance"])

    @property
    def fitted_geometry(self) -> Geometry:
        """The geometry with its source where training found it.

        A set without a geometry of its own has the default opening angle there, whatever its
        pictures were taken with.
        """
        return at_distance(self.geometry, self.distance)

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.generator.parameters()).device

    @property
    def is_line_integral(self) -> bool:
        """Whether its pictures are line integrals.

        Then a view is a projection of voxels, and an attenuation can be stated.
        """
        return image_model_name(self.meta.get("recipe", {})) == "line_integral"

    @property
    def scale(self) -> float | None:
        """Line integral of an image value of 1, where one is known and means one."""
        return self.geometry.line_integral_scale if self.is_line_integral else None

    @property
    def known(self) -> Tensor:
        """The numbers [P, latent_dim] of the training patients; of none where it has no codes."""
        codes = self.codes.to(self.device)
        return self.generator.whiten(codes) if isinstance(self.generator, HyperGenerator) else codes

    def numbers(self, n: int, rng: Generator, draw: Draw = DEFAULT_DRAW) -> Tensor:
        """The numbers [n, latent_dim] of n random patients, which ``generator.latent`` takes."""
        return draw(self.known, n, rng, self.likeness)

    @cached_property
    def likeness(self) -> Likeness:
        """Patients are as alike as small pictures of theirs around the orbit.

        Where pictures are no line integrals, their codes stand for these.
        """
        return Likeness(self.looks if self.is_line_integral else self._codes_of, self.known)

    @torch.no_grad()
    def looks(self, eps: Tensor) -> Tensor:
        """Small pictures of patients [n, latent_dim], one after the other: [n, F]."""
        geometry = self.geometry.resized(LOOK_PX).orbit(LOOK_VIEWS)
        code = self.generator.weights(self.generator.latent(eps))
        baked = bake(self.generator, code, geometry, size=LOOK_GRID)
        views = baked.project(geometry, self.distance)
        gains = torch.stack([self.gains(seen, geometry.angles_deg) for seen in views])
        return (views * gains[..., None, None]).clamp(0, 1).flatten(1)

    def _codes_of(self, eps: Tensor) -> Tensor:
        return self.generator.unwhiten(eps) if isinstance(self.generator, HyperGenerator) else eps

    def check_xray(self) -> None:
        """Refuse a prior of coloured photographs where an X-ray is asked about."""
        if self.meta.get("quantity") == "colour":
            raise UserError(
                f"got '{self.path}', a prior of coloured photographs",
                "wanted one of radiographs",
                "use `mednerf-kit sample` or `render` with it",
            )

    def expected_gain(self, angles_deg: Tensor) -> Tensor:
        """Mean gain of a view at these angles [n] over the training patients.

        It is 1 for sets on one scale.
        """
        profile = self.meta.get("log_gain_profile")
        if not profile:
            return torch.ones_like(angles_deg)
        known_deg = self.geometry.angles_deg
        log_gain = interpolated_by_angle(torch.tensor(profile), known_deg, angles_deg.cpu())
        return log_gain.exp().to(angles_deg)

    def volumes(self, code: MlpWeights, geometry: Geometry, *, size: int) -> FieldVolume:
        """Patients as voxels [B, size, size, size], with the detail that the training measured."""
        baked = bake(self.generator, code, geometry, size=size)
        return baked.with_detail(self.meta.get("detail", []))

    def gains(self, views: Tensor, angles_deg: Sequence[float]) -> Tensor:
        """The gains [V] that whole views [V, rows, cols] at these angles have in the set.

        Where every picture was stretched to its own maximum, so is a view: to ``view_peak``, what
        the training pictures reach on average (a reduced picture's peak is below 1). A patient's
        own peak tells more than the mean gain of an angle, which stands in for it where only
        single rays are seen, or nothing is known of peaks.
        """
        if "view_peak" not in self.meta:
            return self.expected_gain(torch.tensor(angles_deg)).to(views)
        return self.meta["view_peak"] / views.amax((-1, -2)).clamp_min(1e-12)


# of prior, images, angles_deg, rng; mask= and films= of the images, view_frames= of views that
# stand on no orbit of the prior's, and watch=, which is told how far the search is
Search = Callable[..., Any]
INVERSIONS: Registry[Search] = Registry("inversion", home="mednerf_kit.invert")


@reader("wanted a whole prior", "use the snapshot before it, or another prior")
def load_prior(run: str | Path, *, precision: Precision | None = None) -> Prior:
    """A prior from a run folder (or a unique prefix), a snapshot, or ``bundled[:NAME]``.

    A body part of which the package has no prior of real patients is that of phantoms.

    ``precision``: what its networks are computed in, ``fp32``, ``bf16``, or ``auto`` for what is
    faster on the device; None leaves what the recipe says, ``auto`` unless it was set.
    """
    found = find_prior(run)
    path, meta = found.path, found.meta
    tensors, _ = load_snapshot(path)
    try:
        generator = GENERATORS.build(with_precision(meta["recipe"]["generator"], precision))
        kept = strip_prefix("ema", tensors)
        generator.load_state_dict({name: tensor.float() for name, tensor in kept.items()})
        geometry = Geometry.from_json(meta["geometry"])
        codes = tensors["codes"].float()
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"got '{path}', which holds no prior ({str(error).splitlines()[0]})",
            "wanted a snapshot of a prior",
            "give a run made by `mednerf-kit train`",
        ) from None
    generator.requires_grad_(False).eval()
    beside = found.conditional
    conditional = None if beside is None else load_conditional(beside, precision)
    return Prior(generator, geometry, codes, meta, path, conditional)


def load_conditional(path: Path, precision: Precision | None = None) -> Conditional:
    """A conditional generator that ``train --config chest_conditional`` left beside a prior."""
    tensors, meta = load_snapshot(path)
    try:
        node = with_precision(meta["recipe"]["generator"], precision)
        generator = CONDITIONAL_GENERATORS.build(node)
        kept = strip_prefix("ema", tensors)
        generator.load_state_dict({name: tensor.float() for name, tensor in kept.items()})
        angle_deg = float(meta["angle_deg"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"got '{path}', which holds no conditional generator ({str(error).splitlines()[0]})",
            "wanted one that `mednerf-kit train --config chest_conditional` made",
            "delete it, and the prior goes on without",
        ) from None
    generator.requires_grad_(False).eval()
    return Conditional(generator, angle_deg, meta)


def with_precision(
    node: Mapping[str, Any] | str, precision: Precision | None
) -> Mapping[str, Any] | str:
    """A generator's node with its precision replaced, where one is asked for.

    >>> with_precision({"name": "hyper", "width": 64}, "fp32")
    {'name': 'hyper', 'width': 64, 'precision': 'fp32'}
    """
    if precision is None:
        return node
    return {**({"name": node} if isinstance(node, str) else node), "precision": precision}
