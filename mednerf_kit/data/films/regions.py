"""Which part of a film shows the patient: borders, collimator blades and letters are found.

Everything works on a picture [H, W] in [0, 1] in either polarity and answers with booleans [H, W].
Lengths are shares of the picture's shorter side.
"""

from __future__ import annotations

import numpy as np

#: The part of the pixels between which a film for display is stretched, in percent.
STRETCH_PERCENT = (0.5, 99.5)
# Blades and borders
DEEPEST = 0.4  # how far a blade reaches in at most, a share of the picture
TILTS_DEG = tuple(range(-8, 9, 2))
BLADE_PX = 192  # blades are looked for in a picture of this shorter side
STEP = 0.08  # of the grey range, across a blade's edge
FLAT = 0.12  # of the grey range: how much the covered part varies
SHARP = 0.6  # share of the difference that is reached in one step
STRAIGHT = 0.8  # share of the edge that must show the step
WRITTEN = 0.15  # share of a painted border under letters
SHOWN = 0.3  # share of the edge along which anything could show it
# Round fields
CORNER = 0.03  # side of what is looked at in each corner
ROUND = 0.015  # share of its radius within which a circle's outline lies
RAYS, LEAST_RAYS = 180, 20  # along which its edge is looked for, and that must cross it
# Letters
LETTER_PX = 512
STROKE = 0.03  # the widest stroke
CONTRAST, WEAK_CONTRAST = 0.3, 0.12  # of the grey range, in a stroke and at its rim
CRISP = 0.1  # typical steepness a pixel, of the contrast; a step has 0.4
TALLEST, SMALLEST = 0.14, 0.006  # a letter's larger side
RIM = 0.12  # letters begin this near to an edge of the field
MARGIN = 0.008
ACROSS = 0.02  # share of a letter on either side of the edge that it crosses


