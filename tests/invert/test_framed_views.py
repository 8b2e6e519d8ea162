"""X-rays that stand on no orbit of the prior's: a C-arm's two oblique views, inverted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SETTINGS, SIZE, make_set, small_geometry
from tiny_prior import GEOMETRY, QUICK, snapshot
from torch import Generator

from mednerf_kit import cli
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.radiograph import cut
from mednerf_kit.engine import session
from mednerf_kit.imaging.orbit_of_frames import geometry_of_frames, views_in
from mednerf_kit.imaging.view_frames import ViewFrame
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert import reconstruct as module
from mednerf_kit.invert.outputs import load_latent
from mednerf_kit.invert.posterior import Problem
from mednerf_kit.metrics import perceptual
from mednerf_kit.prior.load import load_prior
from mednerf_kit.recon.field_volume import bake
from mednerf_kit.viz import figures

# another isocentric distance, a detector off the centre, turned in its plane: 40 × 32 pixels
OBLIQUE = geometry_of_frames(
    [
        ViewFrame(
            source_mm=(-500, 560, 250),
            detector_mm=(330, -350, -150),
            column_mm=(9, 8.5, 1),
            row_mm=(1.5, -4, -11),
        ),
        ViewFrame(
            source_mm=(420, 600, -280),
            detector_mm=(-250, -380, 190),
            column_mm=(10, -7, 0),
            row_mm=(2, 3.5, -11.5),
        ),
    ],
    rows=32,
    cols=32,
    line_integral_scale=GEOMETRY.line_integral_scale,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A prior, and a set of its first patient's oblique views."""
    folder = tmp_path_factory.mktemp("oblique")
    prior = load_prior(snapshot(folder / "run"))
    g = prior.generator
    volume = bake(g, g.weights(g.latent(g.whiten(prior.codes[:1]))), prior.geometry, size=64)
    pictures = volume.project(views_in(prior.geometry, OBLIQUE))[0]
    (folder / "set" / "p0").mkdir(parents=True)
    for k, picture in enumerate(pictures):
        figures.write_png16(folder / "set" / "p0" / f"xray_{k:03d}.png", picture)
    OBLIQUE.save(folder / "set" / "geometry.json")
    np.save(folder / "pictures.npy", pictures.numpy())
    return folder


def test_a_search_sees_its_patients_from_where_the_frames_stand(place):
    prior = load_prior(place / "run")
    images = torch.from_numpy(np.load(place / "pictures.npy"))
    views = views_in(prior.geometry, OBLIQUE)
    assert len(views.view_frames) == 2 and views.half_width_mm == prior.geometry.half_width_mm
    pixels = torch.cartesian_prod(torch.arange(2), torch.arange(0, 32, 5), torch.arange(0, 32, 5))
    truth = images[tuple(pixels.T)]
    errors = {}
    for name, frames in (("frames", views.view_frames), ("orbit", ())):
        problem = Problem(
            prior,
            images,
            torch.tensor(views.angles_deg),
            QUICK(nodes=64),
            Generator().manual_seed(0),
            view_frames=frames,
        )
        state = problem._fresh(problem.g.whiten(prior.codes[:1]))
        with torch.no_grad():
            seen = problem._seen(state, pixels, edge=0.02)[0]
        errors[name] = float((seen - truth).square().mean().sqrt())
    assert errors["frames"] < 0.01 and errors["orbit"] > 5 * errors["frames"]


def test_two_oblique_views_are_projected_into_a_volume_that_explains_them(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "Inversion", QUICK)
    xrays = [place / "set" / "p0" / f"xray_00{k}.png" for k in (0, 1)]
    words = ["project", "--run", place / "run", "--out", tmp_path / "out", "--samples", "1"]
    for xray in xrays:
        words += ["--xray", xray]
    assert cli.main([*map(str, words), "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    inputs = found["inputs"]
    assert [row["angle_deg"] for row in inputs] == pytest.approx(OBLIQUE.angles_deg, abs=1e-3)
    assert all("geometry beside it" in " ".join(row["notes"]) for row in inputs)
    prior = load_prior(place / "run")
    posterior = load_latent(tmp_path / "out" / "latent.safetensors", prior)
    stated = views_in(prior.geometry, OBLIQUE)
    fitted = posterior.views_in(prior.geometry)
    away = fitted.frames_of_views().source - stated.frames_of_views().source
    # turned by a few degrees at most, about the axis
    assert len(fitted.view_frames) == 2 and float(away.norm(dim=-1).max()) < 60
    assert float(away[:, 2].abs().max()) < 1e-6


def test_a_prior_learns_from_views_with_frames_and_is_scored_on_them(tmp_path, monkeypatch):
    level, leaning = (
        replace(small_geometry(), tilt_deg=tilt_deg).frames_of_views().to_list()
        for tilt_deg in (0.0, 15.0)
    )
    frames = tuple(leaning[k] if k % 2 else level[k] for k in range(len(level)))
    geometry = replace(small_geometry(), angles_deg=(), view_frames=frames)
    root = make_set(tmp_path / "set", geometry=geometry)
    posed = [*SETTINGS, "task.objective=posed", "steps=3", "snapshot_steps=3"]
    options = {"dataset": str(root), "outdir": tmp_path / "runs", "device": "cpu"}
    run = session.train(**options, config="chest", settings=posed)
    assert load_prior(run).geometry == geometry
    monkeypatch.setattr(scoring, "Inversion", QUICK)
    monkeypatch.setattr(perceptual, "lpips_distance", lambda *_: (None, "no weights here"))
    found = scoring.evaluate(run=str(run), device="cpu", limit=1)
    assert found["n_views"] == 7 and found["set_notes"] == []
    with pytest.raises(UserError, match="a training that knows no poses"):
        session.train(**options, config="chest_mednerf", settings=[f"dataset={{size: {SIZE}}}"])


def test_turned_pictures_and_unnamed_views_of_frames_are_refused(place, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Inversion", QUICK)
    xray = place / "set" / "p0" / "xray_000.png"
    options = {"run": str(place / "run"), "outdir": tmp_path / "out", "device": "cpu"}
    with pytest.raises(UserError, match="turned, with a view frame"):
        module.project(xray=[xray], rotate=90, **options)
    loose = tmp_path / "film.png"
    loose.write_bytes(xray.read_bytes())
    OBLIQUE.save(tmp_path / "film.json")
    with pytest.raises(UserError, match="a geometry of 2 view_frames"):
        module.project(xray=[loose], **options)


def test_a_cropped_picture_keeps_its_rays():
    part = cut(OBLIQUE, (5, 8, 20, 10))
    whole, small = OBLIQUE.frames_of_views(), part.frames_of_views()
    for y, x in ((0, 0), (9, 19)):
        ours = small.pixels(torch.tensor([y, x]).double(), 10, 20)
        theirs = whole.pixels(torch.tensor([y + 8, x + 5]).double(), 32, 32)
        torch.testing.assert_close(ours, theirs)


def test_views_on_the_priors_own_orbit_need_no_frames():
    orbit = GEOMETRY.at([270.0, 300.0])
    framed = replace(orbit, view_frames=tuple(orbit.frames_of_views().to_list()))
    assert views_in(GEOMETRY, framed) == orbit
    with pytest.raises(UserError, match="wanted the shape"):
        views_in(GEOMETRY, replace(orbit, rows=31))
