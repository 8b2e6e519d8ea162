"""What generated networks are computed in: asked for, measured by a pretended stopwatch, written
down, and asked for again.
"""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make_set
from tiny_prior import QUICK, orbit_of, snapshot
from tiny_training import assert_same, interrupted, last_tensors, stats, trained

from mednerf_kit import cli
from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import session, snapshots
from mednerf_kit.engine.distributed import Ranks
from mednerf_kit.fields import hyper
from mednerf_kit.gan.generator import GENERATORS
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert import reconstruct
from mednerf_kit.invert import scoring as score_one
from mednerf_kit.invert.predict import predict
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior import posed_setup, previews
from mednerf_kit.prior.distributed import agree_precision

CPU = torch.device("cpu")
STEPS = ("steps=2", "snapshot_steps=2")


def pretend(patch: pytest.MonkeyPatch, *, fp32: float, bf16: float) -> None:
    """Let the stopwatch say so many seconds of the two products."""
    readings = itertools.cycle([0.0, fp32, 0.0, bf16])
    patch.setattr(hyper, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    hyper.fastest_dtype.cache_clear()


@pytest.fixture
def stopwatch(monkeypatch):
    """Sets the stopwatch; the true one is asked again afterwards."""
    yield lambda **seconds: pretend(monkeypatch, **seconds)
    monkeypatch.undo()
    hyper.fastest_dtype.cache_clear()


FP32_WINS, BF16_WINS = {"fp32": 1.0, "bf16": 2.0}, {"fp32": 1.0, "bf16": 0.5}


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    """Hardly any: bf16 is slow on processors without it."""
    monkeypatch.setattr(previews, "GRID", 8)
    monkeypatch.setattr(posed_setup, "preview", lambda folder, prior: None)


def said(folder: Path) -> tuple[str, str, str]:
    """What the log, the newest snapshot and the metrics of a run say of its precision."""
    _, meta = files.load_tensors(snapshots.snapshot_files(folder)[-1])
    metrics = json.loads((folder / "metrics.json").read_text())
    lines = (folder / "log.txt").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("precision ")]
    return line.removeprefix("precision "), meta["precision"], metrics["precision"]


@pytest.mark.parametrize(
    "seconds, wanted",
    [
        (FP32_WINS, torch.float32),
        (BF16_WINS, torch.bfloat16),
        ({"fp32": 1.0, "bf16": 0.81}, torch.float32),
        ({"fp32": 1.0, "bf16": 0.79}, torch.bfloat16),
    ],
)
def test_auto_is_what_the_stopwatch_says(seconds, wanted, stopwatch):
    stopwatch(**seconds)
    assert hyper.fastest_dtype(CPU) is wanted
    assert hyper.HyperField().dtype(CPU) is wanted
    for name, dtype in hyper.DTYPES.items():
        assert hyper.HyperField(precision=name).dtype(CPU) is dtype


@pytest.mark.parametrize("name", sorted(GENERATORS.entries))
def test_every_generator_computes_in_what_it_was_told(name, stopwatch):
    stopwatch(**FP32_WINS)
    sizes = {"width": 8, "depth": 2, "octaves": 2, "skip": 0}
    x = 0.5 * torch.randn(2, 20, 1, 3, generator=torch.Generator().manual_seed(0))
    rays = (x, torch.ones(2, 20, 1, 3), torch.ones(2, 20, 1))
    found = {}
    for precision in ("auto", "fp32", "bf16"):
        torch.manual_seed(0)
        generator = GENERATORS.build({"name": name, **sizes, "precision": precision})
        code = generator.weights(generator.draw(2, torch.Generator().manual_seed(1)))
        seen = generator.field(*rays, code)
        found[precision] = seen.tau if seen.color is None else seen.color
        assert generator.precision == ("bf16" if precision == "bf16" else "fp32")
    assert torch.equal(found["auto"], found["fp32"])
    assert not torch.equal(found["bf16"], found["fp32"])
    with pytest.raises(UserError, match="'precision'.*did you mean 'fp32'"):
        GENERATORS.build({"name": name, "precision": "fp23"})


def test_a_run_says_what_auto_came_to_and_another_can_ask_for_it(tiny_set, tmp_path, stopwatch):
    stopwatch(**BF16_WINS)
    fast = trained(tiny_set, tmp_path / "fast", *STEPS)
    stopwatch(**FP32_WINS)
    plain = trained(tiny_set, tmp_path / "plain", *STEPS)
    asked = trained(tiny_set, tmp_path / "asked", *STEPS, "generator.precision=bf16")
    assert [said(folder) for folder in (fast, plain, asked)] == [
        ("bf16",) * 3,
        ("fp32",) * 3,
        ("bf16",) * 3,
    ]
    assert_same(last_tensors(fast), last_tensors(asked))
    errors = [stats(folder)[0]["volume_mse"] for folder in (fast, asked, plain)]
    assert errors[0] == errors[1] != errors[2]
    # and a prior is read in what its recipe says, or in what the caller says
    assert prior_load.load_prior(asked).generator.precision == "bf16"
    assert prior_load.load_prior(fast).generator.precision == "fp32"
    for wanted in ("fp32", "bf16"):
        assert prior_load.load_prior(asked, precision=wanted).generator.precision == wanted
    assert prior_load.load_prior(asked, precision="auto").generator.precision == "fp32"
    with pytest.raises(UserError, match="'precision'.*did you mean 'bf16'"):
        prior_load.load_prior(asked, precision="bf61")


