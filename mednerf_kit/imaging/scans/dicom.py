"""DICOM CTs as they are exported: which files are slices, which series they form, which is read.

A folder may hold more than a CT: directories of the medium, scouts, dose sheets, reports, other
modalities. They are passed over by their class (SOP Class UID) and image type, never by name, and
said. Slices are files of their own or frames of one file: both go through ``dicom_slices.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ...core.errors import UserError
from ..dicom_header import Header, is_dicom_element, quiet_pydicom
from .bounded import opened
from .dicom_slices import Slice, extent, pile, slices_of, stacked, term
from .stored import StoredScan, no_scan, unreadable

SUFFIXES = (".dcm", ".ima")
VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")  # what a folder may hold instead
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
STORAGE = "1.2.840.10008.5.1.4.1.1."
CT = tuple(STORAGE + n for n in ("2", "2.1", "2.2"))  # slices, enhanced, legacy converted enhanced
#: Classes that hold no slices, by how their UIDs begin.
OTHERS = {
    MEDIA_DIRECTORY: "a directory of the medium",
    STORAGE + "7": "a secondary capture",
    STORAGE + "9": "a waveform",
    STORAGE + "11": "a presentation state",
    STORAGE + "30": "a parametric map",
    STORAGE + "66": "raw data, a registration or a segmentation",
    STORAGE + "67": "a mapping of values",
    STORAGE + "88": "a report",
    STORAGE + "104": "an encapsulated document",
    STORAGE + "481": "an object of radiotherapy",
}
#: What is read of a header; the pixels are left aside.
TAGS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ConcatenationUID",
    "Modality",
    "ImageType",
    "ConvolutionKernel",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "BitsStored",
    "HighBit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
LARGEST: Final = "largest"
SeriesChoice = int | Literal["largest"]
ALIKE = 0.9  # of the largest volume: series that cover as much are chosen among by their voxels
OF_A_SERIES = ("SeriesInstanceUID", "Modality", "Rows", "Columns")  # what no slice may lack


@dataclass(frozen=True)
class Series:
    """Files that belong together: the slices of a series, or one multi-frame scan."""

    files: dict[Path, Header]

    @property
    def first(self) -> Header:
        return next(iter(self.files.values()))

    @property
    def frames(self) -> int:
        return sum(header.whole("NumberOfFrames") or 1 for header in self.files.values())

    def slices(self) -> list[Slice]:
        """Every slice, from whichever file."""
        return [one for path, header in self.files.items() for one in slices_of(path, header)]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content, or calls itself so."""
    return _has_start(path) or path.suffix.lower() in SUFFIXES


def is_multi_frame(path: Path) -> bool:
    """Whether a DICOM file holds several frames, a scan by itself; not so if it is damaged."""
    with quiet_pydicom(), suppress(UserError):
        header = _header(path)
        return header is not None and (header.whole("NumberOfFrames") or 1) > 1
    return False


