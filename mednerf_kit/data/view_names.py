"""Which picture of a folder is which view, by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.files import natural_key

COUNTED = re.compile(r"xray_(\d+)")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
#: How a minus, a plus and a decimal point are spelled in names, where file systems mind them.
SPELLINGS = (
    (re.compile(r"(?<=\d)[p,](?=\d)"), "."),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<![a-z])(?:minus|neg|m|n)[_ ]?(?=\d)", re.IGNORECASE), "-"),
    (re.compile(r"(?<![a-z])(?:plus|pos|p)[_ ]?(?=\d)|\+(?=\d)", re.IGNORECASE), ""),
)
MASKS = "(?:mask|seg|segmentation|label|roi|contour)s?"
MASK = re.compile(f"[_.-]{MASKS}$|^{MASKS}[_.-]", re.IGNORECASE)
MASK_FOLDER = re.compile(MASKS, re.IGNORECASE)
#: Degrees by which a number in a name may differ from a view's angle.
CLOSE_DEG = 0.01
COUNTING = (
    "the numbers in the names are the angles of geometry.json, and could count the pictures: each "
    "picture was given its angle"
)


def without_masks(pictures: Sequence[Path]) -> tuple[list[Path], str | None]:
    """The pictures that are no mask of another one beside them, and a note where there are some.

    >>> kept, note = without_masks([Path("a.png"), Path("a_mask.png"), Path("b_mask.png")])
    >>> [path.name for path in kept], note
    (['a.png', 'b_mask.png'], "masks beside the views were left out ('a_mask.png')")
    """
    stems = {path.stem for path in pictures}
    masks = [p for p in pictures if MASK.search(p.stem) and MASK.sub("", p.stem) in stems]
    if not masks:
        return list(pictures), None
    left_out = set(masks)
    note = f"masks beside the views were left out ('{masks[0].name}')"
    return [path for path in pictures if path not in left_out], note


def views_by_name(
    pictures: Sequence[Path], angles_deg: Sequence[float] = ()
) -> tuple[dict[int, Path], str | None]:
    """View number -> picture, and a note where the pairing is more than counting.

    Pictures named ``xray_KKK`` go by that number. Where every name holds one number that differs
    from picture to picture, signed decimals are understood: if they are the angles of the
    geometry in another order, each picture gets its angle; else they sort the pictures. Other
    names are sorted, 10 after 9. A minus may be spelled m or neg, a point p or comma.

    >>> names = [Path("v_10deg.png"), Path("v_-5deg.png"), Path("v_0.5deg.png")]
    >>> [path.name for _, path in sorted(views_by_name(names, [-5, 0.5, 10])[0].items())]
    ['v_-5deg.png', 'v_0.5deg.png', 'v_10deg.png']
    """
    counted = {int(m[1]): p for p in pictures if (m := COUNTED.fullmatch(p.stem))}
    if len(counted) == len(pictures):
        return counted, None
    for signed in (True, False):
        numbers = _numbers([path.stem for path in pictures], signed=signed)
        if numbers is None:
            continue
        views = _matched(numbers, angles_deg)
        if views is not None:
            note = COUNTING if _counts_otherwise(numbers, views) else None
            return dict(zip(views, pictures, strict=True)), note
    numbers = _numbers([path.stem for path in pictures], signed=_has_both_signs(pictures))
    if numbers is None:
        found = dict(enumerate(sorted(pictures, key=natural_key)))
        note = (
            f"the names do not differ in one number: pictures were taken in the order of their "
            f"names, '{found[0].name}' first"
        )
        return found, note if len(angles_deg) > 1 and len(pictures) > 1 else None
    order = np.argsort(numbers, kind="stable")
    found = {view: pictures[k] for view, k in enumerate(order)}
    steps = np.unique(np.diff(np.array(numbers)[order]).round(6))
    if not len(angles_deg) or steps.tolist() == [1.0]:
        return found, None
    return found, (
        f"the numbers in the names are not the angles of geometry.json: pictures were taken in "
        f"their order, '{found[0].name}' first"
    )


def _numbers(stems: Sequence[str], *, signed: bool) -> list[float] | None:
    """The number of each name that differs between names; None where not just one does."""
    pattern = re.compile(f"-?{NUMBER.pattern}") if signed else NUMBER
    for spelling, meant in SPELLINGS:
        stems = [spelling.sub(meant, stem) for stem in stems]
    rows = [pattern.findall(stem) for stem in stems]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    differ = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
    if len(differ) != 1 or len(set(map(float, differ[0]))) < len(stems):
        return None
    return [float(number) for number in differ[0]]


def _counts_otherwise(numbers: Sequence[float], views: Sequence[int]) -> bool:
    """Whether numbers that are angles, too, count the pictures in another order."""
    order = np.argsort(numbers)
    counts = np.array_equal(np.array(numbers)[order] - min(numbers), np.arange(len(numbers)))
    return counts and min(numbers) in (0, 1) and np.array(views)[order].tolist() != sorted(views)


def _has_both_signs(pictures: Sequence[Path]) -> bool:
    """Whether a minus stands before some numbers and not before others: it is no hyphen then."""
    numbers = _numbers([path.stem for path in pictures], signed=True)
    return numbers is not None and min(numbers) < 0 < max(numbers)


def _matched(numbers: Sequence[float], angles_deg: Sequence[float]) -> list[int] | None:
    """The view of each number, where the numbers are the angles in some order; else None."""
    if len(numbers) != len(angles_deg):
        return None
    for turn in (0.0, 360.0):
        ours, theirs = np.array(numbers), np.array(angles_deg, dtype=float)
        if turn:
            ours, theirs = ours % turn, theirs % turn
        by_ours, by_theirs = np.argsort(ours), np.argsort(theirs)
        if np.abs(ours[by_ours] - theirs[by_theirs]).max() <= CLOSE_DEG:
            views = np.empty(len(numbers), int)
            views[by_ours] = by_theirs
            return views.tolist()
    return None
