"""From the stored values of a DICOM radiograph to grey values with a meaning.

The order is the standard's: stored values, modality LUT or rescale, VOI LUT or window. Every step
depends on the stored value alone, so that the chain is a table over all values a pixel can hold.

What the values mean is said by Pixel Intensity Relationship for a film as detected, and lost in one
FOR PRESENTATION. Of a film as detected the stored values are taken, for the relationship is theirs.
Of a film for display the VOI table or window is applied, which is the maker's tone curve, unless it
turns much of the picture black or white, which no later step can undo.
Photometric Interpretation is not applied but answered as polarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...imaging.dicom_header import Header
from .dicom_header import damaged
from .stored import GreyKind

DX_INTENT = {  # by storage class
    "1.2.840.10008.5.1.4.1.1.1.1": "FOR PRESENTATION",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "FOR PROCESSING",
}
FLUOROSCOPY = ("XA", "RF")  # shown with dark bones or with bright ones, the file does not say which
MOST_CLIPPED = 0.2  # of the exposed pixels, by a linear window
MOST_CURVED = 0.5  # the same by a VOI table or a sigmoid, which may leave air no shades
CLIPPED = 1 / 512  # of the grey range: half a level of 8 bits from its end
AIR_OFFSET = 0.05  # of the range: below, the least attenuated pixels count as 0


@dataclass(frozen=True)
class Grey:
    """Grey values and what they mean; the fields are those of ``StoredFilm``."""

    pixels: np.ndarray  # [H, W]
    full_scale: float
    bits: int
    kind: GreyKind
    bone_dark: bool | None
    notes: tuple[str, ...]


def grey_values(
    path: Path, header: Header, pixels: np.ndarray, bits: int, exposed: np.ndarray | None
) -> Grey:
    """The grey values of stored ``pixels`` [H, W] integers of so many ``bits``.

    Percentiles are taken over the pixels in ``exposed`` [H, W] bool, None for all.
    Raises UserError for a table or slope that makes no picture.
    """
    signed = pixels.dtype.kind == "i"
    lowest = -(2 ** (bits - 1)) if signed else 0
    # a signed value counts from the lowest one
    codes = (pixels.astype(np.int32) - lowest if signed else pixels).astype(np.uint16)
    kind, notes = _kind(header)
    stored = np.arange(2**bits, dtype=np.float64) + lowest
    count = _counted(codes if exposed is None else codes[exposed], 2**bits)
    values, step = _modality(path, header, stored, linear_only=kind != "display")
    bone_dark, said = _polarity(header, kind, falling=bool(values[-1] < values[0]))
    notes += step + said
    if kind == "display":
        table, said = _voi(path, header, values, count)
    elif kind == "line-integral":
        table, said = _without_air(values, count, bool(bone_dark))
    else:  # 0 is no intensity, and stays 0
        table, said = None, []
        values = values if values is stored else values.clip(0)
    notes += said
    if table is None and values is not stored:
        table = _unit(values)
    if table is None:
        scale, shown = 2**bits - 1, codes.astype(np.uint8) if bits <= 8 else codes
    else:
        scale, shown = 65535, (table * 65535).round().astype(np.uint16)[codes]
    return Grey(shown, float(scale), bits, kind, bone_dark, tuple(notes))


def _counted(codes: np.ndarray, values: int) -> np.ndarray:
    """How many of ``codes`` hold each of so many values: [values]."""
    flat, step = codes.ravel(), 2**20  # a piece at a time, for numpy counts in 64-bit copies
    count = np.zeros(values, dtype=np.int64)
    for start in range(0, flat.size, step):
        count += np.bincount(flat[start : start + step], minlength=values)
    return count


def _kind(header: Header) -> tuple[GreyKind, list[str]]:
    """What the values mean."""
    relation = header.word("PixelIntensityRelationship")
    intent = header.word("PresentationIntentType")
    by_class = DX_INTENT.get(header.word("SOPClassUID"), intent)
    intent = intent if intent in DX_INTENT.values() else by_class
    if intent == "FOR PRESENTATION":
        note = "the file is FOR PRESENTATION, so its tone curve is taken as unknown"
        if by_class != intent:
            note += f", although its class is {by_class}"
        if relation in ("LIN", "LOG"):
            note += f", although its Pixel Intensity Relationship is {relation}"
        return "display", [note]
    if relation == "LIN":
        return "transmission", [
            "Pixel Intensity Relationship LIN: read as proportional to the X-ray intensity"
        ]
    if relation == "LOG":
        return "line-integral", [
            "Pixel Intensity Relationship LOG: read as linear in the line integral"
        ]
    if relation == "DISP":
        return "display", ["Pixel Intensity Relationship DISP: the tone curve is unknown"]
    said = "the Pixel Intensity Relationship is none of LIN, LOG and DISP"
    if not relation:
        said = "no Pixel Intensity Relationship is given"
    return "display", [f"{said}: the tone curve is taken as unknown"]


def _polarity(header: Header, kind: GreyKind, *, falling: bool) -> tuple[bool | None, list[str]]:
    """Whether bone is dark; ``falling`` where the modality's step turns the stored values over."""
    photometric = header.word("PhotometricInterpretation")
    by_photometric = photometric == "MONOCHROME1"
    sign = header.whole("PixelIntensityRelationshipSign")
    shape = header.word("PresentationLUTShape")
    fluoroscopy = header.word("Modality") in FLUOROSCOPY
    notes = []
    if (shape == "INVERSE" and not by_photometric) or (shape == "IDENTITY" and by_photometric):
        notes.append(f"Presentation LUT Shape {shape} contradicts {photometric}, which is believed")
    if kind == "display":
        if sign in (1, -1) and ((sign == 1) != falling) != by_photometric and not fluoroscopy:
            notes.append(
                f"Pixel Intensity Relationship Sign {sign:+d} contradicts {photometric}, which is "
                "believed"
            )
        if fluoroscopy and not by_photometric:
            return None, [*notes, "fluoroscopy is shown with dark or with bright bones: not said"]
        return by_photometric, [
            *notes,
            f"{photometric}: bone is {'dark' if by_photometric else 'bright'} as stored",
        ]
    if sign in (1, -1):
        rises = sign == 1
        notes.append(
            f"Pixel Intensity Relationship Sign {sign:+d}: values "
            f"{'rise' if rises else 'fall'} with the X-ray intensity"
        )
    else:
        # what is proportional to the intensity rises with it
        rises = fluoroscopy or by_photometric or kind == "transmission"
        notes.append(
            "without Pixel Intensity Relationship Sign values are assumed to "
            f"{'rise' if rises else 'fall'} with the X-ray intensity"
        )
    return rises != falling, notes