def _has_start(path: Path) -> bool:
    """Whether a file begins as DICOM, with or without the preamble."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    # an element's type, or the upper half of its length, follows its tag
    bare = is_dicom_element(start) and (start[4:6].isalpha() or start[6:8] == b"\0\0")
    return start[128:] == b"DICM" or bare


def read_dicom(path: Path, *, series: SeriesChoice | None, any_modality: bool) -> StoredScan:
    """The scan in a multi-frame file, or the one series in a folder or below it.

    ``series`` chooses one of several, counted from 1, or the largest. Other modalities than CT are
    passed over, unless ``any_modality``.

    Raises UserError where no scan or more than one is found, and for slices that form no even pile.
    """
    with quiet_pydicom():
        if path.is_dir():
            chosen, passed = _chosen(path, series, any_modality)
        else:
            chosen, passed = _alone(path, series, any_modality), []
        return stacked(path, chosen.slices(), chosen.first, passed)


def _alone(path: Path, series: SeriesChoice | None, any_modality: bool) -> Series:
    """The scan of a single file."""
    header = _header(path)
    if header is None:
        raise unreadable(path, "no DICOM file")
    kind = _kind(header)
    if kind is not None and not kind.startswith("a secondary capture"):
        raise UserError(f"got '{path}', {kind}", "wanted a CT", "pass the folder with its slices")
    _check_tags(path, header)
    if not any_modality:
        _check_modality(path, {term(header.word("Modality"))})
    frames = header.whole("NumberOfFrames") or 1
    if frames < 2:
        size = [header.whole("Columns") or 0, header.whole("Rows") or 0, 1]
        raise no_scan(path, size, header.whole("SamplesPerPixel") or 1)
    if series not in (None, 1, LARGEST):
        raise UserError(f"got --series {series} of one file", "wanted 1", "leave --series out")
    return Series({path: header})


def _chosen(
    folder: Path, series: SeriesChoice | None, any_modality: bool
) -> tuple[Series, list[str]]:
    """The one series that is meant, and what was passed over to find it."""
    passed: Counter[str] = Counter()
    found, modalities = _all_series(_files(folder), passed, any_modality)
    if not found:
        below = [path for path in sorted(folder.rglob("*")) if path.parent != folder]
        found, more = _all_series((p for p in below if _is_candidate(p)), passed, any_modality)
        modalities |= more
    if not found:
        _check_modality(folder, modalities)
        singles = passed.pop(SINGLE, 0)
        others = f" and {_listed(passed)}" if passed else ""
        volumes = [p.name for p in _files(folder) if p.name.lower().endswith(VOLUMES)]
        raise UserError(
            f"got '{folder}' with {singles} DICOM slices{others}",
            "wanted a folder with all slices of one CT series",
            f"give the file '{volumes[0]}'" if volumes else "check the path",
        )
    every = "; ".join(f"{k}: {_described(one)}" for k, one in enumerate(found, 1))
    said = [f"passed over: {_listed(passed)}"] if passed else []
    if series == LARGEST:
        series = _largest(found)
        if len(found) > 1:
            said.append(
                f"of {len(found)} DICOM series ({every}) number {series}, the largest, was taken: "
                "'data make ct --series N' takes another"
            )
    if series is None and len(found) > 1:
        raise UserError(
            f"got '{folder}' with {len(found)} DICOM series ({every})",
            "wanted one",
            "choose it with --series N",
        )
    if series is not None and not 1 <= (series := int(series)) <= len(found):
        raise UserError(
            f"got --series {series} of '{folder}', which holds {len(found)}",
            f"wanted a number from 1 to {len(found)}",
            "leave it out to see them listed",
        )
    return found[int(series or 1) - 1], said


def _largest(found: list[Series]) -> int:
    """The number of the series that covers most: of alike ones that with most voxels."""
    sizes = []
    for one in found:
        try:
            sizes.append(extent(one.slices()))
        except UserError:  # slices that say too little: the others are taken before it
            sizes.append((0.0, 0))
    most = max(volume for volume, _ in sizes)
    voxels = [count if volume >= ALIKE * most else -1 for volume, count in sizes]
    return 1 + voxels.index(max(voxels))


SINGLE = "a single slice"


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if _is_candidate(path)]


def _is_candidate(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _all_series(
    paths: Iterable[Path], passed: Counter[str], any_modality: bool
) -> tuple[list[Series], set[str]]:
    """The piles of slices among files, by number; the modalities of other pictures.

    ``passed`` counts what is passed over.
    """
    groups: dict[tuple[str, ...], dict[Path, Header]] = {}
    modalities = set()
    for path in paths:
        header = _header(path)
        if header is None:
            continue
        kind, modality = _kind(header), header.word("Modality")
        if kind is not None:
            passed[kind] += 1
            continue
        _check_tags(path, header)
        if modality != "CT" and not any_modality:
            modalities.add(term(modality))
            passed[f"a picture of modality {term(modality)}"] += 1
            continue
        groups.setdefault(_key(path, header), {})[path] = header
    found = []
    for _, files in sorted(groups.items(), key=lambda group: (_number(group[1]), group[0])):
        one = Series(files)
        if one.frames < 2 or not pile(one.files.values()):
            passed[SINGLE] += one.frames
        else:
            found.append(one)
    return found, modalities


def _header(path: Path) -> Header | None:
    """The header of a DICOM file; None of another file that does not call itself DICOM."""
    import pydicom

    if not _has_start(path):
        if path.suffix.lower() in SUFFIXES:
            raise unreadable(path, "no DICOM file")
        return None
    try:
        with opened(path) as file:
            tags = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*TAGS])
    except Exception:  # whatever pydicom stumbles over; its words may quote the file
        raise unreadable(path, "its header cannot be followed to the end") from None
    if "SOPClassUID" not in tags and "MediaStorageSOPClassUID" in tags.file_meta:
        tags.SOPClassUID = tags.file_meta.MediaStorageSOPClassUID
    if not len(tags):
        raise unreadable(path, "no DICOM file")
    return Header(tags)


def _kind(header: Header) -> str | None:
    """What a file is that holds no slices; None of one that does."""
    sop_class = header.word("SOPClassUID")
    starts = [start for start in OTHERS if f"{sop_class}.".startswith(f"{start}.")]
    if starts:
        return OTHERS[max(starts, key=len)]
    if "LOCALIZER" in header.words("ImageType"):
        return "a scout"
    if sop_class not in CT and not header.has("Rows"):
        return "a file without pixels"
    return None


def _check_tags(path: Path, header: Header) -> None:
    missing = [tag for tag in OF_A_SERIES if not header.has(tag)]
    if missing:
        raise UserError(
            f"got '{path}' without {', '.join(missing)}",
            "wanted whole CT slices only",
            "remove or re-export that file",
        )
    if (header.whole("SamplesPerPixel") or 1) != 1:
        raise UserError(
            f"got '{path}', which is in colour", "wanted grey slices only", "remove that file"
        )


def _check_modality(path: Path, modalities: set[str]) -> None:
    others = sorted(modalities - {"CT"})
    if others:
        raise UserError(
            f"got a DICOM series of modality {', '.join(others)} in '{path}'",
            "wanted a CT in Hounsfield units",
            "say its quantity with --quantity mu_per_mm or relative",
        )


def _key(path: Path, header: Header) -> tuple[str, ...]:
    """What files of one scan share: the series, or the concatenation of multi-frame files."""
    series = header.word("SeriesInstanceUID")
    if (header.whole("NumberOfFrames") or 1) < 2:
        return (series,)
    return series, header.word("ConcatenationUID") or str(path)


def _number(files: dict[Path, Header]) -> int:
    return next(iter(files.values())).whole("SeriesNumber") or 0


def _described(series: Series) -> str:
    """A series in numbers and terms of the standard, for people to choose by."""
    parts = [pile(series.files.values())]
    number, kernel = series.first.whole("SeriesNumber"), series.first.word("ConvolutionKernel")
    if re.fullmatch(r"[A-Z0-9 ._+/-]{1,16}", kernel):
        parts.append(f"kernel {kernel}")
    if number is not None:
        parts.append(f"series number {number}")
    return ", ".join(parts)


def _listed(passed: Counter[str]) -> str:
    """What was passed over, with how many of each where there are more."""
    return ", ".join(what + f" ({n} files)" * (n > 1) for what, n in sorted(passed.items()))
