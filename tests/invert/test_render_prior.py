"""Orbits and samples of a prior: the same seed is the same patient everywhere, and a latent comes
back as it was projected.
"""

import json

import pytest
import torch
from tiny_prior import GEOMETRY, QUICK, orbit_of, snapshot

from mednerf_kit import cli
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.volume import read_volume
from mednerf_kit.invert import outputs
from mednerf_kit.invert import reconstruct as project_module
from mednerf_kit.invert.render import STEPS, render, sample, walk
from mednerf_kit.prior import load as prior_load
from mednerf_kit.viz import figures


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    snapshot(folder / "run")
    return folder


def views(folder) -> torch.Tensor:
    return torch.stack([read_png(path) for path in sorted((folder / "orbit").glob("*.png"))])


def test_render_writes_the_orbit_the_video_and_the_volume(place, tmp_path, capsys):
    import imageio.v3

    words = ["--run", place / "run", "--seed", 3, "--views", 8, "--volume", "--out", tmp_path / "a"]
    assert cli.main(["render", *map(str, words)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a")
    assert views(tmp_path / "a").shape == (8, 32, 32)
    assert json.loads((tmp_path / "a" / "orbit" / "geometry.json").read_text())["angles_deg"] == [
        45.0 * k for k in range(8)
    ]
    assert imageio.v3.imread(tmp_path / "a" / "orbit.mp4", plugin="FFMPEG").shape[:3] == (8, 32, 32)
    assert read_volume(tmp_path / "a" / "volume.nii.gz").quantity == "hu"
    render(run=str(place / "run"), seed=3, views=4, video=False, out=tmp_path / "a", size=16)
    assert views(tmp_path / "a").shape == (4, 16, 16), "frames of the longer orbit before are gone"


def test_a_seed_is_the_patient_the_generator_draws(place, tmp_path):
    prior = prior_load.load_prior(place / "run")
    latent = prior.generator.draw(1, torch.Generator().manual_seed(7))
    scene = outputs.one_patient(prior, outputs.seeded_eps(prior, 7))
    assert torch.equal(scene.latent.w, latent.w) and torch.equal(scene.latent.pose, latent.pose)


def test_render_and_sample_show_the_same_patient(place, tmp_path):
    render(run=str(place / "run"), seed=5, views=4, video=False, out=tmp_path)
    sample(run=str(place / "run"), seeds=[2, 5], out=tmp_path)
    frames, grid = (
        figures.to_uint8(views(tmp_path)[[3, 0]]),
        read_png(tmp_path / "grid.png"),
    )
    assert grid.shape == (2 * (15 + 32) + 2, 2 * 32 + 2, 3)
    for k, frame in enumerate(frames):
        tile = figures.to_uint8(grid[15 + 32 + 2 + 15 :, k * 34 : k * 34 + 32, 0])
        assert abs(tile.astype(int) - frame).max() <= 1
    assert not (tmp_path / "interpolate.mp4").exists()


def test_truncation_to_nothing_is_the_mean_patient(place, tmp_path):
    sample(run=str(place / "run"), seeds=[1, 2], truncation=0.0, out=tmp_path)
    grid = read_png(tmp_path / "grid.png")
    assert torch.equal(grid[15:47], grid[15 + 49 : 47 + 49])


def test_the_clip_walks_from_seed_to_seed(place, tmp_path, capsys):
    import imageio.v3

    assert (
        cli.main(
            [
                "sample",
                "--run",
                str(place / "run"),
                "--seeds",
                "0-2",
                "--interpolate",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    clip = imageio.v3.imread(tmp_path / "interpolate.mp4", plugin="FFMPEG")
    assert clip.shape[:3] == (2 * STEPS + 1, 32, 64)
    steps = [abs(a.astype(int) - b).mean() for a, b in zip(clip, clip[1:], strict=False)]
    assert max(steps) < abs(clip[0].astype(int) - clip[STEPS]).mean(), (
        "no frame jumps as far as one patient is from the next"
    )
    assert (
        cli.main(
            [
                "sample",
                "--run",
                str(place / "run"),
                "--seeds",
                "1",
                "--interpolate",
                "--out",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "at least 2" in capsys.readouterr().err


def test_the_arc_keeps_its_ends_and_its_length():
    a, b = torch.randn(2, 1, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(walk(a, b, 0.0), a) and torch.allclose(walk(a, b, 1.0), b)
    lengths = torch.stack([walk(a, b, t / 8).norm() for t in range(9)])
    assert torch.allclose(lengths, torch.linspace(float(a.norm()), float(b.norm()), 9), atol=1e-5)
    for other in (torch.zeros_like(a), a, -a):
        assert torch.isfinite(walk(a, other, 0.5)).all()


@pytest.fixture(scope="module")
def projected(place):
    prior = prior_load.load_prior(place / "run")
    figures.write_png16(place / "x.png", orbit_of(prior, 2, (270.0,))[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project_module, "Inversion", QUICK)
        return project_module.project(
            xray=[place / "x.png"], run=str(place / "run"), samples=2, outdir=place / "out"
        )


def test_a_latent_renders_as_it_was_projected(place, projected, tmp_path):
    words = [
        "--run",
        place / "run",
        "--latent",
        projected / "latent.safetensors",
        "--no-video",
        "--volume",
        "--out",
        tmp_path,
    ]
    assert cli.main(["render", *map(str, words)]) == 0
    # Not bit for bit: on a busy machine the same product may be summed by another number of
    # threads, and bf16 rounds apart.
    torch.testing.assert_close(views(tmp_path), views(projected), rtol=0, atol=1e-3)
    again, first = (
        read_volume(folder / "volume.nii.gz").values for folder in (tmp_path, projected)
    )
    torch.testing.assert_close(again, first, rtol=0, atol=3e-3 * float(first.abs().max()))


def test_a_latent_comes_back_whole(place, projected):
    prior = prior_load.load_prior(place / "run")
    found = outputs.load_latent(projected / "latent.safetensors", prior)
    assert (
        found.latent.w.shape == (3, 8) and len(found.latent.deltas) == 3 and found.code.batch == 3
    )
    assert found.gains.shape == (3, 1) and found.angles_deg.shape == (1,)
    assert (
        found.distance == pytest.approx(GEOMETRY.distance, rel=0.1)
        and 0 < found.held_out_mse < 1e-2
    )


def test_a_latent_of_another_prior_is_refused(place, projected, tmp_path, capsys):
    other = snapshot(tmp_path / "other", seed=9)
    words = [
        "render",
        "--run",
        str(other),
        "--latent",
        str(projected / "latent.safetensors"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(words) == 2
    assert f"--run {place / 'run'}" in capsys.readouterr().err
    assert cli.main([*words[:3], "--latent", str(other), "--out", str(tmp_path / "out")]) == 2
    assert "holds no latent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_set_scaled_view_by_view_is_shown_with_its_gains(place, tmp_path):
    gains = torch.linspace(0.5, 1.2, 8)
    snapshot(tmp_path / "run", per_view_scale=True, log_gain_profile=gains.log().tolist())
    for run in (place / "run", tmp_path / "run"):
        render(run=str(run), seed=0, views=8, video=False, out=tmp_path / run.parent.name)
    plain, scaled = views(tmp_path / place.name), views(tmp_path / tmp_path.name)
    assert torch.allclose(scaled, gains[:, None, None] * plain, atol=1e-4)