def _modality(
    path: Path, header: Header, stored: np.ndarray, *, linear_only: bool
) -> tuple[np.ndarray, list[str]]:
    """The modality's values [N] of the stored ones, and a note if they differ."""
    tables = header.items("ModalityLUTSequence")
    if tables and linear_only:
        return stored, [
            "the modality LUT is left out, for the relationship describes the stored values"
        ]
    if tables:
        table = look_up_table(path, tables[0], stored)
        return table, ["the modality LUT is applied"]
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope is None and header.has("RescaleSlope") or slope == 0:
        raise damaged(path, "its Rescale Slope is 0 or no number")
    slope, intercept = slope or 1.0, intercept or 0.0
    if (slope, intercept) == (1, 0):
        return stored, []
    if not max(abs(slope), abs(intercept), 1 / abs(slope)) < 1e7:  # nor a date
        raise damaged(path, "its Rescale Slope or Intercept is beyond any sense")
    return slope * stored + intercept, [f"rescaled by {slope:g} · v + {intercept:g}"]


def _unit(values: np.ndarray) -> np.ndarray:
    """Values [N] over the range that all stored values reach, which starts at 0 or below."""
    low = min(float(values.min()), 0.0)
    return (values - low) / max(float(values.max()) - low, 1e-12)


def _voi(
    path: Path, header: Header, values: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray | None, list[str]]:
    """The VOI table [N] in [0, 1], or None where values are taken as they are before it.

    ``count`` [N] exposed pixels hold ``values`` [N].
    """
    tables = header.items("VOILUTSequence")
    centres, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    if tables:
        table = _unit(look_up_table(path, tables[0], values))
        name, done, most = "the VOI LUT", "", MOST_CURVED
    elif centres and widths:
        centre, width = centres[0], widths[0]
        function = header.word("VOILUTFunction") or "LINEAR"
        if function not in WINDOWS or not width >= (1 if function == "LINEAR" else 1e-9):
            return None, ["the window has no width or an unknown function and is left out"]
        table = WINDOWS[function](values, centre, width)
        name = f"the {function.lower().replace('_', ' ')} window"
        done = f" {centre:g} ± {width / 2:g}"
        most = MOST_CURVED if function == "SIGMOID" else MOST_CLIPPED
    else:
        return None, []
    # a table's own ends are its black and white
    black, white = (table.min(), table.max()) if tables else (0, 1)
    outside = (table < black + CLIPPED) | (table > white - CLIPPED)
    share = float(count[outside].sum() / count.sum())
    if share > most:
        return None, [
            f"{name} would turn {share:.0%} of the picture black or white and is left out"
        ]
    return table.clip(0, 1), [f"{name}{done} is applied"]


