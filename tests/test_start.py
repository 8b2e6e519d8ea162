"""What a command imports: nothing heavy before it knows that it can work, and no more than that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mednerf_kit.prior.catalogue import BUNDLED

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "skimage", "matplotlib", "kornia")
#: Runs commands one after the other, and says after each which modules are there.
PROBE = """
import contextlib, io, json, sys
from mednerf_kit.cli import main
modules, commands = json.load(sys.stdin)
found = []
for words in commands:
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        code = main(words.split())
    found.append([code, [name for name in modules if name in sys.modules], said.getvalue()])
print(json.dumps(found))
"""


def imported(modules: Sequence[str], commands: Sequence[str], cwd: Path) -> list[list[Any]]:
    """Commands run in one process: after each its exit code, which of the modules have been
    imported so far, and what it said.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([modules, commands]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with files that are damaged."""
    home = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(home / "whole.png")
    scan = sitk.GetImageFromArray(rng.integers(-1000, 1000, (9, 9, 9), np.int16))
    for name in ("whole.mha", "whole.nii.gz"):
        sitk.WriteImage(scan, home / name)
    for name in ("whole.png", "whole.mha", "whole.nii.gz"):
        (home / name.replace("whole", "torn")).write_bytes((home / name).read_bytes()[:-60])
    (home / "words.txt").write_text("words")
    snapshot = (BUNDLED / "phantom-knee.safetensors").read_bytes()
    (home / "torn.safetensors").write_bytes(snapshot[: len(snapshot) // 2])
    return home


ANSWERED = ["--help", "project --help", "drr --help", "list", "list sampler", "list --json"]
REFUSED = [
    "project --xray none.png",
    "project --xray torn.png",
    "project --xray words.txt",
    "project --xray whole.png --run none",
    "project --xray whole.png --run torn.safetensors",
    "drr --out set --ct none.nii.gz",
    "drr --out set --ct torn.nii.gz",
    "drr --out set --ct torn.mha",
    "drr --out set --ct words.txt",
    "data make ct --from none --out set",
    "data import none --out set",
    "data geometry none set.json",
    "data depth --run none",
    "evaluate --run none",
    "evaluate --run torn.safetensors",
    "evaluate --dataset none",
    "render --run none",
    "render --latent none.safetensors",
    "render --latent torn.safetensors",
    "sample --run none",
    "score --run none",
    "score --dataset none",
    "pose --run none --image a.png",
    "tomography --dataset none --out set",
    "train --dataset none",
    "train --resume none",
]


def test_help_and_list_import_nothing_heavy(tmp_path):
    for words, (code, loaded, said) in zip(
        ANSWERED, imported((*HEAVY, "numpy"), ANSWERED, tmp_path), strict=True
    ):
        assert (code, loaded) == (0, []), words
        assert said


def test_what_cannot_be_used_is_refused_before_torch_is_imported(place):
    for words, (code, loaded, said) in zip(REFUSED, imported(HEAVY, REFUSED, place), strict=True):
        assert (code, loaded) == (2, []), words
        assert "Error: got" in said.splitlines()[-1], words


def test_a_drr_imports_what_it_computes_with_and_nothing_else(place):
    needless = ("matplotlib", "skimage", "kornia", "imageio", "sympy", "torch._dynamo")
    command = "drr --ct whole.mha --size 8 --views 2 --out set"
    ((code, loaded, said),) = imported((*needless, "torch"), [command], place)
    assert (code, loaded) == (0, ["torch"]), said
