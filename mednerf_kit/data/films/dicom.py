"""DICOM radiographs: CR, DX, single frames of XA and RF, Secondary Capture.

:func:`read_dicom_film` turns one file into a :class:`StoredFilm`; its parts are ``dicom_header``
(the file), ``dicom_pixels`` (transfer syntaxes), ``dicom_grey`` (what values mean), ``dicom_mask``
(what is no patient), ``dicom_geometry`` (millimetres) and ``dicom_view`` (which way it hangs).
No text of a file reaches a note or an error, only numbers and terms of the standard.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...core.errors import UserError
from ...imaging.dicom_header import Header, quiet_pydicom
from .dicom_geometry import film_lengths
from .dicom_grey import grey_values
from .dicom_header import damaged, read_header
from .dicom_mask import padding, shutter_and_collimator
from .dicom_pixels import pixel_layout, stored_pixels
from .dicom_view import film_body_part, film_hanging
from .orientation import square_pixels, turned
from .stored import StoredFilm

STORAGE = "1.2.840.10008.5.1.4.1.1."
SECONDARY_CAPTURES = tuple(STORAGE + n for n in ("7", "7.2", "7.3"))
#: The captures of several frames, 7.2 and 7.3, are what some converters write for one.
RADIOGRAPHS = {STORAGE + n for n in ("1", "1.1", "1.1.1", "7", "7.2", "7.3", "12.1", "12.2")}
MODALITIES = ("CR", "DX", "XA", "RF", "RG", "DR")
#: What other files are, by the start of their class or by modality: a name, the next step.
NO_RADIOGRAPH = {
    "1.2.840.10008.1.3.10": ("a DICOM directory", "give one of the files that it lists"),
    STORAGE + "1.2": ("a mammogram", "give a radiograph of another body part"),
    STORAGE + "1.3": ("an intra-oral radiograph", "give a radiograph of another body part"),
    STORAGE + "2": ("a CT", "give the folder of the series to 'drr --ct'"),
    STORAGE + "4": ("an MR picture", "give a radiograph"),
    STORAGE + "6": ("an ultrasound picture", "give a radiograph"),
    STORAGE + "7": ("a multi-frame capture", "save the frame you mean as a picture"),
    STORAGE + "11": ("a presentation state", "give the radiograph that it shows"),
    STORAGE + "12.1.1": ("a multi-frame angiogram", "save the frame you mean as a picture"),
    STORAGE + "12.2.1": ("a multi-frame fluoroscopy", "save the frame you mean as a picture"),
    STORAGE + "13.1.3": ("a tomosynthesis", "give a plain radiograph"),
    STORAGE + "88": ("a report", "give the radiograph it speaks of"),
    STORAGE + "104": ("an encapsulated document", "export the radiograph in it as a picture"),
    STORAGE + "128": ("a PET picture", "give a radiograph"),
    "MG": ("a mammogram", "give a radiograph of another body part"),
    "IO": ("an intra-oral radiograph", "give a radiograph of another body part"),
    "PX": ("a panoramic dental radiograph", "give a radiograph of another body part"),
    "CT": ("a CT", "give the folder of the series to 'drr --ct'"),
    "MR": ("an MR picture", "give a radiograph"),
    "US": ("an ultrasound picture", "give a radiograph"),
    "PT": ("a PET picture", "give a radiograph"),
    "NM": ("a nuclear medicine picture", "give a radiograph"),
    "SR": ("a report", "give the radiograph it speaks of"),
    "PR": ("a presentation state", "give the radiograph that it shows"),
    "DOC": ("an encapsulated document", "export the radiograph in it as a picture"),
}
MOST_FRAMES = 10_000  # a larger number is not one of frames, and not quoted
WANTED = "wanted a radiograph (CR, DX, one frame of XA or RF, Secondary Capture)"


def read_dicom_film(path: str | Path) -> StoredFilm:
    """Read a DICOM radiograph: grey values, what they mean, their mask, lengths and hanging.

    The picture is turned to hang as its view does, with square pixels; padding is filled with air.
    ``notes`` say of every tag that was used what was taken from it and what was assumed.

    Raises UserError for a file that is damaged, is no radiograph, holds several frames or colours,
    or is compressed in a way that no decoder exists for.
    """
    with quiet_pydicom():  # it converts a value when it is asked for, and quotes it in warnings
        return _film(Path(path))


def _film(path: Path) -> StoredFilm:
    header, syntax = read_header(path)
    notes = [*_radiograph(path, header)]
    layout = pixel_layout(path, header)
    found = stored_pixels(path, header, syntax, layout)
    stored, bits = found.values, found.bits
    notes += found.notes
    padded = padding(header, stored, found.words, bits)
    lengths = film_lengths(header)
    height = lengths.row_mm / lengths.col_mm
    exposed, said = shutter_and_collimator(header, layout.rows, layout.cols, height)
    notes += said
    if padded is not None:
        if padded.all():
            raise damaged(path, "all its pixels are padding")
        notes.append(f"Pixel Padding Value marks {padded.mean():.0%} of the picture")
        exposed = ~padded if exposed is None else exposed & ~padded
    if exposed is not None and not exposed.any():
        raise damaged(path, "padding, shutter and collimator leave nothing of it")
    grey = grey_values(path, header, stored, bits, exposed)
    pixels = grey.pixels
    if padded is not None:
        pixels[padded] = grey.full_scale if grey.bone_dark else 0
    hanging = film_hanging(header)
    body_part, about_body = film_body_part(header)
    film = StoredFilm(
        pixels=pixels,
        full_scale=grey.full_scale,
        bits=grey.bits,
        kind=grey.kind,
        bone_dark=grey.bone_dark,
        exposed=exposed,
        spacing_mm=min(lengths.row_mm, lengths.col_mm) if lengths.is_known else None,
        view=hanging.view,
        angle_deg=hanging.angle_deg,
        other_view=hanging.other,
        body_part=body_part,
        source_detector_mm=lengths.source_detector_mm,
        source_patient_mm=lengths.source_patient_mm,
        notes=(*notes, *grey.notes, *lengths.notes),
    )
    film = square_pixels(film, lengths.col_mm, lengths.row_mm)
    exposed = film.exposed
    return replace(
        film,
        pixels=turned(film.pixels, hanging.quarters, hanging.mirrored),
        exposed=None if exposed is None else turned(exposed, hanging.quarters, hanging.mirrored),
        notes=(*film.notes, *hanging.notes, *about_body),
    )


def _radiograph(path: Path, header: Header) -> list[str]:
    """What kind of radiograph a file is; raises UserError where it is none that can be read."""
    sop_class, modality = header.word("SOPClassUID"), header.word("Modality")
    if sop_class not in RADIOGRAPHS and (sop_class or modality not in MODALITIES):
        starts = [start for start in NO_RADIOGRAPH if f"{sop_class}.".startswith(f"{start}.")]
        longest = max(starts, key=len, default="")
        what, next_step = NO_RADIOGRAPH.get(longest or modality, _named(sop_class))
        raise UserError(f"got '{path}', {what}", WANTED, next_step)
    if modality in NO_RADIOGRAPH:
        what, next_step = NO_RADIOGRAPH[modality]
        raise UserError(f"got '{path}', {what} by its modality", WANTED, next_step)
    frames = header.whole("NumberOfFrames")
    if frames is not None and frames > 1:
        many = str(frames) if frames < MOST_FRAMES else "several"
        raise UserError(
            f"got '{path}' with {many} frames", WANTED, "save the frame you mean as a picture"
        )
    channels, photometric = (
        header.whole("SamplesPerPixel"),
        header.word("PhotometricInterpretation"),
    )
    if (channels or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise UserError(
            f"got '{path}', a colour picture", WANTED, "give the radiograph itself, saved as grey"
        )
    if not photometric:
        raise damaged(path, "it has no Photometric Interpretation")
    kind = modality if modality in MODALITIES else "radiograph"
    if sop_class in SECONDARY_CAPTURES:
        return [f"a Secondary Capture{f' of {kind}' if kind in MODALITIES else ''}"]
    return [f"a DICOM {kind}"]


def _named(sop_class: str) -> tuple[str, str]:
    """A storage class by its name in the standard, where it has one."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(sop_class)
    return (
        f"a DICOM file of {known[0]}" if known else "a DICOM file of an unknown class",
        "give the radiograph itself",
    )
