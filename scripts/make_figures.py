"""Makes docs/figures, each by its name.

    python scripts/make_figures.py cameras
    python scripts/make_figures.py xray FOLDER
    python scripts/make_figures.py presets runs/ablate-presets/chest
    python scripts/make_figures.py detail

``cameras`` shows where cameras stand; ``xray`` what `mednerf-kit project` made of one X-ray, from
the FOLDER of its results; ``presets`` what every preset makes of one view of a phantom that none
was trained on, from the cells of the ablation `presets`; ``detail`` the same random patients of
`bundled:chest` without the detail that their prior lacks and with it.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from mednerf_kit.core import files
from mednerf_kit.data.orbits import OrbitSet
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry, nearest_view
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.invert.evaluate import load_sets
from mednerf_kit.invert.outputs import seeded_eps
from mednerf_kit.invert.posterior import Inversion, inversion_of
from mednerf_kit.invert.predict import predict
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.cameras import CameraDistribution
from mednerf_kit.study.generation.random_patients import baked_views
from mednerf_kit.viz import colours, figures, video

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
SHOWN_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0)
XRAY_DEG = (270.0, 315.0, 0.0, 45.0, 90.0, 135.0)
FRAMES, ENLARGED = 24, 3
RANDOM_PATIENTS = 4


def cameras() -> None:
    """Cameras on a hemisphere, as of photographs, beside a C-arm's turn about the patient axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    everywhere = CameraDistribution(elevation_deg=(0.0, 90.0)).draw(200, Generator().manual_seed(0))
    turn = torch.stack([torch.arange(0, 360, 5.0), torch.zeros(72)], 1)
    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (poses, title) in enumerate(
        (
            (everywhere, "spherical: azimuth and elevation"),
            (turn, "single axis: azimuth alone, elevation 0"),
        )
    ):
        panel = figure.add_subplot(1, 2, k + 1, projection="3d")
        x, y, z = place(poses).unbind(1)
        panel.scatter(x, y, z, s=6, c=poses[:, 0] % 360, cmap="twilight")
        panel.plot([0, 0], [0, 0], [-0.4, 0.4], color="black", linewidth=4)
        panel.text(0, 0, 0.5, "patient axis (superior)", ha="center", fontsize=7)
        ends = (-1, 0, 1)
        panel.set(
            xticks=ends,
            yticks=ends,
            zticks=ends,
            xlabel="x, left",
            ylabel="y, posterior",
            zlabel="z",
            title=title,
        )
        panel.set_box_aspect((1, 1, 1))
    write_figure(figure, FIGURES / "cameras.png")


def place(poses: Tensor) -> Tensor:
    """Where sources of (azimuth, elevation) [n, 2] in degrees stand on the unit sphere, [n, 3]."""
    source = DEFAULTS["chest"].frames(poses[:, 0])[0] / DEFAULTS["chest"].source_to_isocentre_mm
    elevation = torch.deg2rad(poses[:, 1:])
    return elevation.cos() * source + elevation.sin() * torch.tensor([0.0, 0.0, 1.0])