def _linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _linear_exact(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return (values - centre) / width + 0.5


def _sigmoid(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-500, 500)))


#: VOI LUT Function -> values, centre, width -> grey in [0, 1] before clipping (PS3.3 C.11.2.1.3).
WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def look_up_table(path: Path, item: Header, values: np.ndarray) -> np.ndarray:
    """Values [N] through the table of one LUT item (PS3.3 C.11.1.1).

    The descriptor holds the number of entries (0 for 65,536), the first value mapped, and the bits
    of an entry; values beyond the table take its first or last entry.
    Raises UserError for a table whose data do not fit its descriptor.
    """
    descriptor = item.numbers("LUTDescriptor")
    data = item.integers("LUTData")
    if len(descriptor) != 3 or not len(data):
        raise damaged(path, "a look-up table without descriptor or data")
    entries, first, bits = (int(number) for number in descriptor)
    entries = entries % 65536 or 65536
    # whatever type the file gave it, the first value is signed where the mapped ones are so
    unsigned = first % 65536
    signed = (first + 32768) % 65536 - 32768
    reach = float(values.min()), float(values.max())
    first = max((signed, unsigned), key=lambda start: _overlap(start, entries, *reach))
    if len(data) < entries and 2 * len(data) >= entries and bits == 8:
        data = data.astype("<u2").view(np.uint8)  # two entries a word
    if not 8 <= bits <= 16 or len(data) < entries:
        raise damaged(path, "a look-up table whose data do not fit its descriptor")
    table = data[:entries].astype(np.float64)
    if table.min() == table.max():
        raise damaged(path, "a look-up table that makes all values alike")
    return table[(values.round() - first).clip(0, entries - 1).astype(np.int64)]


def _overlap(first: int, entries: int, low: float, high: float) -> float:
    """How far a table of entries from ``first`` on lies within values from ``low`` to ``high``."""
    return min(first + entries, high) - max(first, low)


def _without_air(
    values: np.ndarray, count: np.ndarray, bone_dark: bool
) -> tuple[np.ndarray | None, list[str]]:
    """Logarithmic values with the least attenuated pixels at the end that means 0.

    The zero of a logarithm is arbitrary: where the 0.5th percentile lies away from the end of the
    range it is taken for air.
    """
    unit = _unit(values)
    order = slice(None, None, 1 if unit[-1] > unit[0] else -1)  # a slope below 0 turns them over
    share = count[order].cumsum() / count.sum()
    air = float(unit[order][np.searchsorted(share, 0.995 if bone_dark else 0.005)])
    offset = 1 - air if bone_dark else air
    if offset < AIR_OFFSET:
        return None, []
    shifted = unit + offset if bone_dark else unit - offset
    return shifted.clip(0, 1), [
        f"the least attenuated pixels, {offset:.0%} from the end of the range, are taken for air"
    ]