def stretched(values: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Values [H, W] in [0, 1] between the 0.5th and 99.5th percentiles of ``seen``, or of all.

    Where these are equal, as in a picture of two greys, the ends of the range take their place.
    """
    seen = values if seen is None else seen
    low, high = np.percentile(seen, STRETCH_PERCENT)
    for part in (seen, values):
        if high <= low:
            low, high = part.min(), part.max()
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def field(picture: np.ndarray) -> np.ndarray:
    """Where the beam came through: False under borders of one grey and under a collimator's blades.

    From each side a straight line, up to 8° from upright, is looked for that has a flat strip
    outside and a sudden step along it: along at least 30 % of it something must lie inside that
    differs from the strip, and 80 % of that must show the step. Round fields are found by
    :func:`round_field`.
    """
    small, factor = _smaller(picture, BLADE_PX)
    open_: np.ndarray = np.ones(picture.shape, bool)
    for quarters in range(4):
        turned: np.ndarray = np.rot90(open_, quarters)
        turned[:, : _painted(np.rot90(picture, quarters))] = False
        edge = _blade(np.rot90(small, quarters))
        if edge is not None:
            depth, slope = edge
            rows, cols = turned.shape
            along = np.arange(rows)[:, None] - (rows - 1) / 2
            # half a small pixel more, for the edge is blurred
            turned &= np.arange(cols) >= (depth + 1) * factor + slope * along
    circle = round_field(small)
    if circle is not None:
        y, x, radius = (factor * length for length in circle)
        rows, cols = np.ogrid[: picture.shape[0], : picture.shape[1]]
        inside = (rows + 0.5 - y) ** 2 + (cols + 0.5 - x) ** 2 <= (radius - factor) ** 2
        open_ &= inside
    return open_


def round_field(picture: np.ndarray) -> tuple[float, float, float] | None:
    """Centre (y, x) and radius in pixels of a round field, such as an image intensifier's.

    All four corners must be of one grey, what is not of it be bounded by a circle, and the step
    across that be as sudden as a straight blade's. None where there is no such circle.
    """
    from scipy import ndimage

    rows, cols = picture.shape
    n = max(2, round(CORNER * min(rows, cols)))
    corners = np.stack(
        [picture[y, x] for y in (slice(n), slice(-n, None)) for x in (slice(n), slice(-n, None))]
    )
    low, level, high = np.percentile(corners, (2, 50, 98))
    if high - low > FLAT:
        return None
    labels, _ = ndimage.label(abs(picture - level) <= STEP)
    outside = np.isin(labels, np.unique(labels[[0, 0, -1, -1], [0, -1, 0, -1]]))
    outline = _outline(~outside)
    circle = _circle(outline)
    if circle is None:
        return None
    y, x, radius = circle
    depth, reach = max(2, round(0.03 * radius)), max(1, round(0.012 * cols))
    turn = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)[:, None]
    # along each ray from outside inwards, as a blade lies from the left
    along = radius + depth - np.arange(2 * depth + 5 * reach)
    places = y - 0.5 + along * np.sin(turn), x - 0.5 + along * np.cos(turn)
    seen = (places[0] >= 0) & (places[0] <= rows - 1) & (places[1] >= 0) & (places[1] <= cols - 1)
    on_film = seen.all(1)
    polar = ndimage.map_coordinates(picture, [place[on_film] for place in places], order=1)
    if len(polar) < LEAST_RAYS or np.ptp(np.percentile(polar[:, : depth - 1], (10, 90))) > FLAT:
        return None
    return circle if _edge(polar, depth, level, reach) >= STRAIGHT else None


def _outline(inside: np.ndarray) -> np.ndarray:
    """The first and last places [N, 2] of what is inside, by row and by column, off the border."""
    found = []
    for turned, swap in ((inside, False), (inside.T, True)):
        rows = np.flatnonzero(turned.any(1))
        first = turned[rows].argmax(1)
        last = turned.shape[1] - 1 - turned[rows, ::-1].argmax(1)
        for at, edge, end in ((first, first, 0), (last, last + 1, turned.shape[1] - 1)):
            off_border = at != end
            pair = np.stack([rows + 0.5, edge], 1)[off_border]
            found.append(pair[:, ::-1] if swap else pair)
    return np.concatenate(found).astype(float)


def _circle(outline: np.ndarray) -> tuple[float, float, float] | None:
    """The circle (y, x, radius) on which STRAIGHT of an outline [N, 2] lies; None if none does.

    By least squares on y² + x² = 2 y y₀ + 2 x x₀ + c, twice without what lies off it.
    """
    kept = np.ones(len(outline), bool)
    for _ in range(3):
        if kept.sum() < 20:
            return None
        rows = np.column_stack([2 * outline[kept], np.ones(kept.sum())])
        (y, x, c), *_ = np.linalg.lstsq(rows, (outline[kept] ** 2).sum(1), rcond=None)
        radius = float(np.sqrt(max(c + y**2 + x**2, 1e-9)))
        kept = abs(np.hypot(*(outline - (y, x)).T) - radius) <= ROUND * radius + 0.5
    return (float(y), float(x), radius) if kept.mean() >= STRAIGHT else None


def _painted(picture: np.ndarray) -> int:
    """How many columns from the left are of one value, up to a step: a border that was painted.

    Letters may stand in it. Air of one value ends where the patient begins, which is no straight
    step.
    """
    cols = picture.shape[1]
    strip = picture[:, : int(DEEPEST * cols)]
    level = float(np.median(strip[:, 0]))
    same = (strip == level).mean(0) > 1 - WRITTEN
    depth = len(same) if same.all() else int(same.argmin())
    return depth if depth and _edge(picture, depth, level, 2) >= STRAIGHT else 0


def _edge(picture: np.ndarray, depth: int, level: float, reach: int) -> float:
    """The share of a straight edge behind ``depth`` columns of one level that shows its step.

    0 where too little of it can show one, or where the values rise as slowly as at the edge of a
    patient, where they follow the length of a chord. The step is that over ``reach`` pixels.
    """
    cols = picture.shape[1]
    outside, step, near, far = (
        abs(picture[:, min(depth + offset, cols - 1)] - level)
        for offset in (-1, reach, 2 * reach, 4 * reach)
    )
    differs, rise = near > STEP, step - outside
    if differs.mean() < SHOWN or rise[differs].mean() < SHARP * far[differs].mean():
        return 0.0
    return float((rise[differs] > 0.5 * near[differs]).mean())


def _blade(picture: np.ndarray) -> tuple[float, float] | None:
    """Depth in pixels and slope of the blade that comes in from the left, where there is one."""
    rows, cols = picture.shape
    deepest, reach = int(DEEPEST * cols), max(1, round(0.012 * cols))
    best = None
    for tilt in TILTS_DEG:
        slope = float(np.tan(np.deg2rad(tilt)))
        shift = slope * (np.arange(rows) - (rows - 1) / 2)
        columns = np.arange(cols)[None] + np.round(shift).astype(int)[:, None]
        sheared = np.take_along_axis(picture, columns.clip(0, cols - 1), 1)
        first = int(max(0, np.ceil(shift.max())))
        for depth in range(first + 1, deepest):
            strip = sheared[:, :depth]
            low, level, high = np.percentile(strip, (10, 50, 90))
            if high - low > FLAT:
                break
            share = _edge(sheared, depth, level, reach)
            if share >= STRAIGHT and (best is None or share + depth / cols > best[0]):
                best = share + depth / cols, depth, slope
    return None if best is None else best[1:]


def letters(picture: np.ndarray, open_: np.ndarray) -> np.ndarray:
    """Where letters and markers stand: thin, crisp, of one grey, and near the edge of the field.

    What is thinner than a stroke is what the grey opening removes; of that, pieces with the size of
    letters are kept whose contrast is strong, whose rims are steep, and which touch no edge.
    """
    from scipy import ndimage

    small, factor = _smaller(picture, LETTER_PX)
    inside = _shrunk(open_, factor, small.shape)
    side = min(small.shape)
    filled = np.where(inside, small, np.median(small[inside]) if inside.any() else 0)
    within = _from_edge(inside)
    found = np.zeros(small.shape, bool)
    for image in (filled, 1 - filled):
        labels, good = _strokes(image, side)
        nearest = ndimage.minimum(within, labels, good)
        found |= np.isin(labels, good[(nearest > 1) & (nearest < RIM * side)])
    if not inside.all():  # letters across the edge of a blade
        from_border = _from_edge(np.ones(small.shape, bool))
        for image in (small, 1 - small):
            labels, good = _strokes(image, side)
            share = ndimage.mean(inside, labels, good)
            crosses = (share > ACROSS) & (share < 1 - ACROSS)
            crosses &= ndimage.minimum(from_border, labels, good) > 1
            found |= np.isin(labels, good[crosses])
    if not found.any():
        return np.zeros(picture.shape, bool)
    margin = max(1, round(MARGIN * side))
    found = ndimage.binary_dilation(found, np.ones((3, 3)), margin)
    return _grown(ndimage.binary_fill_holes(found), factor, picture.shape)


def _from_edge(mask: np.ndarray) -> np.ndarray:
    """Steps from each pixel to the outside of a mask or of the picture."""
    from scipy import ndimage

    return ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]


def _strokes(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces brighter than what is around them, numbered [H, W], and the numbers of those that are
    thin, strong, crisp and of the size of letters in a picture of this shorter ``side``.
    """
    from scipy import ndimage

    stroke = max(3, round(STROKE * side)) | 1
    raised = image - ndimage.grey_opening(image, size=stroke)
    steep = ndimage.gaussian_gradient_magnitude(image, 1.0)
    labels, count = ndimage.label(raised > WEAK_CONTRAST, np.ones((3, 3)))
    index = np.arange(1, count + 1)
    if not count:
        return labels, index
    height = ndimage.maximum(raised, labels, index)
    steepness = ndimage.median(steep, labels, index)
    boxes = ndimage.find_objects(labels)
    size = np.array([max(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes])
    good = (
        (height > CONTRAST)
        & (steepness > CRISP * height)
        & (size <= TALLEST * side)
        & (size >= SMALLEST * side)
    )
    return labels, index[good]


def painted_over(values: np.ndarray, seen: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Values [H, W] that people can look at: letters in the grey beside them, the unseen black."""
    from scipy import ndimage

    if written.any() and seen.any():
        nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        values = np.where(written, values[tuple(nearest)], values)
    return np.where(seen | written, values, 0.0)


def _smaller(picture: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    factor = max(1, round(min(picture.shape) / side))
    rows, cols = (n // factor for n in picture.shape)
    inner = picture[: rows * factor, : cols * factor]
    return inner.reshape(rows, factor, cols, factor).mean((1, 3)), factor


def _shrunk(mask: np.ndarray, factor: int, shape: tuple[int, int]) -> np.ndarray:
    return mask[::factor, ::factor][: shape[0], : shape[1]]


def _grown(mask: np.ndarray, factor: int, shape: tuple[int, int]) -> np.ndarray:
    whole = np.kron(mask, np.ones((factor, factor), bool))
    short = [(0, n - m) for n, m in zip(shape, whole.shape, strict=True)]
    return np.pad(whole, short, mode="edge")
