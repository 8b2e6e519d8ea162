"""Views, masks and the options that the tests of selectors go through."""

from __future__ import annotations

import inspect

import torch

from mednerf_kit.core.types import Pixels
from mednerf_kit.rays.selectors import drawing
from mednerf_kit.rays.selectors.base import SELECTORS, sample_bilinear

VIEWS, ROWS, COLS = 3, 20, 14
SHAPE = {"views": VIEWS, "rows": ROWS, "cols": COLS}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene() -> dict:
    """Views with edges and flat parts, and masks of their middle."""
    blocks = (
        torch.rand(VIEWS, 5, 7, 3, generator=seeded(9))
        .repeat_interleave(4, 1)
        .repeat_interleave(2, 2)
    )
    blocks[:, 12:] = 0.5
    masks = torch.zeros(VIEWS, ROWS, COLS)
    masks[:, 5:15, 3:9] = 1
    return {**SHAPE, "images": blocks, "masks": masks}


def build(name: str, facts: dict | None = None, **options):
    """A selector of 60 rays, or of a patch of 8×8."""
    known = inspect.signature(SELECTORS[name]).parameters
    size = {key: value for key, value in (("n", 60), ("size", 8), ("grid", 4)) if key in known}
    return SELECTORS.build({"name": name, **size, **options}, **(facts or scene()))


def truth() -> torch.Tensor:
    """A squared error at every pixel, larger to the lower right."""
    ramp = torch.linspace(0.1, 1, ROWS)[:, None] * torch.linspace(0.1, 1, COLS)
    return (ramp * torch.rand(VIEWS, ROWS, COLS, generator=seeded(3))).square()


def trained(
    selector, steps: int, rng: torch.Generator, until: float = 1.0
) -> list[tuple[Pixels, torch.Tensor]]:
    """Show a selector ``truth`` for so many steps; every batch with the weights the loss would
    use.
    """
    errors, seen = truth(), []
    for step in range(steps):
        selector.advance(until * step / steps)
        if selector.wants_full_error_every and step % selector.wants_full_error_every == 0:
            selector.observe_full(errors)
        pixels = selector.select(step, rng)
        error = sample_bilinear(errors, pixels)
        weight = selector.weigh(pixels, error)
        gradient = (
            torch.randn((len(error), 2), generator=rng) * error[:, None]
            if selector.wants_gradient
            else None
        )
        selector.observe(pixels, error, gradient)
        seen.append((pixels, weight))
    return seen


CORRECTED = ("egra", "context", "mask", "error_map", "imap", "quadtree")
EVERY = [(name, {}) for name in sorted(SELECTORS.entries) if name not in CORRECTED]


EVERY += [(name, {"correction": c}) for name in CORRECTED for c in (0.0, 0.5, 1.0)]


EVERY += [
    ("egra", {"shift": True}),
    ("error_map", {"refresh": "exact", "every": 20}),
    ("soft_mining", {"start": "edges"}),
    ("latin_hypercube", {"over": "view"}),
    ("expansive", {"scale": "add"}),
    ("expansive", {"scale": "plain"}),
    ("quadtree", {"correction": 1.0, "context_share": 0.0, "threshold": 0.3, "uniform_from": 1.0}),
]


def places(batches: list[tuple[Pixels, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([drawing.index_of(pixels, ROWS, COLS) for pixels, _ in batches])
