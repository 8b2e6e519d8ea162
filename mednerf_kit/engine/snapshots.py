"""Snapshots of a run: written, kept, read, and a task's parts as their named tensors and back.

A snapshot is one safetensors file whose metadata names everything needed to use it: recipe,
geometry, which patients it was trained on. A resumed run equals one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .. import DISCLAIMER, __version__
from ..core import files, former_names
from ..core.errors import UserError, reading
from .run_folder import (
    RunConfig,
    check_meta,
    config_record,
    find_folder,
    newest_of,
    snapshot_files,
    with_present_recipe,
)

#: Snapshots of a run that stay on disk.
KEPT = 3


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each named ``prefix.NAME``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`with_prefix` put under this prefix, by their own names.

    >>> both = with_prefix("a", {"w": torch.zeros(1)}) | with_prefix("b", {"w": torch.ones(1)})
    >>> strip_prefix("a", both)
    {'w': tensor([0.])}
    """
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter (Adam's moments, say), as
    ``PARAMETER.SLOT`` with the parameter's number.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward()
    >>> sgd.step()
    >>> optimiser_tensors(sgd)
    {'0.momentum_buffer': tensor([1., 1.])}
    """
    return {
        f"{i}.{slot}": torch.as_tensor(value)
        for i, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let an optimiser continue from :func:`optimiser_tensors`; its rates stay its own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, slot = key.partition(".")
        state.setdefault(int(i), {})[slot] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def seeded_generator(device: str | torch.device, seed: int, rank: int = 0) -> Generator:
    """A random generator on ``device``; its numbers differ from those of ``seed`` itself and from
    those of every other ``rank``.
    """
    return Generator(device=device).manual_seed(1000 * seed + 1 + rank)


def set_rng_state(rng: Generator, state: Tensor) -> None:
    """Continue a random generator from its saved state.

    The state of another kind of device cannot be continued; then the generator stays as it is.

    >>> rng = Generator().manual_seed(0)
    >>> set_rng_state(rng, torch.zeros(16, dtype=torch.uint8))  # a GPU's
    >>> rng.initial_seed()
    0
    """
    if len(state) == len(rng.get_state()):
        rng.set_state(state)


@torch.no_grad()
def ema_update(average: nn.Module, current: nn.Module, keep: float) -> None:
    """Move an exponential moving average of a module's parameters one step on.

    average ← keep·average + (1 − keep)·current; buffers are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
    for buffer, newest in zip(average.buffers(), current.buffers(), strict=True):
        buffer.copy_(newest)


def save_snapshot(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> Path:
    """Write ``snapshot-STEP.safetensors``; only the newest :data:`KEPT` stay."""
    path = folder / f"snapshot-{step:06d}.safetensors"
    whole = {**meta, "step": step, "version": __version__, "note": DISCLAIMER}
    files.save_tensors(path, tensors, whole)
    for old in snapshot_files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_snapshot(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of one snapshot file, tensors and recipe under the present
    names.

    A :class:`UserError` where the file is missing or damaged, or metadata are of another type.
    """
    tensors, meta = files.load_tensors(path)
    check_meta(path, meta)
    with reading(f"'{path}'", "wanted a snapshot", "use the snapshot before it"):
        return former_names.current_tensors(tensors), with_present_recipe(meta)


def read_snapshot(run: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The snapshot file that is named, or the newest readable one of a run folder, which is named
    by its path, its name or a unique beginning of it: path, tensors, metadata.
    """
    if str(run).endswith(".safetensors"):
        return Path(run), *load_snapshot(Path(run))
    return newest_readable(find_folder(run))[:3]


def newest_readable(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any], list[str]]:
    """The newest readable snapshot of a run: path, tensors, metadata, and a sentence for each
    damaged one passed over.
    """
    path, (tensors, meta), remarks = newest_of(folder, load_snapshot)
    return path, tensors, meta, remarks


def latest_matching(
    outdir: Path, run_config: RunConfig, say: Callable[[str], None] = lambda _: None
) -> Path | None:
    """The newest run folder of this configuration that has a readable snapshot; None where there is
    none. ``say`` gets a sentence for every damaged one passed over. What killed processes left of
    unfinished files is removed on the way.

    Configurations are compared under the present names, so a run that was started under former ones
    is found too.
    """
    for folder in sorted(outdir.glob("[0-9]" * 5 + "-*"), reverse=True):
        files.remove_strays(folder)
        path = folder / "config.yaml"
        if not path.is_file() or not snapshot_files(folder):
            continue
        try:
            if config_record(path) == run_config.to_dict():
                newest_readable(folder)
                return folder
        except UserError as error:
            say(f"passed over '{folder}': {error}")
    return None
