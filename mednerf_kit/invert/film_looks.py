"""A film against known views, whatever its tone curve: which picture, which way up, which polarity.

Only the order of the grey values is compared (:func:`equalised`), which no increasing tone curve
changes and which a turned polarity reverses. A film is held in all sixteen :data:`POSES` against
four views (:data:`VIEWS`). Two models look at each pair: a :class:`ViewSpace`, the views of a
prior as a Gaussian in few dimensions, says in decibels how well the prior's own views explain it;
a :class:`FilmNet`, which also saw DRRs of CTs, says what it looks like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..core import files
from ..core.resampling import area_resized

SIDE_PX = 32
LEVELS = 128  # grey values that are told apart: finer ones are noise
MODEL_ERROR = 0.2  # of a real film's ranks: their variance beside any view of a prior
LEAST_SEEN = 0.25  # of a pixel's area that must be on the film
FILE = Path(__file__).with_name("film_checks.safetensors")

#: Body part and view: the frontal one as a PA film hangs, the lateral one facing image right.
VIEWS = (("chest", "frontal"), ("chest", "lateral"), ("knee", "frontal"), ("knee", "lateral"))


@dataclass(frozen=True)
class Pose:
    """How a film differs from the upright view with bone bright: mirrored first, then turned."""

    inverted: bool = False
    mirrored: bool = False
    quarters: int = 0  # turned counterclockwise, so many times 90°


POSES = tuple(Pose(i, m, q) for i in (False, True) for m in (False, True) for q in range(4))


def equalised(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks in [−1, 1] times weights, and the weights, both [B, S, S], of films [B, rows, cols].

    S is :data:`SIDE_PX`. A rank is the share of the film's area that is darker, counted from the
    middle; where ``mask`` is 0 the weight is, too. Films that are no squares are padded.

    >>> ranks, weights = equalised(torch.rand(1, 48, 48), torch.ones(1, 48, 48))
    >>> ranks.shape, bool(ranks.mean().abs() < 1e-5)
    (torch.Size([1, 32, 32]), True)
    """
    rows, cols = image.shape[-2:]
    side = max(rows, cols)
    left, top = (side - cols) // 2, (side - rows) // 2
    margins = (left, side - cols - left, top, side - rows - top)
    image, mask = nnf.pad(image * mask, margins), nnf.pad(mask.to(image), margins)
    weights = area_resized(mask, SIDE_PX, SIDE_PX)
    grey = area_resized(image, SIDE_PX, SIDE_PX) / weights.clamp_min(1e-3)
    weights = torch.where(weights > LEAST_SEEN, weights, 0.0)
    seen = weights > 0
    low = torch.where(seen, grey, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(seen, grey, -torch.inf).amax((1, 2), keepdim=True)
    level = ((grey - low) / (high - low).clamp_min(1e-6)).nan_to_num().clamp(0, 1)
    level = (level * (LEVELS - 1)).round().long().flatten(1)
    counts = torch.zeros(len(level), LEVELS).scatter_add_(1, level, weights.flatten(1))
    darker = counts.cumsum(1) - counts / 2
    ranks = 2 * (darker / counts.sum(1, keepdim=True).clamp_min(1e-6)).gather(1, level) - 1
    return ranks.view_as(weights) * weights, weights


def posed(ranks: Tensor, weights: Tensor) -> Tensor:
    """Films [B, S, S] with each of :data:`POSES` undone: [B, 16, 2, S, S], ranks and weights."""
    undone = []
    for pose in POSES:
        film = torch.stack([-ranks if pose.inverted else ranks, weights], 1)
        film = torch.rot90(film, -pose.quarters, (-2, -1))
        undone.append(film.flip(-1) if pose.mirrored else film)
    return torch.stack(undone, 1)


@dataclass(frozen=True)
class ViewSpace:
    """Equalised views x = mean + basisᵀ z + error, z ~ N(0, 1): principal components of views."""

    mean: Tensor  # [S, S]
    basis: Tensor  # [K, S, S], each as long as its standard deviation

    @classmethod
    def of(cls, views: Tensor, *, dimensions: int = 24) -> ViewSpace:
        """The space of views [N, rows, cols], bone bright, in any increasing scale."""
        ranks, _ = equalised(views, torch.ones_like(views))
        centred = (ranks - ranks.mean(0)).flatten(1)
        _, size, direction = torch.linalg.svd(centred, full_matrices=False)
        k = min(dimensions, len(views) - 1)
        basis = direction[:k] * size[:k, None] / math.sqrt(len(views) - 1)
        return cls(ranks.mean(0), basis.view(k, SIDE_PX, SIDE_PX))

    def explained_db(self, films: Tensor) -> Tensor:
        """How well the most probable view explains films [..., 2, S, S]: [...].

        z minimises the cost ‖W^½ (x − mean − basisᵀ z)‖² + e ‖z‖², e = :data:`MODEL_ERROR`: a view
        must resemble the film, and be one of the usual. The answer is the PSNR of the cost per
        pixel seen, with ranks in [0, 1].
        """
        ranks, weights = (films[..., k, :, :].flatten(-2).reshape(-1, SIDE_PX**2) for k in (0, 1))
        basis = self.basis.flatten(1)
        away = ranks / weights.clamp_min(1e-3) - self.mean.flatten()
        i, j = torch.triu_indices(len(basis), len(basis))
        gram = torch.empty(len(weights), len(basis), len(basis))
        gram[:, i, j] = gram[:, j, i] = weights @ (basis[i] * basis[j]).T
        gram = gram + MODEL_ERROR * torch.eye(len(basis))
        z = torch.linalg.solve(gram, (weights * away) @ basis.T)
        misfit = (weights * (away - z @ basis).square()).sum(1)
        cost = misfit + MODEL_ERROR * z.square().sum(1)
        mse = cost / (4 * weights.sum(1)).clamp_min(1e-6)
        return -10 * mse.clamp_min(1e-9).log10().view(films.shape[:-3])


class FilmNet(nn.Module):
    """A small convolutional network: how much a film looks like each of the views, or like none.

    Options:
        channels: of its three layers.
    """

    def __init__(self, channels: tuple[int, int, int] = (16, 32, 48)) -> None:
        super().__init__()
        widths = (2, *channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, channels, strict=False)
        )
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(channels[-1] * (SIDE_PX // 8) ** 2, len(VIEWS) + 1)

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of films [B, P, 2, S, S] in each pose and view [B, P, 4], and of none [B]."""
        x = films.flatten(0, 1)
        for layer in self.layers:
            x = nnf.max_pool2d(nnf.relu(layer(x)), 2)
        scores = self.out(self.dropout(x.flatten(1))).unflatten(0, films.shape[:2])
        return scores[..., :-1], scores[..., -1].mean(1)


@dataclass(frozen=True)
class Looks:
    """What a film looks like."""

    p: Tensor  # [16, 4] probability of each pose and view
    p_none: float  # of showing none of the views
    db: Tensor  # [16, 4] how well the priors' views explain it


class FilmClassifier(nn.Module):
    """Network and spaces: log P(pose, view) = score + weight · decibels + constant.

    The sum over poses, views and "none of them" is 1.
    """

    weight_per_db: Tensor  # []

    def __init__(self) -> None:
        super().__init__()
        self.net = FilmNet()
        # not learned, or the network, which knows its patients, would unlearn what the priors say
        self.register_buffer("weight_per_db", torch.tensor(1.0))
        self.none_db = nn.Parameter(torch.tensor(18.0))  # what "none" is worth in decibels

    def forward(self, films: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms, up to one constant, for films [B, P, 2, S, S] in P poses: [B, P, 4], [B].

        The last is that of "none of them"; ``db`` is [B, P, 4].
        """
        scores, none = self.net(films)
        return scores + self.weight_per_db * db, none + self.weight_per_db * self.none_db

    @torch.no_grad()
    def look(self, image: Tensor, mask: Tensor, spaces: tuple[ViewSpace, ...]) -> Looks:
        """Classify one film [rows, cols] by the spaces of :data:`VIEWS`."""
        films = posed(*equalised(image[None].float().cpu(), mask[None].float().cpu()))
        db = torch.stack([space.explained_db(films) for space in spaces], -1)
        known, none = self(films, db)
        p = torch.cat([known.flatten(), none]).softmax(0)
        return Looks(p[:-1].view(len(POSES), len(VIEWS)), float(p[-1]), db[0])


@dataclass(frozen=True)
class FilmKnowledge:
    """What is shipped: the classifier, and the views of the bundled priors."""

    classifier: FilmClassifier
    spaces: tuple[ViewSpace, ...]  # of VIEWS
    priors: dict[str, str]  # fingerprint -> body part


def save_knowledge(path: Path, knowledge: FilmKnowledge, notes: dict[str, object]) -> None:
    """Write everything in half precision, with ``notes`` on where it comes from."""
    tensors = {f"classifier.{k}": v.half() for k, v in knowledge.classifier.state_dict().items()}
    for k, space in enumerate(knowledge.spaces):
        tensors |= {f"space.{k}.mean": space.mean.half(), f"space.{k}.basis": space.basis.half()}
    files.save_tensors(path, tensors, {"priors": knowledge.priors, **notes})


@cache
def load_knowledge(path: Path = FILE) -> FilmKnowledge:
    """Read what :func:`save_knowledge` wrote."""
    tensors, meta = files.load_tensors(path)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    classifier = FilmClassifier()
    classifier.load_state_dict(
        {
            k.removeprefix("classifier."): v
            for k, v in tensors.items()
            if k.startswith("classifier.")
        }
    )
    spaces = tuple(
        ViewSpace(tensors[f"space.{k}.mean"], tensors[f"space.{k}.basis"])
        for k in range(len(VIEWS))
    )
    return FilmKnowledge(classifier.requires_grad_(False).eval(), spaces, meta["priors"])
