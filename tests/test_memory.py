"""What memory cannot hold is said before it starts, with the option that makes it fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit.cli import main
from mednerf_kit.core import memory
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.cohort import make_cohort
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.prior import posed_setup
from mednerf_kit.prior.training_volumes import make_training_volumes

XRAY = Path(__file__).parents[1] / "data" / "samples" / "chest_20000_PA.png"
SMALL = 96 << 20  # what the pretended machine has


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: float(SMALL))


# what is asked for -> what the sentence names to make it fit
JOBS = {
    "drr --ct phantom:chest:0 --out OUT --size 160": "--size",
    "drr --ct phantom:chest:0 --out OUT --size 64 --views 9000": "fewer views",
    "drr --ct CT --out OUT --size 200 --supersample 8": "--supersample",
    "data make chest --patients 1 --out OUT --size 160": "--size",
    "data make ct --from CTS --out OUT --size 600": "--size",
    "data make ct --from CTS --out OUT --size 400 --jobs 3": "--jobs",
    "train --dataset chest --outdir OUT --set dataset.size=160": "dataset.size",
    "train --dataset SET --outdir OUT --set task.batch=4096": "task.accumulate",
    "train --dataset SET --outdir OUT --set dataset.variants=60000": "dataset.variants",
    "train --dataset SET --config chest_hypernerfgan --preset quick --outdir OUT "
    "--set levels.0.n=50000": "n of levels",
    "train --dataset SCENE --config tensorf --outdir OUT": "scene.downscale",
    "data check SCENE": "--downscale",
    "project --xray XRAY --run bundled:phantom-chest --out OUT --size 4000": "--size",
    "project --xray XRAY --run bundled:phantom-chest --out OUT --samples 9000": "--samples",
    "tomography --dataset SET --out OUT --size 300": "--size",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of two small phantoms, and a folder with a CT."""
    folder = tmp_path_factory.mktemp("made")
    found = make_cohort("chest", patients=2, out=folder / "chest", views=4, size=16)
    cts = folder / "cts"
    cts.mkdir()
    values = np.full((8, 8, 8), -1000, np.int16)
    for name in "abc":
        nibabel.save(nibabel.Nifti1Image(values, np.diag([30, 30, 30, 1.0])), cts / f"{name}.nii")
    scene = folder / "scene"
    scene.mkdir()
    Image.new("RGB", (3000, 3000)).save(scene / "0.png")
    frame = {"file_path": "0.png", "transform_matrix": np.eye(4).tolist()}
    lens = {"fl_x": 3000.0, "fl_y": 3000.0, "w": 3000, "h": 3000}
    (scene / "transforms.json").write_text(json.dumps({**lens, "frames": [frame] * 4}))
    return {"SET": found, "CTS": cts, "CT": cts / "a.nii", "XRAY": XRAY, "SCENE": scene}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_does_not_fit_is_refused_before_it_starts(
    job: str,
    made: dict[str, Path],
    small_machine: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "cache"))
    names = {**made, "OUT": tmp_path / "out"}
    words = [str(names.get(word, word)) for word in job.split()]
    assert main(words) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        sentence.startswith("Error: got ")
        and "of memory at least; wanted at most the 96 MiB" in sentence
    )
    assert JOBS[job] in sentence
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_scan_that_does_not_fit_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chest.nii"
    values = np.zeros((40, 50, 60), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4.0 * values.size - 1)
    words = ["drr", "--ct", str(path), "--size", "8", "--views", "1", "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "of 40×50×60 voxels, which takes 0 MiB" in capsys.readouterr().err


def test_pictures_that_are_there_need_no_second_room(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that takes more than half of the memory is trained on: only variants are new."""
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(posed_setup, "check_room", lambda what, *_: asked.append(what))
    train = f"train --dataset {made['SET']} --set steps=1 --set calibration_patients=0"
    assert main([*train.split(), "--preset", "quick", "--outdir", str(tmp_path / "runs")]) == 0
    assert [what.split()[1] for what in asked] == ["batch"]


def test_the_limit_of_the_process_counts() -> None:
    code = (
        "import resource\n"
        "from mednerf_kit.core.memory import available_bytes\n"
        "before = available_bytes()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "print(before > 0, 0 < available_bytes() < 2**30)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True"]


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\nfile 500000\n")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.available_bytes() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 600_000


def test_large_volumes_lie_in_a_file_and_are_the_same(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "cache"))
    orbits = load_orbits(made["SET"], split="all")
    plain = make_training_volumes(orbits, size=16, progress=False)
    monkeypatch.setattr(memory, "MAPPED_BYTES", 1)
    mapped = make_training_volumes(orbits, size=16, progress=False)
    assert torch.equal(mapped.volumes, plain.volumes)
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert str(tmp_path / "cache") in maps.read_text()
    assert not list((tmp_path / "cache").glob("tmp*"))  # it has no name any more


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="MEDNERF_KIT_CACHE"):
        memory.mapped_tensor((1024, 64, 64, 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_are_reduced_as_they_are_read(made: dict[str, Path]) -> None:
    whole, half = (load_orbits(made["SET"], split="all", size=size) for size in (None, 8))
    assert torch.equal(whole.resized(8).images, half.images)
    assert half.geometry == whole.geometry.resized(8)
    assert json.dumps(half.notes) == json.dumps(whole.notes)
