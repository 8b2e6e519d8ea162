"""What the discriminator of the posed task sees: patches of real DRRs, and of generated patients.

A batch is made of patients, of whom several views are judged. Some of the generated patients are
random, the others are known ones as the generator has them, beside the very DRRs they should be.
Where a view is a line integral, and there are enough of them, each patient is baked into voxels
once and projected to all its views, which costs a fraction of as many patches rendered ray by ray.
Patches are cut out of the views of reals and fakes at the same places, with strides between 1 and
what fills the view: a small patch sees the whole picture too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..core.types import Pixels
from ..engine.distributed import BatchShard
from ..fields.hyper import MlpWeights
from ..gan.generator import HyperGenerator, Latent
from ..imaging.geometry import Geometry
from ..rays.selectors.base import sample_bilinear
from ..rays.selectors.patches import StridedPatch
from ..recon.field_volume import FieldVolume, bake_matter
from .draws import Likeness, PatientPlane
from .training_volumes import TrainingVolumes

FINENESS = 0.9  # voxels along a side of a baked patient, for one column of the pictures

# Random patients that the discriminator is shown are nobody: known ones come beside them.
SHOWN = PatientPlane(spread=1.3, wider=0.0, apart=1.0)

AIR_SHARE = 0.08  # of a patient's densest voxel: less than the lungs have


@dataclass(frozen=True)
class Places:
    """Where a part of a batch is looked at."""

    ids: Tensor  # [G] known patients: whose DRRs, source distances and gains
    pixels: Pixels  # [G·K, size²] K patches of each


@dataclass(frozen=True)
class PatchSource:
    """Draws patches of known and of generated patients at the same places."""

    training: TrainingVolumes
    geometry: Geometry
    patches: StridedPatch
    views: int  # K, patches of one patient
    known: float  # share of the generated patients that are known ones

    @property
    def grid(self) -> int:
        """Voxels along a side of a baked patient."""
        return max(2, round(FINENESS * self.geometry.cols))

    def baking_pays(self, nodes: int) -> bool:
        """Whether a baked patient takes fewer points than its patches of so many nodes a ray.

        Half of the voxels hold matter.
        """
        return self.grid**3 / 2 < self.views * self.patches.patch.size**2 * nodes

    def places(self, n: int, shard: BatchShard, rng: Generator) -> Places:
        """A part of n patches, at random."""
        images = self.training.images
        ids = shard.take(torch.randint(len(images), (n // self.views,), generator=rng))
        picked = self.patches.patches(n, 0, rng)
        view, yx, weight = (
            shard.take(rows).to(images.device) for rows in (picked.view, picked.yx, picked.weight)
        )
        return Places(ids.to(images.device), Pixels(view, yx, weight))

    def patients(
        self,
        generator: HyperGenerator,
        codes: Tensor,
        ids: Tensor,
        n: int,
        shard: BatchShard,
        rng: Generator,
    ) -> Latent:
        """Generated patients [G] for a part of n patches, beside the known patients ``ids``.

        ``codes`` [P, latent_dim] are those of all known patients; with none of them every patient
        is random.
        """
        group = n // self.views
        rebuilt = shard.take(torch.rand(group, generator=rng)) < self.known
        known = generator.whiten(codes)
        eps = shard.take(SHOWN(known, group, rng, Likeness(generator.unwhiten, known)))
        if not len(codes):
            return generator.latent(eps)
        drawn = generator.unwhiten(eps)
        return generator.coded(torch.where(rebuilt.to(ids.device)[:, None], codes[ids], drawn))

    def reals(self, places: Places) -> Tensor:
        """Values of the DRRs [G·K, size²]."""
        ids = places.ids.repeat_interleave(self.views)[:, None]
        place = replace(places.pixels, view=ids * self.geometry.views + places.pixels.view)
        return sample_bilinear(self.training.images.flatten(0, 1), place).float()

    def projected(
        self, generator: HyperGenerator, code: MlpWeights, distance: Tensor, places: Places
    ) -> Tensor:
        """Values of the views of baked patients [G] whose sources are this far [G]: [G·K, size²].

        They are differentiable with respect to the code.
        """
        baked = bake_matter(generator, code, self.geometry, size=self.grid, air_share=AIR_SHARE)
        views = places.pixels.view[:, 0].view(-1, self.views)
        pictures = torch.cat(
            [
                FieldVolume.of(values, self.geometry).project(
                    self.geometry.subset(seen), float(far)
                )
                for values, seen, far in zip(baked.values, views.tolist(), distance, strict=True)
            ]
        )
        own = torch.arange(len(pictures), device=pictures.device)[:, None]
        shown = own.expand_as(places.pixels.view)
        return sample_bilinear(pictures, replace(places.pixels, view=shown))
