"""Lengths of a DICOM radiograph: pixels on the detector, distances of the source.

Distances on a film are measured on the detector (Imager Pixel Spacing) or on a plane in the patient
(a calibrated Pixel Spacing), which the magnification source–detector / source–patient relates.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...imaging.dicom_header import Header

SPACING_MM = (0.01, 5.0)  # what a radiograph's pixels can measure
DISTANCE_MM = (200.0, 6000.0)  # from the source
MAGNIFICATION = (1.0, 5.0)
ALIKE = 0.01  # relative
CALIBRATED = ("GEOMETRY", "FIDUCIAL")  # Pixel Spacing measured in the patient
MOST_STRETCHED = 4.0  # one side of a pixel against the other


@dataclass(frozen=True)
class Lengths:
    """Lengths in millimetres, None where the file does not say, and how they were found."""

    row_mm: float  # between rows on the detector, or any number where ``is_known`` is False
    col_mm: float
    is_known: bool
    source_detector_mm: float | None
    source_patient_mm: float | None
    notes: tuple[str, ...]


def film_lengths(header: Header) -> Lengths:
    """The lengths, by this order of tags.

    On the detector: Imager Pixel Spacing, then Nominal Scanned Pixel Spacing (the film that was
    digitised), then Pixel Spacing, multiplied by the magnification if it was calibrated in the
    patient. Where only Pixel Aspect Ratio is there pixels have a shape and no size.
    """
    detector, patient, magnification, notes = _distances(header)
    spacings = {}
    for keyword, name in (
        ("ImagerPixelSpacing", "Imager Pixel Spacing"),
        ("NominalScannedPixelSpacing", "Nominal Scanned Pixel Spacing"),
        ("PixelSpacing", "Pixel Spacing"),
    ):
        steps = header.numbers(keyword)
        if _is_spacing(steps):
            spacings[name] = (steps[0], steps[1])
        elif header.has(keyword):
            notes.append(f"{name} is no distance between pixels and is left out")
    if not spacings:
        row, col = _aspect(header)
        notes.append("no pixel spacing is given")
        return Lengths(row, col, False, detector, patient, tuple(notes))
    name, (row, col) = next(iter(spacings.items()))
    if name == "Pixel Spacing":
        row, col, said = _on_detector(header, row, col, magnification)
    else:
        said = f"{name} {_in_mm(row, col)} is taken, as measured on the detector"
        others = [other for other, steps in spacings.items() if not _alike(steps[0], row)]
        if others:
            said += f"; {' and '.join(others)} differ{'s' if len(others) == 1 else ''}"
            said += _explained(spacings, row, magnification)
    return Lengths(row, col, True, detector, patient, (*notes, said))


def _distances(header: Header) -> tuple[float | None, float | None, float | None, list[str]]:
    """Source–detector and source–patient distance, the magnification, and what was done."""
    notes: list[str] = []

    def within(keyword: str, name: str, limits: tuple[float, float]) -> float | None:
        number = header.number(keyword)
        if number is not None and limits[0] <= number <= limits[1]:
            return number
        if header.has(keyword) and number != 0:  # 0 is how many machines say nothing
            notes.append(f"{name} has no possible value and is left out")
        return None

    detector = within("DistanceSourceToDetector", "Distance Source to Detector", DISTANCE_MM)
    patient = within("DistanceSourceToPatient", "Distance Source to Patient", DISTANCE_MM)
    factor = within(
        "EstimatedRadiographicMagnificationFactor",
        "Estimated Radiographic Magnification Factor",
        MAGNIFICATION,
    )
    if detector and patient and patient >= detector:
        notes.append(
            f"Distance Source to Patient {patient:g} mm is not below Distance Source to Detector "
            f"{detector:g} mm and is left out"
        )
        patient = None
    if detector:
        notes.append(f"Distance Source to Detector {detector:g} mm is taken")
    if patient:
        notes.append(f"Distance Source to Patient {patient:g} mm is taken")
    if detector and patient and factor and not _alike(detector / patient, factor):
        notes.append(
            f"Estimated Radiographic Magnification Factor {factor:g} contradicts the distances, "
            f"whose ratio {detector / patient:.3g} is believed"
        )
        factor = None
    if detector and factor and not patient and factor > 1:
        patient = detector / factor
        notes.append(
            f"the source–patient distance {patient:.0f} mm follows from the Estimated Radiographic "
            f"Magnification Factor {factor:g}"
        )
    if detector and patient:
        factor = detector / patient
    return detector, patient, factor, notes


def _on_detector(
    header: Header, row: float, col: float, magnification: float | None
) -> tuple[float, float, str]:
    """Pixel Spacing brought to the detector, and the sentence that says so."""
    if header.word("PixelSpacingCalibrationType") not in CALIBRATED:
        return row, col, f"Pixel Spacing {_in_mm(row, col)} is assumed to be on the detector"
    if magnification is None:
        return (
            row,
            col,
            f"Pixel Spacing {_in_mm(row, col)} was calibrated in the patient and is taken for the "
            "detector's, for no magnification is given",
        )
    return (
        row * magnification,
        col * magnification,
        f"Pixel Spacing {_in_mm(row, col)} was calibrated in the patient and is multiplied by the "
        f"magnification {magnification:.3g}",
    )


def _explained(
    spacings: dict[str, tuple[float, float]], row: float, magnification: float | None
) -> str:
    """Whether a Pixel Spacing beside the detector's is the one in the patient."""
    if "Pixel Spacing" not in spacings or _alike(spacings["Pixel Spacing"][0], row):
        return ""
    ratio = row / spacings["Pixel Spacing"][0]
    if magnification and _alike(ratio, magnification):
        return f", by the magnification {magnification:.3g}"
    return f" (ratio {ratio:.3g})" + (
        f", and not by the magnification {magnification:.3g}" if magnification else ""
    )


def _is_spacing(steps: list[float]) -> bool:
    return (
        len(steps) == 2
        and all(SPACING_MM[0] <= step <= SPACING_MM[1] for step in steps)
        and max(steps) <= MOST_STRETCHED * min(steps)
    )


def _aspect(header: Header) -> tuple[float, float]:
    """The shape of a pixel (vertical, horizontal) where its size is unknown."""
    ratio = header.numbers("PixelAspectRatio")
    is_shape = len(ratio) == 2 and min(ratio) > 0 and max(ratio) <= MOST_STRETCHED * min(ratio)
    return (ratio[0], ratio[1]) if is_shape else (1.0, 1.0)


def _alike(a: float, b: float) -> bool:
    return abs(a - b) <= ALIKE * max(abs(a), abs(b))


def _in_mm(row: float, col: float) -> str:
    return f"{row:g} mm" if row == col else f"{row:g} × {col:g} mm"
