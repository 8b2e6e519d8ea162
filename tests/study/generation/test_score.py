"""The command `score`, with a stand-in for InceptionV3."""

import json

import pytest
import torch
from random_priors import LEVELS, seeded
from tiny import VIEWS, make_set
from tiny_prior import NODE, snapshot

from mednerf_kit import cli
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.study.generation import mixing
from mednerf_kit.study.generation import score as scoring


class StandIn:
    """A small stand-in for InceptionV3: a fixed random projection."""

    rule = "projected at random"

    def __call__(self, images):
        axes = torch.randn(images[0].numel(), 5, generator=seeded())
        return images.flatten(1) @ axes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A set on disk and a snapshot that says it was trained on its training patients; clips of two
    frames.
    """
    root = tmp_path_factory.mktemp("score")
    data = make_set(root / "chest-set")
    orbits = load_orbits(data, split="train")
    meta = {
        "recipe": {
            "generator": NODE,
            "dataset": {"size": 32},
            "levels": LEVELS,
            "task": {"name": "prior"},
        },
        "dataset": str(data),
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "FRAMES", 2)
        patch.setattr(mixing, "PAIRS", 1)
        yield snapshot(root / "run", geometry=orbits.geometry, **meta), data


QUICK = {"fakes": 12, "views": 4, "samples": 2}
WORDS = ["--fakes", "12", "--views", "4", "--samples", "2"]
KEYS = {
    "precision",
    "fid",
    "kid",
    "kid_std",
    "fid_note",
    "features",
    "swd",
    "swd_levels",
    "swd_n",
    "extractors",
    "floor",
    "memorisation",
    "diversity",
    "consistency",
    "n_fakes",
    "n_scenes",
    "views_per_scene",
    "n_reals",
    "n_patients",
    "dataset",
    "split",
    "seed",
    "truncation",
    "image_px",
    "seconds",
    "conventions",
    "note",
}


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """The score of that run with a stand-in for InceptionV3, and its folder."""
    folder = tmp_path_factory.mktemp("scored")
    return scoring.score(
        run=str(trained[0]),
        extractor={"inception": StandIn()},
        out=folder,
        sizes=scoring.Sizes(**QUICK),
    ), folder


def test_score_of_a_run_with_a_stand_in_for_inception(scored):
    found, folder = scored
    assert set(found) == KEYS
    assert json.loads((folder / "score.json").read_text()) == found
    assert (
        found["fid"] == found["features"]["inception"]["frechet"] > 0 and found["fid_note"] is None
    )
    assert found["kid"] == found["features"]["inception"]["kernel"] and found["kid_std"] >= 0
    assert found["features"]["inception"]["n"] == [4 * VIEWS, 12] and found["features"][
        "inception"
    ]["n_neighbours"] == [16, 12]
    assert found["n_reals"] == 4 * VIEWS and found["n_patients"] == 4 and found["n_scenes"] == 3
    assert found["floor"]["features"]["pyramid"]["n"] == [4 * VIEWS, 2 * VIEWS]
    assert len(found["memorisation"]["nearest"]) == 2 and found["memorisation"]["n_patients"] == 4
    assert found["memorisation"]["unseen_ratio"] > 0.3 and found["consistency"]["psnr_db"] > 30
    for name in ("reals_fakes.png", "memorisation.png", "mixing.png", "mixing.gif"):
        assert (folder / name).stat().st_size > 1000


def test_the_command_writes_plain_json_and_the_same_numbers(trained, scored, tmp_path, capsys):
    assert (
        cli.main(["score", "--run", str(trained[0]), *WORDS, "--out", str(tmp_path), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS and found["fid"] is None and "not on this disk" in found["fid_note"]
    for name in ("swd", "memorisation", "consistency", "diversity"):
        assert found[name] == scored[0][name], name
    assert found["features"]["pyramid"] == scored[0]["features"]["pyramid"]


def test_the_command_compares_with_other_patients_in_words(trained, scored, tmp_path, capsys):
    words = ["--dataset", str(trained[1]), "--split", "test", "--out", str(tmp_path)]
    assert cli.main(["score", "--run", str(trained[0]), *WORDS, *words]) == 0
    out = capsys.readouterr().out
    assert (
        "pyramid kernel" in out
        and "memorisation ratio_median" in out
        and "note: FID and KID were not computed" in out
    )
    found = json.loads((tmp_path / "score.json").read_text())
    assert (
        found["n_patients"] == 2
        and found["features"]["pyramid"] != scored[0]["features"]["pyramid"]
    )
    assert found["floor"]["features"]["pyramid"] == scored[0]["floor"]["features"]["pyramid"]
    assert found["memorisation"] == scored[0]["memorisation"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--extractor", "incepton"], "nearest|inception"),
        (["--weights", "nowhere.pth"], "which is no file"),
        (["--fakes", "2"], "8"),
    ],
)
def test_mistakes_are_told_before_any_work(trained, more, words, capsys):
    run, _ = trained
    assert cli.main(["score", "--run", str(run), *more]) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(line) == 1 and any(word in line[0] for word in words.split("|"))