def write_figure(figure, path: Path) -> None:
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def xray(folder: Path) -> None:
    """One X-ray, six views of the orbit made of it, and slices of the volume and of its spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    geometry = Geometry.from_json(folder / "orbit" / "geometry.json")
    volume, spread = (read_volume(folder / f"{n}.nii.gz") for n in ("volume", "uncertainty"))
    limit_hu = figures.nice_limit(spread.values)
    figure = Figure(figsize=(9.6, 3.8), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.32))
    panels = rows[0].subplots(1, 1 + len(XRAY_DEG))
    rows[0].subplots_adjust(left=0.005, right=0.995, bottom=0.02, top=0.88, wspace=0.04)
    shown = [nearest_view(geometry.angles_deg, wanted) for wanted in XRAY_DEG]
    files_shown = [folder / "target.png", *(folder / f"orbit/view_{k:03d}.png" for k in shown)]
    titles = ["in: one X-ray", *(f"out: {wanted:.0f}°" for wanted in XRAY_DEG)]
    for panel, path, title in zip(panels, files_shown, titles, strict=True):
        panel.imshow(read_png(path), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        panel.set_title(title, fontsize=9)
        panel.axis("off")
    window = (-1000.0, 1000.0)
    for k, (slices, (low, high), stops, title) in enumerate(
        (
            (volume, window, colours.GREY, "out: attenuation volume, HU"),
            (spread, (0.0, limit_hu), colours.HEAT, "out: its spread (standard deviation), HU"),
        )
    ):
        picture = figures.slices_picture(
            slices.values, (low, high), spacing_mm=slices.spacing_mm[::-1], stops=stops
        )
        panel = rows[1].add_axes((0.005 + 0.5 * k, 0.14, 0.49, 0.74))
        panel.imshow(picture, interpolation="antialiased")
        panel.set_title(title, fontsize=9)
        panel.axis("off")
        scale = rows[1].add_axes((0.1 + 0.5 * k, 0.1, 0.3, 0.035))
        ramp = figures.coloured(torch.linspace(low, high, 256), (low, high), stops)
        scale.imshow(ramp[None], aspect="auto", extent=(low, high, 0, 1))
        scale.set(yticks=[], xticks=[low, (low + high) / 2, high])
        scale.tick_params(labelsize=7, length=2)
    write_figure(figure, FIGURES / "xray.png")


def presets(grid: Path) -> None:
    """A strip at matched angles and a turning GIF: the truth, and what each cell makes of 270°."""
    rows, scored = {}, None
    for cell in sorted(path for path in grid.iterdir() if path.is_dir()):
        prior = prior_load.load_prior(sorted((cell / "seed0").glob("0*"))[-1])
        scored, _, _ = load_sets(prior, None, "test", 1, False)
        rows[cell.name] = answer(prior, scored)
        print(cell.name)
    assert scored is not None, "a grid of trained cells"
    truth = scored.images[0].float()
    order = ["chest", *(name for name in rows if name != "chest")]
    stacked = {"truth": truth, **{name.removeprefix("chest_"): rows[name] for name in order}}
    chosen = [nearest_view(scored.geometry.angles_deg, wanted) for wanted in SHOWN_DEG]
    sheet = torch.cat([views[chosen] for views in stacked.values()])
    labels = [
        f"{name} " * (k == 0) + f"{SHOWN_DEG[k]:.0f}°"
        for name in stacked
        for k in range(len(chosen))
    ]
    figures.write_png8(
        FIGURES / "presets.png", figures.strip(enlarged(sheet), len(SHOWN_DEG), labels)
    )
    every = math.ceil(len(truth) / FRAMES)
    moments = torch.stack([views[::every] for views in stacked.values()], 1)
    turning = [
        torch.tensor(figures.strip(enlarged(moment), len(stacked), list(stacked)))
        for moment in moments
    ]
    video.write_gif(FIGURES / "presets.gif", torch.stack(turning) / 255, 12)


def answer(prior: prior_load.Prior, scored: OrbitSet) -> Tensor:
    """The orbit [V, rows, cols] that a prior makes of the first patient's view at 270°."""
    k = nearest_view(scored.geometry.angles_deg, 270.0)
    search = inversion_of(prior, Inversion)
    posterior = search(
        prior,
        scored.images[0, k : k + 1].float(),
        torch.tensor([270.0]),
        Generator().manual_seed(0),
    )
    return predict(prior, posterior, prior.geometry).views.clamp(0, 1)


@torch.no_grad()
def detail() -> None:
    """Random patients from the front and the side: above as the network has them."""
    prior = prior_load.load_prior("bundled:chest")
    plain = replace(prior, meta={k: v for k, v in prior.meta.items() if k != "detail"})
    rows, angles_deg = [], [270.0, 0.0]
    for one in (plain, prior):
        for seed in range(RANDOM_PATIENTS):
            eps = seeded_eps(prior, seed)
            code = one.generator.weights(one.generator.latent(eps))
            rows.append(baked_views(one, code, angles_deg))
    sheet = torch.cat(rows)
    names = ["without", "with"]
    labels = [f"{name} " * (k == 0) for name in names for k in range(2 * RANDOM_PATIENTS)]
    sheet = (sheet / sheet.amax((-1, -2), keepdim=True)).clamp(0, 1)
    figures.write_png8(FIGURES / "detail.png", figures.strip(sheet, 2 * RANDOM_PATIENTS, labels))


def enlarged(views: Tensor) -> Tensor:
    """Every pixel as ENLARGED² of them."""
    return views.repeat_interleave(ENLARGED, -1).repeat_interleave(ENLARGED, -2)


def main() -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    name, *rest = sys.argv[1:] or ["cameras"]
    {"cameras": cameras, "xray": xray, "presets": presets, "detail": detail}[name](*map(Path, rest))


if __name__ == "__main__":
    main()
