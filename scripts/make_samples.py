"""Makes data/samples: X-rays of phantoms that no prior is trained on, with their geometry.

Run it again when the phantoms' version changes: .venv/bin/python scripts/make_samples.py
"""

from pathlib import Path

from PIL import Image

from mednerf_kit.core import files
from mednerf_kit.data.cohort import FIRST_SEED
from mednerf_kit.data.drr import phantom_volume, render_orbit
from mednerf_kit.data.radiograph import view_angle_deg
from mednerf_kit.imaging.geometry import DEFAULTS

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
SEED = FIRST_SEED["test"]
# finer than any cohort, and two rays along each side of a pixel: a film knows nothing of our grids
VOXELS = 192


def main() -> None:
    for anatomy, film in [("chest", "PA"), ("chest", "lateral"), ("knee", "PA")]:
        geometry = DEFAULTS[anatomy].at([view_angle_deg(film)[0]])
        image = (
            render_orbit(phantom_volume(anatomy, SEED, VOXELS), geometry, supersample=2)[0]
            / geometry.line_integral_scale
        )
        path = SAMPLES / f"{anatomy}_{SEED}_{film}.png"
        with files.atomic(path) as temporary:
            Image.fromarray((image.clamp(0, 1) * 65535).round().numpy().astype("uint16")).save(
                temporary
            )
        geometry.save(path.with_suffix(".json"))
        print(path)


if __name__ == "__main__":
    main()
