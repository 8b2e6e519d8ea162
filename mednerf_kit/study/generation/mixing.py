"""Style mixing (Karras et al. 2019, section 3.1): one network from the layers of two patients."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator

from ...fields.hyper import MlpWeights
from ...imaging.geometry import FRONTAL_DEG
from ...prior.load import Prior
from ...viz import figures, video
from .random_patients import baked_views, drawn_codes, enlarged

# pairs in the sheet; views of the clip, and its voxels along a side
PAIRS, FRAMES, GRID = 3, 36, 56


def crossed(a: MlpWeights, b: MlpWeights, k: int) -> MlpWeights:
    """The layers before ``k`` of scene a, the rest of scene b, standing where a stands.

    Every layer is made from the style alone, so that this is the generator with a's style below
    layer k and b's from there on.
    """
    return MlpWeights(a.layers[:k] + b.layers[k:], a.pose, a.gain)


def write_mixing(folder: Path, prior: Prior, *, seed: int, truncation: float = 1.0) -> None:
    """Write ``mixing.png``, a row for each pair of patients A and B, and ``mixing.gif``.

    Along a row a layer more is B's at each step. The clip turns the first row.
    """
    codes = list(
        drawn_codes(prior, 2 * PAIRS, Generator().manual_seed(seed), truncation=truncation)
    )
    layers = len(codes[0].layers)
    steps = range(layers, -1, -1)
    labels = ["A", *(f"A<{k}" for k in steps[1:-1]), "B's style"]
    rows = [
        baked_views(prior, crossed(a, b, k), [FRONTAL_DEG])[0].cpu()
        for a, b in zip(codes[::2], codes[1::2], strict=True)
        for k in steps
    ]
    figures.write_png8(
        folder / "mixing.png",
        figures.strip(enlarged(torch.stack(rows)), layers + 1, labels * PAIRS),
    )
    angles = [360.0 * k / FRAMES for k in range(FRAMES)]
    turning = [
        baked_views(prior, crossed(codes[0], codes[1], k), angles, size=GRID).cpu() for k in steps
    ]
    video.write_gif(folder / "mixing.gif", torch.cat(turning, -1))
