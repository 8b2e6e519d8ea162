"""Orbits and samples of a prior: the same seed is the same patient everywhere, and a latent comes
back as it was projected.
"""

import json
from dataclasses import replace

import pytest
import torch
from tiny_prior import GEOMETRY, QUICK, orbit_of, snapshot

from mednerf_kit import cli
from mednerf_kit.core import files
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.invert import outputs
from mednerf_kit.invert import reconstruct as project_module
from mednerf_kit.invert.predict import predict
from mednerf_kit.invert.render import ORBIT_VIEWS, STEPS, render, sample, walk
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.draws import DEFAULT_DRAW
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

    words = ["--run", place / "run", "--seed", 3, "--views", 8, "--dicom", "--out", tmp_path / "a"]
    assert cli.main(["render", *map(str, words)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a")
    assert views(tmp_path / "a").shape == (8, 32, 32)
    assert json.loads((tmp_path / "a" / "orbit" / "geometry.json").read_text())["angles_deg"] == [
        45.0 * k for k in range(8)
    ]
    assert imageio.v3.imread(tmp_path / "a" / "orbit.mp4", plugin="FFMPEG").shape[:3] == (8, 32, 32)
    kept, dicom = (read_volume(tmp_path / "a" / f"volume.{kind}") for kind in ("nii.gz", "dcm"))
    assert kept.quantity == "hu"
    torch.testing.assert_close(dicom.values, kept.values.round(), rtol=0, atol=0.51)
    render(run=str(place / "run"), seed=3, views=4, video=False, out=tmp_path / "a", size=16)
    assert views(tmp_path / "a").shape == (4, 16, 16), "frames of the longer orbit before are gone"


def test_a_seed_is_the_first_patient_that_is_drawn(place, tmp_path):
    prior = prior_load.load_prior(place / "run")
    known = prior.generator.whiten(prior.codes)
    eps = DEFAULT_DRAW(known, 1, torch.Generator().manual_seed(7), prior.likeness)
    assert torch.equal(outputs.seeded_eps(prior, 7), eps)
    latent = prior.generator.latent(eps)
    scene = outputs.one_patient(prior, eps)
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


def test_patients_may_be_drawn_such_as_nobody_was(place, tmp_path, capsys):
    for draw in ("bootstrap", "plane"):
        words = ["--run", place / "run", "--seeds", "1", "--draw", draw, "--out", tmp_path / draw]
        assert cli.main(["sample", *map(str, words)]) == 0
    usual, nobody = (read_png(tmp_path / draw / "grid.png") for draw in ("bootstrap", "plane"))
    assert not torch.equal(usual, nobody)
    capsys.readouterr()
    assert cli.main(["sample", "--run", str(place / "run"), "--draw", "planes"]) == 2
    assert "plane" in capsys.readouterr().err


def test_truncation_to_nothing_is_the_mean_patient(place, tmp_path):
    sample(run=str(place / "run"), seeds=[1, 2], truncation=0.0, out=tmp_path)
    grid = read_png(tmp_path / "grid.png")
    assert torch.equal(grid[15:47], grid[15 + 49 : 47 + 49])


def test_all_patients_turn_in_one_clip(place, tmp_path):
    import imageio.v3

    words = ["--run", place / "run", "--seeds", "0-2", "--orbit", "--out", tmp_path]
    assert cli.main(["sample", *map(str, words)]) == 0
    frames = imageio.v3.imread(tmp_path / "orbit.mp4", plugin="FFMPEG")
    assert frames.shape == (ORBIT_VIEWS, 64, 64, 3)
    corner = frames[:, 40:, 40:]
    assert corner.max() < 20 < frames[:, :32, :32].max(), "the fourth of three is empty"
    assert abs(frames[0].astype(int) - frames[9]).max() > 20


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
            xray=[place / "x.png"],
            run=str(place / "run"),
            input_kind="line-integral",
            samples=2,
            outdir=place / "out",
        )


def rendered(place, latent, out, *words, run=None) -> int:
    start = ["render", "--run", run or place / "run", "--latent", latent, "--no-video"]
    return cli.main([*map(str, start), "--out", str(out), *words])


@pytest.fixture(scope="module")
def codes(place, projected):
    """A latent as it was before finished voxels were kept."""
    tensors, meta = files.load_tensors(projected / "latent.safetensors")
    for name in outputs.PARTS:
        del tensors[name]
    for name in ("unit_mm", "scale", "exposure", "geometry", "log_gain_profile"):
        del meta[name]
    files.save_tensors(place / "codes.safetensors", tensors, meta)
    return place / "codes.safetensors"


def test_a_latent_renders_as_it_was_projected(place, projected, tmp_path):
    assert rendered(place, projected / "latent.safetensors", tmp_path, "--volume") == 0
    torch.testing.assert_close(views(tmp_path), views(projected), rtol=0, atol=1e-4)
    again, first = (read_volume(folder / "volume.nii.gz") for folder in (tmp_path, projected))
    assert again.quantity == first.quantity == "hu"
    # fp16 keeps 11 bits of mu, which HU are shifted from
    mu = first.to_mu().values
    torch.testing.assert_close(again.to_mu().values, mu, rtol=2**-11, atol=1e-6)
    geometries = [
        (folder / "orbit" / "geometry.json").read_text() for folder in (tmp_path, projected)
    ]
    assert geometries[0] == geometries[1]


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("spread", "uncertainty.nii.gz"),
        ("share", "measured.nii.gz"),
        ("null_space", "null_space.nii.gz"),
    ],
)
def test_every_part_is_seen_as_it_was_written(place, projected, tmp_path, part, file):
    latent = projected / "latent.safetensors"
    assert rendered(place, latent, tmp_path, "--show", part, "--views", "4", "--volume") == 0
    written = read_volume(projected / file, quantity="hu" if part != "share" else None)
    geometry = Geometry.from_json(tmp_path / "orbit" / "geometry.json")
    assert geometry.line_integral_scale is None, "no line integral of an attenuation"
    sums = project_volume(written.values, written.spacing_mm, geometry)
    expected = sums / sums.abs().max()
    if part == "null_space":
        assert float(expected.min()) < 0 < float(expected.max())
        expected = (1 + expected) / 2
    torch.testing.assert_close(views(tmp_path), expected, rtol=0, atol=1e-3)
    whole = [read_volume(folder / "volume.nii.gz").values for folder in (tmp_path, projected)]
    torch.testing.assert_close(whole[0], whole[1], rtol=0, atol=2.0)


