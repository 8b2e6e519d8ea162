"""Scenes read from the disk: :func:`load_scene` finds a scene's format, reads and checks a split.

A format is a class registered in :data:`SCENES`, in a file of its own in this folder; its
keyword-only arguments are the options that a recipe's ``scene`` node may set.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ...core.config import Registry, checked
from ...core.errors import UserError, reader, unknown_name
from .backdrop import with_backdrop
from .bounds import as_box
from .check import Report, examine_scene
from .depth import depth_beside, has_scale
from .reading import Masks, Reading, ToneMap
from .types import SPLITS, Scene
from .world import in_own_frame, world_scale

SCORED = ("val", "test")
BACKGROUNDS = {"white": 1.0, "black": 0.0}


class Format(Protocol):
    """The contract of a scene format."""

    @property
    def recipe(self) -> str | None:
        """A class attribute: the recipe of a scene of this format where none is named.

        None leaves the choice to the dataset's name.
        """

    @staticmethod
    def detect(root: Path) -> bool:
        """Whether a folder, or the name of an embedded scene, is of this format."""

    @staticmethod
    def example(folder: Path) -> Path:
        """Write a toy scene of two views into a folder; returns its root."""

    def load(self, root: Path, split: str, reading: Reading) -> Scene:
        """Read a split, its pictures as ``reading`` says.

        Poses and box may be float64: they are brought to float32 by :func:`~.world.in_own_frame`.
        """


SCENES: Registry[Format] = Registry("scene format", home=__package__)


@reader("wanted a whole scene", "copy or export that file again")
def find_format(dataset: str | Path) -> str | None:
    """The format of a folder or of an embedded scene; None where no format recognises it."""
    root = Path(dataset).expanduser()
    found = [name for name, entry in sorted(SCENES.entries.items()) if entry.detect(root)]  # type: ignore[attr-defined]
    if len(found) > 1:
        raise UserError(
            f"got '{root}', which could be {' or '.join(found)}",
            "wanted one scene format",
            f"name it, as in --set scene.format={found[0]}, or in `data check` --format {found[0]}",
        )
    return found[0] if found else None


def format_recipe(dataset: str | Path, format: str | None = None) -> str | None:
    """The recipe that the format of a folder or of an embedded scene names, or None."""
    name = format or find_format(dataset)
    return None if name is None else SCENES[name].recipe  # type: ignore[attr-defined]


def detect_format(dataset: str | Path) -> str:
    """The format of a scene; raises UserError where no format recognises it."""
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


@reader("wanted a whole scene", "copy or export that file again")
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
    masks: Masks | None = None,
    tone_map: ToneMap | None = None,
    backdrop: bool = True,
    **options: Any,
) -> Scene:
    """Read one split of a scene: a folder, or ``blocks``, the embedded scene.

    Options:
        format: name of the scene's format; None recognises it.
        split: train, val, test or all.
        downscale: divides the sides of the pictures (area filter).
        background: what transparent pixels stand on; None is white for pictures with transparency.
        views: keeps that many of the training views, evenly chosen; other splits stay whole.
        near: distance at which rays begin, instead of the one of the files or of the poses.
        far: distance at which rays end, likewise.
        box: corners [[x, y, z], [x, y, z]] of what is fitted, likewise.
        clip: rays end at the box.
        depth: folder of the depth maps (:func:`~.depth.depth_beside`); None is the scene's own.
        masks: ``ignore``: masked pixels are neither supervised nor scored; ``background``: they are
            empty space; ``off``: mask files are not read. None is ``ignore`` for mask files and for
            holes in photographs, ``background`` for other transparency.
        tone_map: of pictures of linear light, cut at 1: ``srgb`` is sRGB's curve, ``none`` none.
            None is ``srgb`` for OpenEXR, ``none`` for TIFF of floating point.
        backdrop: opaque pictures before a wall of one grey level stand on that level, whatever the
            ``background``.
        options: those of the format, such as ``ndc`` of llff or ``patient`` of orbit.

    Where val and test views come with depth of their own it stays, since scores are measured
    against it. Raises UserError for an unknown format, split or option, for missing or damaged
    files, counts or sizes that differ, a split without views, poses that are no rotations, and
    near ≥ far.
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
        "masks": masks,
        "tone_map": tone_map,
        "backdrop": backdrop,
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
    scene = reader.load(root, split, Reading(downscale, chosen, views, masks, tone_map))
    scene = _within(scene, near, far, box, clip=clip)
    home = root if depth is None else Path(depth).expanduser()
    has_true_depth = scene.depth is not None and split in SCORED
    if home.is_dir() and not has_true_depth:
        scene = _with_depth_beside(scene, home, split)
    scene = with_backdrop(scene) if backdrop else scene
    return replace(scene, notes=(*scene.notes, *examine_scene(scene).warnings))


def _within(
    scene: Scene,
    near: float | None,
    far: float | None,
    box: Sequence[Sequence[float]] | None,
    *,
    clip: bool,
) -> Scene:
    """The scene in its own frame, between the near, far and box that are given or its own."""
    if None not in (near, far, box):  # what the format guessed of them is not used
        known = tuple(note for note in scene.notes if not note.startswith("near, far, box: "))
        scene = replace(scene, notes=known)
    scene = in_own_frame(scene if box is None else replace(scene, box=as_box(box)))
    cameras = replace(
        scene.cameras,
        near=scene.cameras.near if near is None else near,
        far=scene.cameras.far if far is None else far,
        box=scene.box if clip else None,
    )
    return replace(scene, cameras=cameras)


def _with_depth_beside(scene: Scene, home: Path, split: str) -> Scene:
    """The scene with the depth maps that lie in a folder, if any do."""
    # depth that the format's files name needs no scale beside it; COLMAP's points are no pictures
    if scene.depth is not None and scene.confidence is None and not has_scale(home, split):
        return scene
    found = depth_beside(
        home,
        split,
        scene.stems,
        scene.cameras,
        shared=scene.shared,
        length=world_scale(scene.to_world),
    )
    if found is None:
        unread = home / "depths"
        note = f"the pictures in '{unread}' are not read: without depth.json their unit is unknown"
        return replace(scene, notes=(*scene.notes, note)) if unread.is_dir() else scene
    notes = (*scene.notes, *found.notes)
    return replace(scene, depth=found.depth, confidence=found.confidence, notes=notes)


def preflight_report(scene: Scene) -> Report:
    """What the pre-flight check says of a scene that was read: facts, then warnings."""
    found = examine_scene(scene)
    return Report(found.facts, tuple(dict.fromkeys((*scene.notes, *found.warnings))))
