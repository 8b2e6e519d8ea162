"""Scenes with one damaged file: read, or refused in a sentence, never anything else.

More of them: ``HOSTILE=1000 pytest tests/data/posed/test_hostile_scenes.py``.
"""

import json
import math
import os
import random
import shutil

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.scene import SCENES, load_scene

COUNT = int(os.environ.get("HOSTILE", "24"))  # for each format
WORDS = (None, "a", -1, 0, 1e308, math.nan, math.inf, [], {}, True, "../x", [1, 2], 1e-300, 2**70)
NUMBERS = ("nan", "inf", "-1", "0", "1e309", "", "x", "1e30", "2", "\n", "y" * 300)
MATRICES = (
    np.zeros((4, 4)),
    np.full((4, 4), np.nan),
    np.eye(3),
    np.zeros(0),
    np.array(1.0),
    np.eye(4) * 1e300,
    np.eye(4) * 1e-300,
    np.array(["a"]),
    np.eye(4, dtype=complex),
)


def places(value):
    """Every (container, key) inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for key, inner in items for place in ((value, key), *places(inner))]


def damage(path, rng):
    """Change words, numbers, arrays or bytes of a file."""
    if path.suffix == ".json" and rng.random() < 0.7:
        values = json.loads(path.read_text())
        where, key = rng.choice(places(values))
        where[key] = rng.choice(WORDS)
        path.write_text(json.dumps(values))
    elif path.suffix == ".txt" and rng.random() < 0.7:
        words = path.read_text().split(" ")
        words[rng.randrange(len(words))] = rng.choice(NUMBERS)
        path.write_text(" ".join(words))
    elif path.suffix == ".npz" and rng.random() < 0.7:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, rng.choice(list(arrays)): rng.choice(MATRICES)})
    else:
        content = bytearray(path.read_bytes())
        if rng.random() < 0.3:
            content = content[: rng.randrange(len(content))]
        for _ in range(rng.choice((1, 2, 8)) if content else 0):
            content[rng.randrange(len(content))] = rng.choice((0, 127, 128, 255))
        path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["blender", "colmap", "dtu", "llff", "nsvf"])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, tmp_path):
    rng = random.Random(sum(name.encode()))
    whole, work = SCENES[name].example(tmp_path / "whole"), tmp_path / "work"
    refused = 0
    for _ in range(COUNT):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        kinds = (".json", ".txt", ".npz", ".npy")
        files = sorted(path for path in work.rglob("*") if path.suffix in (*kinds, ".png"))
        meta = [path for path in files if path.suffix in kinds]
        damage(rng.choice(meta if rng.random() < 0.85 else files), rng)
        try:
            cameras = load_scene(work, format=name, split=rng.choice(("train", "all"))).cameras
        except UserError:
            refused += 1
            continue
        rays = cameras.rays(torch.tensor([0]), torch.tensor([[3.0, 4.0]]))
        for values in (rays.origin, rays.direction, rays.near, rays.far):
            assert bool(values.isfinite().all())
    assert refused > COUNT // 5
