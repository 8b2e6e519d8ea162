"""Options of scene fields that no recipe sets: each does what it promises."""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.fields.base import FIELDS

BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])  # its longest side is 2.5
HASH = {"name": "hash", "levels": 2, "log2_table": 6, "base": 2, "finest": 8}


@pytest.mark.parametrize(
    ("node", "option", "grids"),
    [
        ({"name": "hash", "encoding": HASH, "width": 8}, "network_rate", "encoding"),
        (
            {"name": "tensorf", "density_ranks": 2, "appearance_ranks": 2, "start_voxels": 5**3},
            "network_rate",
            "grid",
        ),
        (
            {"name": "nerf", "encoding": HASH, "width": 8, "depth": 2, "skip": 0},
            "grid_rate",
            "encoding",
        ),
        (
            {"name": "neus", "encoding": HASH, "width": 8, "depth": 2, "skip": 0, "head_depth": 1},
            "grid_rate",
            "encoding",
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_grids_and_networks_learn_at_their_own_rates(node, option, grids):
    """One of them at 1, the other as the option says."""
    field = FIELDS.build({**node, option: 0.3}, box=BOX, channels=3)
    rates = {id(p): group["rate"] for group in field.groups() for p in group["params"]}
    found = {True: set(), False: set()}
    for name, parameter in field.named_parameters():
        if "log" not in name and parameter.ndim:  # NeuS' sharpness is neither
            found[grids in name].add(rates[id(parameter)])
    assert found == (
        {True: {1.0}, False: {0.3}} if option == "network_rate" else {True: {0.3}, False: {1.0}}
    )


@pytest.mark.parametrize("scale", [25.0, 5.0])
def test_tensorfs_density_is_scaled_to_a_box_of_three(scale):
    """Of empty grids: softplus(shift) · scale · 3 / longest side."""
    field = FIELDS.build(
        {
            "name": "tensorf",
            "density_ranks": 2,
            "appearance_ranks": 2,
            "start_voxels": 5**3,
            "shift": -2.0,
            "density_scale": scale,
        },
        box=BOX,
        channels=3,
    )
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        found = field.density(BOX.mean(0)[None])
    assert found.item() == pytest.approx(math.log1p(math.exp(-2)) * scale * 3 / 2.5)
