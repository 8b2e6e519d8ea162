"""Makes mednerf_kit/bundled/NAME.png: four random patients of each bundled prior, for its list.

Run it again when a prior changes: .venv/bin/python scripts/make_thumbnails.py
"""

import torch

from mednerf_kit.core.resampling import area_resized
from mednerf_kit.imaging.geometry import FRONTAL_DEG
from mednerf_kit.invert.outputs import seeded_eps
from mednerf_kit.invert.render import shown
from mednerf_kit.prior.catalogue import BUNDLED, bundled_names
from mednerf_kit.prior.load import load_prior
from mednerf_kit.viz.figures import write_png8

PATIENTS, SIDE_PX, VOXELS = 4, 96, 96


def main() -> None:
    for name in bundled_names():
        prior = load_prior(f"bundled:{name}")
        geometry = prior.geometry.at([FRONTAL_DEG])
        views = []
        for seed in range(PATIENTS):
            view = shown(prior, seeded_eps(prior, seed), geometry, VOXELS)[0]
            views.append(area_resized(view / view.max(), SIDE_PX, SIDE_PX))
        rows = [torch.cat(views[k : k + 2], -1) for k in (0, 2)]
        path = BUNDLED / f"{name}.png"
        write_png8(path, torch.cat(rows, -2))
        print(path)


if __name__ == "__main__":
    main()
