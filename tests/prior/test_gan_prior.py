"""The adversarial task from end to end: every preset trains, inverts and is scored."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from PIL import Image
from tiny import VIEWS
from tiny_gan import QUICK, SMALL, trained
from tiny_training import stats

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.unposed import read_photographs
from mednerf_kit.engine import session, snapshots
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert.reconstruct import project
from mednerf_kit.metrics import perceptual
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.gan import AdversarialTask


@pytest.mark.parametrize(
    "name", ["chest_hypernerfgan", "chest_graf", "knee_hypernerfgan", "knee_mednerf"]
)
def test_a_preset_trains_inverts_and_is_scored(name, toys, tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "lpips_distance", lambda *_: (None, "no weights here"))
    folder = trained(name, toys, tmp_path, *(["dataset.limit=1"] if "hyper" in name else []))
    rows = stats(folder)
    assert len(rows) == 2 and {"d_loss", "g_loss", "r_t", "p", "kimg"} <= set(rows[0])
    assert ("r1" in rows[0]) == ("mednerf" not in name)
    assert f"{VIEWS * (1 if 'hyper' in name else 4)} pictures" in (folder / "log.txt").read_text()
    assert (folder / "previews" / "samples.png").is_file()
    assert json.loads((folder / "metrics.json").read_text())["images_seen"] == 4
    found = scoring.evaluate(run=str(folder), limit=1, uncertainty=True, device="cpu")
    assert (
        found["n_views"] == VIEWS - 1 and math.isfinite(found["psnr_db"]) and "volume" not in found
    )
    assert (
        found["n_training_patients"] == (1 if "hyper" in name else 4)
        and found["baselines"]["mean_orbit"]["psnr_db"] > 5
    )


def test_an_xray_becomes_an_orbit(mednerf, toys, tmp_path):
    out = project(
        xray=[toys / "q0" / "xray_000.png"],
        view=[0.0],
        run=str(mednerf),
        outdir=tmp_path / "out",
        samples=1,
        size=16,
    )
    broadcast_text = json.loads((out / "metrics.json").read_text())
    assert (
        "no attenuation" in broadcast_text["units"]["volume"]
        and broadcast_text["volume"]["quantity"] == "relative"
        and broadcast_text["codes"] == 2
    )
    assert any("other physics" in text for text in broadcast_text["warnings"])
    assert len(list((out / "orbit").glob("*.png"))) == 72 and (out / "volume.nii.gz").is_file()


def test_resumed_equals_uninterrupted(toys, tmp_path, monkeypatch):
    step = AdversarialTask.step
    same = (
        "steps=3",
        "probability={name: adaptive, kimg: 0.01}",
        "augment={name: xray}",
        "task.r1_gamma=1.0",
        "task.r1_interval=2",
    )
    whole = trained("chest_mednerf", toys, tmp_path / "whole", *same)

    def stopping(self, progress, index):
        if index == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, progress, index)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTask, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained("chest_mednerf", toys, tmp_path / "parts", *same)
    again = trained("chest_mednerf", toys, tmp_path / "parts", *same, resume="latest")
    a, b = (
        files.load_tensors(snapshots.snapshot_files(folder)[-1])[0] for folder in (whole, again)
    )
    assert [name for name in a if not torch.equal(a[name], b[name])] == [] and set(a) == set(b)
    assert [row["d_loss"] for row in stats(whole)] == [row["d_loss"] for row in stats(again)]


def test_photographs_nobody_posed_train_the_same_generator(tmp_path):
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    for k in range(3):
        picture = torch.zeros(20, 24, 4, dtype=torch.uint8)
        picture[4:16, 4 + k : 16, :] = torch.tensor([200, 50 * k, 0, 255], dtype=torch.uint8)
        Image.fromarray(picture.numpy()).save(folder / f"r_{k}.png")
    Image.fromarray(picture.numpy()).save(folder / "r_0_depth.png")
    images, notes = read_photographs(root=str(folder.parent), size=20, background=1.0)
    assert (
        images.shape == (3, 20, 20, 3)
        and images[0, 0, 0].tolist() == [1, 1, 1]
        and "middle" in notes[0]
    )
    assert images[1, 10, 10].tolist() == pytest.approx([200 / 255, 50 / 255, 0], abs=1e-3)
    run = trained("carla", folder.parent, tmp_path / "runs")
    prior = prior_load.load_prior(run)
    assert (
        prior.geometry.fov_deg == pytest.approx(39.6, abs=1e-3)
        and not prior.geometry.columns_flipped
    )
    for use in (
        lambda: scoring.evaluate(run=str(run)),
        lambda: project(xray=["x.png"], run=str(run)),
    ):
        with pytest.raises(UserError, match="coloured photographs"):
            use()


def test_a_gain_by_angle_is_learned_and_kept_with_the_prior(toys, tmp_path):
    settings = [*SMALL["chest_mednerf"], *QUICK, "task.view_gain=2"]
    run = session.train(
        dataset=str(toys), config="chest_mednerf", settings=settings, outdir=tmp_path, device="cpu"
    )
    prior = prior_load.load_prior(run)
    profile = torch.tensor(prior.meta["log_gain_profile"])
    assert profile.shape == (VIEWS,) and 0 < float(profile.abs().max()) < 0.1
    angles = torch.tensor(prior.geometry.angles_deg)
    torch.testing.assert_close(prior.expected_gain(angles).log(), profile, atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match="got -1 .*view_gain"):
        session.train(
            dataset=str(toys),
            config="chest_mednerf",
            settings=[*settings, "task.view_gain=-1"],
            outdir=tmp_path,
            device="cpu",
        )