def test_a_resumed_run_goes_on_in_the_precision_it_began_with(
    tiny_set, tmp_path, stopwatch, monkeypatch
):
    stopwatch(**BF16_WINS)
    whole = trained(tiny_set, tmp_path / "whole", *STEPS)
    folder = interrupted(tiny_set, tmp_path / "parts", monkeypatch, *STEPS, at=0)
    stopwatch(**FP32_WINS)
    assert trained(tiny_set, tmp_path / "parts", *STEPS, resume="latest") == folder
    assert_same(last_tensors(whole), last_tensors(folder))
    log = (folder / "log.txt").read_text()
    assert log.count("precision bf16") == 2 and "fp32" not in log


def test_processes_agree_on_what_the_first_one_found(stopwatch):
    class Second(Ranks):
        """One of two processes; what the first one says is bf16."""

        def broadcast_text(self, text):
            assert text == "fp32"
            return "bf16"

    stopwatch(**FP32_WINS)
    generators = [GENERATORS.build("hyper") for _ in range(2)]
    agree_precision(Second(1, 2), *generators)
    assert [generator.precision for generator in generators] == ["bf16", "bf16"]


def test_the_adversarial_task_keeps_it_too(tmp_path, stopwatch):
    toys = make_set(tmp_path / "chest_toys", volumes=False)
    settings = [
        "generator={name: hypernerfgan, code_dim: 8, width: 16, depth: 2, skip: 0, octaves: 3, "
        "rank: 2}",
        "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8, policy: none}",
        "dataset={size: 32}",
        "levels=[{name: stratified, n: 6}]",
        "task.batch=2",
        "steps=1",
    ]
    stopwatch(**BF16_WINS)
    folder = session.train(
        dataset=str(toys),
        config="chest_hypernerfgan",
        settings=settings,
        outdir=tmp_path / "runs",
        device="cpu",
    )
    assert said(folder) == ("bf16",) * 3


@pytest.fixture
def quick(monkeypatch):
    """A short search on a coarse grid, and no perceptual network, whose weights are not at hand."""
    short = partial(QUICK, candidates=2, code_steps=2, pivot_steps=1)
    monkeypatch.setattr(reconstruct, "Inversion", short)
    monkeypatch.setattr(scoring, "Inversion", partial(short, samples=1))
    monkeypatch.setattr(reconstruct, "predict", partial(predict, size=16))
    monkeypatch.setattr(score_one, "predict", partial(predict, size=16))
    monkeypatch.setattr(scoring.perceptual, "lpips_distance", lambda *_: (None, "no weights here"))


def test_project_says_its_precision_and_can_be_told(tmp_path, stopwatch, quick):
    stopwatch(**BF16_WINS)
    path = snapshot(tmp_path / "run")
    prior = prior_load.load_prior(path, precision="fp32")
    xray = tmp_path / "pa.npy"
    np.save(xray, orbit_of(prior, 0, (270.0,))[0].numpy())
    start = ["project", "--run", str(path), "--xray", str(xray), "--samples", "1"]
    latents, names = [], []
    for words in ([], ["--precision", "fp32"]):
        out = tmp_path / f"out{len(names)}"
        assert cli.main([*start, "--device", "cpu", "--out", str(out), *words]) == 0
        metrics = json.loads((out / "metrics.json").read_text())
        names.append(metrics["provenance"]["precision"])
        latents.append(files.load_tensors(out / "latent.safetensors")[0]["w"])
    assert names == ["bf16", "fp32"] and not torch.equal(*latents)


def test_evaluate_says_its_precision_and_can_be_told(tiny_set, tmp_path, stopwatch, quick):
    stopwatch(**FP32_WINS)
    run = trained(tiny_set, tmp_path / "runs", "steps=1")
    stopwatch(**BF16_WINS)
    found = [
        scoring.evaluate(run=str(run), limit=1, device="cpu", **options)
        for options in ({}, {"precision": "fp32"})
    ]
    assert [f["precision"] for f in found] == ["bf16", "fp32"]
    written = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert written["precision"] == "fp32"
    assert found[0]["psnr_db"] != found[1]["psnr_db"]
