"""Small fields of every kind, and points and rays to try them at."""

from __future__ import annotations

import torch

from mednerf_kit.fields.base import FIELDS, SceneField

BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])
SMALL_HASH = {"name": "hash", "levels": 3, "log2_table": 8, "base": 2, "finest": 16}
SMALL_TENSORF = {
    "density_ranks": 3,
    "appearance_ranks": 4,
    "start_voxels": 12**3,
    "end_voxels": 20**3,
    "head_width": 16,
}
SMALL = {
    "nerf": {"depth": 4, "width": 24, "skip": 2, "octaves": 4},
    "hash": {"encoding": SMALL_HASH, "width": 16},
    "tensorf": SMALL_TENSORF,
    "neus": {"depth": 3, "width": 24, "skip": 2, "octaves": 3, "head_depth": 1, "scatter": 16},
    "voxels": {"start_voxels": 6**3, "end_voxels": 10**3},
}
FIELD_NODES = [
    *({"name": name, **options} for name, options in SMALL.items()),
    {
        "name": "nerf",
        **SMALL["nerf"],
        "positional": False,
        "view_directions": False,
        "activation": "softplus",
        "noise": 1.0,
    },
    {
        "name": "nerf",
        **SMALL["nerf"],
        "encoding": [{"name": "frequency", "octaves": 2}, SMALL_HASH],
    },
    {
        "name": "hash",
        "encoding": {"name": "planes", "resolution": 8},
        "activation": "softplus",
        "view_encoding": "frequency",
        "view_degree": 2,
    },
    {"name": "tensorf", **SMALL_TENSORF, "factorisation": "cp", "view_encoding": "none"},
    {
        "name": "tensorf",
        **SMALL_TENSORF,
        "density_ranks": [4, 2, 1],
        "appearance_ranks": [3, 2, 1],
        "activation": "relu",
    },
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, seed: int = 1, *, reach: float = 1.0) -> torch.Tensor:
    """Points in the box, or beyond it with a larger reach."""
    middle, half = BOX.mean(0), (BOX[1] - BOX[0]) / 2
    return middle + reach * half * (2 * torch.rand(n, 3, generator=seeded(seed)) - 1)


def build(node: dict, channels: int = 3, seed: int = 0) -> SceneField:
    torch.manual_seed(seed)
    field = FIELDS.build(node, box=BOX, channels=channels)
    assert isinstance(field, SceneField)
    return field


def rays(n: int = 6, s: int = 8, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples [n, s, 3] of which some lie outside the box, directions and lengths of which a third
    are 0.
    """
    x = points(n * s, seed, reach=1.3).view(n, s, 3)
    d = torch.nn.functional.normalize(torch.randn(n, 1, 3, generator=seeded(seed + 1)), dim=-1)
    dt = 0.1 + 0.1 * torch.rand(n, s, generator=seeded(seed + 2))
    return x, d, dt * (torch.rand(n, s, generator=seeded(seed + 3)) > 1 / 3)


def names(node: dict) -> str:
    return node["name"] + "".join(
        f"-{v}" for v in node.values() if isinstance(v, str) and v != node["name"]
    )
