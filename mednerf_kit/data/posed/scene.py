"""A scene: posed pictures with what is known of the space they show. ``load_scene`` finds the
format and checks what it read.

A format is a class registered in :data:`SCENES`, in a file of its own; its keyword-only arguments
are its options.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ...core.config import Registry, checked
from ...core.errors import UserError, unknown_name
from ...imaging.cameras import Cameras
from .check import Report, examine
from .depth import depth_beside
from .pictures import Pictures

SPLITS = ("train", "val", "test", "all")
SCORED = ("val", "test")
BACKGROUNDS = {"white": 1.0, "black": 0.0}

T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """V posed pictures of one scene."""

    name: str
    format: str
    split: str
    stems: tuple[str, ...]  # one per view
    # [V, H, W, C] float16 in [0, 1], composited on ``background``; C is 3, or 1 for line integrals
    images: Tensor
    alpha: Tensor | None  # [V, H, W] coverage, where the pictures have it
    # [V, H, W] float32 distance along the ray of ``cameras.rays``, nan where unknown and in the
    # background
    depth: Tensor | None
    confidence: Tensor | None  # [V, H, W] in [0, 1], of ``depth``
    cameras: Cameras
    box: Tensor  # [2, 3] corners of what is to be fitted, in the space of the rays
    background: float  # 1 white, 0 black
    quantity: Literal["colour", "line_integral"] = "colour"
    # what only this format knows: see its docstring
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was assumed or looks wrong, a sentence each
    shared: frozenset[str] = frozenset()  # stems that views of other splits have too

    @classmethod
    def of_pictures(
        cls,
        root: Path,
        kind: str,
        split: str,
        stems: Sequence[str],
        pictures: Pictures,
        cameras: Cameras,
        box: Tensor,
        *,
        depth: Tensor | None = None,
        confidence: Tensor | None = None,
        facts: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
        shared: frozenset[str] = frozenset(),
    ) -> Scene:
        """A folder's coloured pictures in format ``kind``, seen by ``cameras`` of the size they
        were read at.
        """
        return cls(
            root.resolve().name,
            kind,
            split,
            tuple(stems),
            pictures.images,
            pictures.alpha,
            depth,
            confidence,
            cameras,
            box,
            pictures.background,
            facts=facts or {},
            notes=tuple(notes),
            shared=shared,
        )

    @property
    def count(self) -> int:
        """How many views."""
        return len(self.stems)

    def take(self, index: Sequence[int]) -> Scene:
        """The same scene with these views only, in this order."""
        chosen = torch.as_tensor(index, dtype=torch.long)

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[chosen]

        return replace(
            self,
            stems=tuple(self.stems[i] for i in chosen.tolist()),
            images=self.images[chosen],
            alpha=some(self.alpha),
            depth=some(self.depth),
            confidence=some(self.confidence),
            cameras=self.cameras.take(chosen),
        )


class Format(Protocol):
    """What a scene format promises."""

    @property
    def recipe(self) -> str | None:
        """A class attribute: the recipe of a scene of this format where none is named; None leaves
        it to the dataset's name.
        """

    @staticmethod
    def detect(root: Path) -> bool:
        """Whether a path, or the name of an embedded scene, is of this format."""

    @staticmethod
    def example(folder: Path) -> Path:
        """Write a toy set of two views; returns its root."""

    def load(
        self, root: Path, split: str, *, downscale: int, background: float | None, views: int | None
    ) -> Scene:
        """Read a split at 1/downscale, on this background (None: the format's own); ``views`` thins
        a training split out.
        """


SCENES: Registry[Format] = Registry("scene format", home=__package__)


class NoViews(UserError):
    """A split of a scene without views."""


def find_format(dataset: str | Path) -> str | None:
    """The format of a folder or of an embedded scene; None where no format knows it."""
    root = Path(dataset).expanduser()
    found = [name for name, entry in sorted(SCENES.entries.items()) if entry.detect(root)]  # type: ignore[attr-defined]
    if len(found) > 1:
        raise UserError(
            f"got '{root}', which could be {' or '.join(found)}",
            "wanted one scene format",
            f"name it, as in --set scene.format={found[0]}, or in `data check` --format {found[0]}",
        )
    return found[0] if found else None


def default_recipe(dataset: str | Path, format: str | None = None) -> str | None:
    """The recipe named by the format of a folder or of an embedded scene; None where there is no
    format, or it names none.
    """
    name = format or find_format(dataset)
    return None if name is None else SCENES[name].recipe  # type: ignore[attr-defined]


def detect_format(dataset: str | Path) -> str:
    """The format of a scene; a UserError where no format knows it."""
    name = find_format(dataset)
    if name is None:
        what = (
            "where no scene format was recognised"
            if Path(dataset).expanduser().is_dir()
            else "which is no folder"
        )
        raise UserError(
            f"got scene '{dataset}', {what}",
            f"wanted 'blocks' or one of the layouts {', '.join(sorted(SCENES.entries))}",
            "data/README.md shows how each lies on the disk; `mednerf-kit data get` downloads the "
            "known ones",
        )
    return name


def load_scene(
    dataset: str | Path,
    *,
    format: str | None = None,
    split: str = "train",
    downscale: int = 1,
    background: Literal["white", "black"] | None = None,
    views: int | None = None,
    near: float | None = None,
    far: float | None = None,
    box: Sequence[Sequence[float]] | None = None,
    clip: bool = True,
    depth: str | Path | None = None,
    **options: Any,
) -> Scene:
    """Read one split (train, val, test, all) of a scene: a folder, or ``blocks``, the embedded one.

    ``downscale`` divides the pictures' sides (area filter). ``background`` is what transparent
    pixels stand on (None: white for pictures with transparency). ``views`` keeps so many of the
    training views, evenly chosen; other splits stay whole. ``near``, ``far`` and ``box`` ([[x, y,
    z], [x, y, z]]) replace those of the files or of the poses; ``clip`` bounds rays by the box.
    ``options`` are those of the format, such as ``ndc`` of llff or ``patient`` of orbit. Depth that
    lies beside the scene (:func:`~.depth.depth_beside`), or in the folder ``depth``, is read too;
    where val and test come with depth of their own it stays, as what scores are measured against.

    Raises UserError for an unknown format, split or option, missing or damaged files, counts or
    sizes that differ, a split without views, poses that are none, near ≥ far.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    hints = typing.get_type_hints(load_scene)
    common = {
        "downscale": downscale,
        "background": background,
        "views": views,
        "near": near,
        "far": far,
        "clip": clip,
    }
    for key, value in common.items():
        checked(value, hints[key], where=f"scene option '{key}'")
    for what, number in (("downscale", downscale), ("views", views)):
        if number is not None and number < 1:
            raise UserError(
                f"got {what} {number}",
                "wanted a whole number from 1 on",
                "correct the recipe's scene node",
            )
    root = Path(dataset).expanduser()
    reader = SCENES.build({"name": format or detect_format(dataset), **options})
    chosen = None if background is None else BACKGROUNDS[background]
    scene = reader.load(root, split, downscale=downscale, background=chosen, views=views)
    home = root if depth is None else Path(depth).expanduser()
    broadcast_text = scene.depth is not None and split in SCORED
    found = (
        None
        if broadcast_text or not home.is_dir()
        else depth_beside(home, split, scene.stems, scene.cameras, shared=scene.shared)
    )
    if found is not None:
        scene = replace(
            scene,
            depth=found.depth,
            confidence=found.confidence,
            notes=(*scene.notes, *found.notes),
        )
    corners = scene.box if box is None else as_box(box)
    cameras = scene.cameras
    nearest, farthest = (
        (cameras.near if near is None else near),
        (cameras.far if far is None else far),
    )
    scene = replace(
        scene,
        box=corners,
        cameras=replace(cameras, near=nearest, far=farthest, box=corners if clip else None),
    )
    return replace(scene, notes=(*scene.notes, *examine(scene).warnings))


def report(scene: Scene) -> Report:
    """What the pre-flight check says of a scene that was read: facts, then warnings."""
    found = examine(scene)
    return Report(found.facts, tuple(dict.fromkeys((*scene.notes, *found.warnings))))


def as_box(corners: Sequence[Sequence[float]]) -> Tensor:
    """Two corners as a box [2, 3]."""
    try:
        box = torch.tensor(corners, dtype=torch.float32)
    except (TypeError, ValueError):
        box = torch.zeros(0)
    if box.shape != (2, 3) or not bool((box[0] < box[1]).all()):
        raise UserError(
            f"got box {corners}",
            "wanted [[x, y, z], [x, y, z]], the lower corner first",
            "correct the scene's box",
        )
    return box


def held_out(items: Sequence[T], split: str, hold: int) -> list[T]:
    """Every ``hold``-th item, from the first on, for val and test; the others for train.

    >>> held_out("abcdefghij", "test", 8), held_out("abc", "train", 8)
    (['a', 'i'], ['b', 'c'])
    """
    if split == "all":
        return list(items)
    apart = range(0, len(items), hold) if hold > 0 else range(0)
    return [item for i, item in enumerate(items) if (i in apart) != (split == "train")]


def chosen_views(items: Sequence[T], split: str, views: int | None, where: str | Path) -> list[T]:
    """The views of a split that are read: all, or for train ``views`` of them, evenly chosen.

    >>> chosen_views("abcdefgh", "train", 3, "x")
    ['a', 'c', 'f']
    """
    if not items:
        raise NoViews(
            f"got '{where}', whose {split} split has no views left",
            "wanted at least one",
            "choose another split, or hold fewer views out",
        )
    if views is None or split != "train":
        return list(items)
    if views > len(items):
        raise UserError(
            f"got views {views}",
            f"wanted at most the {len(items)} training views of '{where}'",
            "lower it",
        )
    return evenly(items, views)


def evenly(items: Sequence[T], n: int) -> list[T]:
    """``n`` of the items at equal steps, from the first on: of a closed orbit both ends would be
    neighbours.

    >>> evenly("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    return [items[i * len(items) // n] for i in range(n)]
