#!/usr/bin/env python3
"""Makes docs/figures/gallery_NAME.png of patients that a prior has not seen.

    python scripts/make_gallery.py RUN SET PATIENT [PATIENT ...]

RUN is a prior, SET a set of DRRs with CTs (`mednerf-kit data make ct`). From the 270° view of each
patient, the only one that is given: rows of views (the true ones, ours, one member's), then slices
through the isocentre (the CT, ours, the spread, and the share that the film determined).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from mednerf_kit.data.orbits import OrbitSet
from mednerf_kit.imaging.geometry import FRONTAL_DEG, nearest_view
from mednerf_kit.invert.measured import measured
from mednerf_kit.invert.posterior import Inversion, inversion_of
from mednerf_kit.invert.predict import predict
from mednerf_kit.invert.update import Films
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.prior.sets import read_set
from mednerf_kit.recon.field_volume import FieldVolume
from mednerf_kit.viz import figures

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
SHOWN_DEG = (270.0, 300.0, 330.0, 0.0, 45.0, 90.0)
TILE_PX = 192
WINDOW = 0.75  # image value that is shown white
MEMBER = 1  # of those beside the best guess


def page(prior: Prior, unseen: OrbitSet, name: str) -> None:
    """The picture of one patient, and the scores of its views on stdout."""
    k = unseen.patients.index(name)
    truth, angles = unseen.images[k].float(), unseen.geometry.angles_deg
    given = truth[nearest_view(angles, FRONTAL_DEG)][None]
    posterior = inversion_of(prior, Inversion)(
        prior, given, torch.tensor([FRONTAL_DEG]), Generator().manual_seed(0)
    )
    films = Films.of(given)
    predicted = predict(prior, posterior, prior.geometry, films=films)
    masks = torch.ones_like(given)
    share = measured(prior, posterior, predicted, masks, Generator().manual_seed(0))
    shown = [nearest_view(angles, angle) for angle in SHOWN_DEG]
    rows = [truth[shown], predicted.views[shown], predicted.members[MEMBER][shown]]
    size = predicted.volume.values.shape[-1]
    ct = FieldVolume.from_ct(str(unseen.volumes[name]), prior.geometry, size=size).values
    ours, spread = predicted.volume.values, predicted.volume_spread.values
    white = float(ct.quantile(0.995)) if ct.numel() < 2**24 else float(ct.amax())
    slices = [through(v, white) for v in (ct, ours, spread)] + [through(share.share.values, 1.0)]
    tiles = torch.cat([tile(row / WINDOW) for row in rows] + [tile(torch.cat(slices))])
    labels = [
        f"{whose} {angle:g}°" for whose in ("true", "ours", "a member") for angle in SHOWN_DEG
    ]
    labels += [
        f"{what}, {plane}"
        for what in ("CT", "ours", "spread", "from the film")
        for plane in ("coronal", "sagittal", "axial")
    ]
    sheet = figures.strip(tiles, len(SHOWN_DEG), labels)
    figures.write_png8(FIGURES / f"gallery_{name}.png", sheet)
    error = (predicted.views.clamp(0, 1) - truth).square().mean((1, 2))
    error = error[[j for j in range(len(angles)) if abs(angles[j] - FRONTAL_DEG) > 1]]
    print(f"{name}: {float((-10 * error.log10()).mean()):.2f} dB, {share.total:.0%} from the film")


def through(values: Tensor, white: float) -> Tensor:
    """Coronal, sagittal and axial slices of voxels [D, H, W] through the middle, upright."""
    d, h, w = (n // 2 for n in values.shape)
    planes = (values[:, h].flip(0), values[:, :, w].flip(0), values[d])
    return torch.stack([plane / white for plane in planes])


def tile(pictures: Tensor) -> Tensor:
    """Pictures [N, h, w] at TILE_PX."""
    return interpolate(pictures[:, None], (TILE_PX, TILE_PX), mode="bilinear")[:, 0].clamp(0, 1)


def main() -> None:
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    run, folder, *names = sys.argv[1:]
    prior = load_prior(run)
    node = {**prior.meta["recipe"]["dataset"], "size": prior.geometry.cols}
    unseen = read_set(folder, node, split="all", geometry=prior.geometry)
    if known := set(unseen.subset(names).seen_before(prior.meta["identities"])):
        raise SystemExit(f"the prior has seen {', '.join(sorted(known))}")
    for name in names:
        page(prior, unseen, name)


if __name__ == "__main__":
    main()