def test_a_latent_of_codes_is_made_again_from_them(place, projected, codes, tmp_path):
    assert rendered(place, codes, tmp_path, "--views", "4") == 0
    prior = prior_load.load_prior(place / "run")
    scene = outputs.load_latent(codes, prior)
    expected = predict(prior, scene, prior.geometry.orbit(4)).views
    # Not bit for bit: on a busy machine the same product may be summed by another number of
    # threads, and bf16 rounds apart.
    torch.testing.assert_close(views(tmp_path), expected, rtol=0, atol=1e-3)
    by_film = views(projected)[::18]
    assert float((expected - by_film).abs().mean()) > 1e-3, "codes know nothing of the update"


def test_what_a_patient_does_not_hold_is_not_shown(place, codes, tmp_path, capsys):
    assert rendered(place, codes, tmp_path / "a", "--show", "share") == 2
    assert "--show share" in capsys.readouterr().err
    words = ["render", "--run", str(place / "run"), "--show", "spread"]
    assert cli.main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "--latent" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_film_without_a_scale_stays_relative(place, tmp_path):
    prior = prior_load.load_prior(place / "run")
    scene = replace(outputs.one_patient(prior, outputs.seeded_eps(prior, 1)), has_scale=False)
    predicted = predict(prior, scene, prior.geometry.orbit(4), size=24)
    latent = tmp_path / "latent.safetensors"
    outputs.save_latent(latent, prior, scene, {"volume": predicted.volume}, predicted.exposure)
    assert rendered(place, latent, tmp_path / "out", "--views", "4", "--volume") == 0
    torch.testing.assert_close(views(tmp_path / "out"), predicted.views, rtol=0, atol=1e-3)
    assert read_volume(tmp_path / "out" / "volume.nii.gz").quantity == "relative"
    geometry = Geometry.from_json(tmp_path / "out" / "orbit" / "geometry.json")
    assert geometry.line_integral_scale is None


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


def test_codes_of_another_prior_are_refused(place, codes, tmp_path, capsys):
    other = snapshot(tmp_path / "other", seed=9)
    assert rendered(place, codes, tmp_path / "out", run=other) == 2
    assert f"--run {place / 'run'}" in capsys.readouterr().err
    assert rendered(place, other, tmp_path / "out") == 2
    assert "holds no latent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_kept_volume_needs_no_more_of_a_prior_than_its_geometry(
    place, projected, tmp_path, capsys
):
    latent = projected / "latent.safetensors"
    same = snapshot(tmp_path / "same", seed=9)
    assert rendered(place, latent, tmp_path / "out", "--views", "4", run=same) == 0
    torch.testing.assert_close(views(tmp_path / "out"), views(projected)[::18], rtol=0, atol=1e-4)
    narrow = snapshot(tmp_path / "narrow", geometry=GEOMETRY.with_fov(10))
    gains = snapshot(tmp_path / "gains", per_view_scale=True, log_gain_profile=[0.1] * 8)
    for other in (narrow, gains):
        assert rendered(place, latent, tmp_path / "refused", run=other) == 2
        assert f"--run {place / 'run'}" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_a_set_scaled_view_by_view_is_shown_with_its_gains(place, tmp_path):
    gains = torch.linspace(0.5, 1.2, 8)
    snapshot(tmp_path / "run", per_view_scale=True, log_gain_profile=gains.log().tolist())
    for run in (place / "run", tmp_path / "run"):
        render(run=str(run), seed=0, views=8, video=False, out=tmp_path / run.parent.name)
    plain, scaled = views(tmp_path / place.name), views(tmp_path / tmp_path.name)
    assert torch.allclose(scaled, gains[:, None, None] * plain, atol=1e-4)
