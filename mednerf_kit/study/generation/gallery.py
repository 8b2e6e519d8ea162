"""Patients of a prior to look at: random ones, those between two, layers of two, training ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...fields.hyper import MlpWeights
from ...invert.render import walk
from ...prior.load import Prior
from .memory import memorisation
from .mixing import crossed
from .random_patients import baked_views

VIEWS = 24  # of a turning patient
COMPARED = 8  # of them, by which the nearest training patient is found
SIZE_PX = 96
VOXELS = 48


@dataclass(frozen=True)
class Gallery:
    """A prior, and its training patients as it has learned them."""

    prior: Prior
    names: tuple[str, ...]  # of the training patients
    # of the first of them, views [COMPARED, rows, cols] each
    rendered: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, prior: Prior) -> Gallery:
        """The gallery of a prior; one without codes of its training patients has none of them."""
        prior.check_xray()
        small = replace(prior, geometry=prior.geometry.resized(min(SIZE_PX, prior.geometry.cols)))
        names = tuple(prior.meta.get("patients", ()))[: len(prior.codes)]
        return cls(small, names)

    def render_training(self, *, max_seconds: float = float("inf")) -> bool:
        """Go on rendering the training patients for about so long; whether that were all."""
        end = time.monotonic() + max_seconds
        while len(self.rendered) < len(self.names) and time.monotonic() < end:
            patient = self.trained(len(self.rendered))
            self.rendered.append(self.turning(patient, views=COMPARED))
        return len(self.rendered) == len(self.names)

    @property
    def layers(self) -> int:
        """How many layers a patient's network has."""
        return len(self.random(0).layers)

    @property
    def truncates(self) -> bool:
        """Whether shorter numbers make another patient: some generators only see directions."""
        whole, half = (self.random(0, truncation).layers[0][0] for truncation in (1.0, 0.5))
        return not torch.allclose(whole, half)

    def numbers(self, seed: int, truncation: float = 1.0) -> Tensor:
        """The numbers of a seed's patient, scaled by ``truncation``: [1, latent_dim]."""
        return truncation * self.prior.numbers(1, Generator().manual_seed(seed))

    @torch.no_grad()
    def weights(self, eps: Tensor) -> MlpWeights:
        """The patient of numbers [1, latent_dim]."""
        generator = self.prior.generator
        return generator.weights(generator.latent(eps.to(self.prior.device)))

    def random(self, seed: int, truncation: float = 1.0) -> MlpWeights:
        """The patient of a seed: the first that ``sample`` draws from it."""
        return self.weights(self.numbers(seed, truncation))

    def between(self, a: int, b: int, share: float, truncation: float = 1.0) -> MlpWeights:
        """The patient at a share of the way from one seed's to another's."""
        return self.weights(walk(self.numbers(a, truncation), self.numbers(b, truncation), share))

    def mixed(self, a: int, b: int, layer: int, truncation: float = 1.0) -> MlpWeights:
        """The layers before ``layer`` of one seed's patient, the others of another's."""
        return crossed(self.random(a, truncation), self.random(b, truncation), layer)

    @torch.no_grad()
    def trained(self, index: int) -> MlpWeights:
        """A training patient as the prior has learned it."""
        if not 0 <= index < len(self.names):
            raise UserError(
                f"got training patient {index}",
                f"wanted one of {len(self.names)}",
                "reload the page",
            )
        generator: Any = self.prior.generator
        code = self.prior.codes[index : index + 1].to(self.prior.device)
        return self.weights(generator.whiten(code))

    def turning(self, patient: MlpWeights, *, views: int = VIEWS) -> Tensor:
        """Views [V, rows, cols] in [0, 1] all around a patient, from 0° on."""
        angles_deg = [360.0 * k / views for k in range(views)]
        seen = baked_views(self.prior, patient, angles_deg, size=VOXELS)
        gains = self.prior.gains(seen, angles_deg)
        return (seen * gains[:, None, None]).cpu().clamp(0, 1)

    def nearest(self, orbit: Tensor) -> Mapping[str, Any] | None:
        """The training patient whose views are most like those of an orbit [V, rows, cols].

        None where there is none. ``rmse`` is that of views of image values; ``ratio`` puts it in
        relation to the distance from a training patient to the next (None for a single one).
        """
        if not self.names:
            return None
        self.render_training()
        some = orbit[:: len(orbit) // COMPARED][None]
        training, columns = torch.stack(self.rendered), range(COMPARED)
        found = memorisation(some, training, self.names, columns)["nearest"][0]
        return {**found, "index": self.names.index(found["patient"])}
