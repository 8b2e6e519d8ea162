"""Where a picture has detail: edges, gradients, local spread, anchors of Expansive Supervision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError


def gray(image: Tensor) -> Tensor:
    """Luma (Rec. 601) of an image [H, W, C], C 1 or 3, rounded to 8 bits: [H, W] in [0, 1]."""
    image = image.float()
    if image.shape[-1] == 3:
        luma = image @ image.new_tensor([0.299, 0.587, 0.114])
    else:
        luma = image[..., 0]
    return luma.clamp(0, 1).mul(255).round() / 255


def per_view(images: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """An operator on gray pictures [H, W], applied to images [V, H, W, C]: [V, H, W].

    It is applied to one view at a time, to bound the memory.
    """
    return torch.stack([operator(gray(image)) for image in images])


def edge_maps(images: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """Edges of images [V, H, W, C] as masks [V, H, W]; a view without a single one is refused."""
    masks = per_view(images, operator)
    bare = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if bare:
        raise UserError(
            f"got view {bare[0]} without a single edge",
            "wanted edges to aim at in every view",
            "leave the view out, or choose the selector 'random'",
        )
    return masks


def ridges(picture: Tensor) -> np.ndarray:
    """Sobel magnitude [H, W] of 8-bit values where it is largest across its edge, 0 elsewhere.

    This is Canny's thinning without his smoothing.
    """
    from kornia.filters import canny

    thinned = canny(picture[None, None], 1e-3, 1e-2, kernel_size=(1, 1), hysteresis=False)[0]
    strength = thinned[0, 0].cpu().numpy() * 255
    return np.where(strength > 0.5, strength, 0.0)


def strongest_of_chain(strength: np.ndarray, low: float) -> np.ndarray:
    """The largest strength of each pixel's chain [H, W]; 0 for pixels not above ``low``.

    A chain is what is 8-connected among the pixels above ``low``.
    """
    from scipy import ndimage

    chain, count = ndimage.label(strength > low, structure=np.ones((3, 3)))
    return np.append(0.0, ndimage.maximum(strength, chain, np.arange(1, count + 1)))[chain]


def canny_edges(picture: Tensor, *, low: float, high: float) -> Tensor:
    """Canny edges [H, W] of a gray picture, without smoothing.

    The thresholds are on the Sobel magnitude of 8-bit values, as OpenCV has them. Hysteresis by
    labelling chains: the same set as growing from the strong pixels, in one pass.
    """
    return torch.from_numpy(strongest_of_chain(ridges(picture), low) > high).to(picture.device)


def sobel_magnitude(picture: Tensor) -> Tensor:
    """|∇| of a gray picture [H, W], per pixel."""
    from kornia.filters import sobel

    return sobel(picture[None, None], eps=0.0)[0, 0]


def local_spread(picture: Tensor) -> Tensor:
    """Chances [H, W] of the context prior (Zhang et al., TIP 2023).

    They are the standard deviation of each 3×3 neighbourhood, at least a hundredth of its mean over
    the picture, and sum to 1, so that every view weighs the same.
    """
    from kornia.filters import box_blur

    x = picture[None, None].double()
    spread = (box_blur(x * x, (3, 3)) - box_blur(x, (3, 3)).square()).clamp_min(0).sqrt()[0, 0]
    spread = spread.clamp_min(float(spread.mean()) / 100) + 1e-6
    return spread / spread.sum()


def anchors(picture: Tensor, *, share: float) -> Tensor:
    """The anchors [H, W] of Expansive Supervision: dilated edges over a share of a picture.

    With Otsu's level A, edges rank by the strongest pixel of the 8-connected chain of pixels above
    A/2 that they belong to (what Canny's hysteresis keeps at a high threshold), then single pixels
    below A/2 by their own strength; the best are dilated by 2×2 until the share is reached. This
    finds at once the threshold the public code searches for in up to 100 trials, and drops the
    weakest surplus pixels where that drops random ones. A picture with fewer edges has fewer
    anchors.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    strength = ridges(picture)
    kept = strongest_of_chain(strength, 255 * float(threshold_otsu(picture.cpu().numpy())) / 2)
    rank = np.where(kept > 0, kept, strength)
    rank, own = (ndimage.maximum_filter(values, size=2).ravel() for values in (rank, strength))
    best = np.lexsort((-own, -rank))[: round(share * rank.size)]
    mask = np.zeros(rank.size, bool)
    mask[best] = rank[best] > 0
    return torch.from_numpy(mask.reshape(picture.shape)).to(picture.device)
