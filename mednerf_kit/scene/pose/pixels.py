"""Which pixels of photographs a pose search compares, and the photographs under its blurs."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import max_pool2d

from ...core.errors import UserError
from .options import PoseSearch

CORNER_SHARE = 0.02  # of the strongest corner's response: what still counts as a corner
CORNER_FLOOR = 1e-4  # response of a corner that an eye can see, at contrast 1


def corners(images: Tensor, *, needed: bool = True) -> Tensor:
    """Interest points of images [V, H, W, C] as a mask, bool [V, H, W].

    They are where Shi and Tomasi's corner response is the largest of its 5×5 neighbourhood and
    above a share of the picture's best. An image without any is refused where they are
    ``needed``.
    """
    from kornia.feature import gftt_response

    found = torch.zeros(images.shape[:3], dtype=torch.bool)
    for v, gray in enumerate(images.float().mean(-1)):
        response = gftt_response(gray[None, None])
        best = float(response.max())
        if best < CORNER_FLOOR:
            if needed:
                raise UserError(
                    "got a photograph without a single corner",
                    "wanted interest points to compare",
                    "choose --pixels random, or another photograph",
                )
            continue
        peak = (response == max_pool2d(response, 5, stride=1, padding=2)) & (
            response > CORNER_SHARE * best
        )
        found[v] = peak[0, 0]
    return found


class PixelSets:
    """The pixels of each photograph that may be drawn at each stage, and its blurs."""

    def __init__(self, photos: Tensor, points: Tensor | None, search: PoseSearch) -> None:
        self.rays, self.cols = search.rays, photos.shape[2]
        sharp = photos.float()
        sigmas = [*sigmas_px(search.blur, self.cols), 0.0]
        self.photos = [blurred(sharp, sigma) for sigma in sigmas]
        self.spots: list[Tensor] = []
        self.first: list[Tensor] = []
        self.count: list[Tensor] = []
        for sigma in sigmas:
            allowed = torch.ones(sharp.shape[:3], dtype=torch.bool) if points is None else points
            if search.pixels == "region":
                allowed = dilated(allowed, search.kernel, search.iterations, 2 * round(sigma))
            flat = allowed.flatten(1)
            count = flat.sum(1)
            self.spots.append(flat.nonzero()[:, 1])
            self.first.append(count.cumsum(0) - count)
            self.count.append(count)

    def draw(self, stage: int, photo: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Pixels [P, R, 2] of photos ``photo`` [P] and their colours [P, R, C].

        One is drawn in each of R equal strata of a photo's allowed pixels in reading order.
        """
        u = (torch.arange(self.rays) + torch.rand(len(photo), self.rays, generator=rng)) / self.rays
        count = self.count[stage][photo][:, None]
        spot = self.spots[stage][
            self.first[stage][photo][:, None] + (u * count).long().minimum(count - 1)
        ]
        y, x = spot // self.cols, spot % self.cols
        return torch.stack([y, x], -1).float(), self.photos[stage][photo[:, None], y, x]


def dilated(points: Tensor, kernel: int, iterations: int, more_px: int = 0) -> Tensor:
    """A mask [V, H, W] grown ``iterations`` times by a square of ``kernel`` pixels.

    Once more it grows by ``more_px`` on each side.

    >>> dilated(torch.arange(7)[None, None] == 3, 3, 2).int().tolist()
    [[[0, 1, 1, 1, 1, 1, 0]]]
    """
    grown = points[:, None].float()
    for size in [kernel] * iterations + [2 * more_px + 1]:
        grown = max_pool2d(grown, size, stride=1, padding=size // 2)
    return grown[:, 0] > 0


def sigmas_px(blur: float, cols: int) -> list[float]:
    """A share of the picture's width in pixels, then halves of it while they are at least one.

    >>> sigmas_px(0.04, 100), sigmas_px(0.0, 100)
    ([4.0, 2.0, 1.0], [])
    """
    widest = blur * cols
    return [widest / 2**k for k in range(int(math.log2(widest)) + 1)] if widest >= 1 else []


def blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Images [V, H, W, C] under a Gaussian, borders repeated."""
    if sigma_px <= 0:
        return images
    from kornia.filters import gaussian_blur2d

    size = min(2 * math.ceil(3 * sigma_px) + 1, 2 * min(images.shape[1:3]) - 1)
    return gaussian_blur2d(
        images.movedim(-1, 1), (size, size), (sigma_px, sigma_px), "replicate"
    ).movedim(1, -1)
