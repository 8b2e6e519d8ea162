#!/usr/bin/env python3
"""Damaged and hostile CTs, sets of other programs and geometry files, each read by itself.

    python scripts/bench/hostile_volumes.py

Every one has to be refused in one sentence, within 2 s of processor time and 1 GiB of memory; where
only values are damaged, or a header still makes sense, it may be read. The same seed makes the same
files. Exits with 1 where one misses.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from hostile import Case, run
from hostile_dicom import cases as dicom_cases
from hostile_sets import cases as set_cases
from hostile_sets import good as good_sets
from pydicom.dataset import Dataset, FileMetaDataset

from mednerf_kit.data.imports.base import import_set
from mednerf_kit.imaging.geometry_files.base import read_geometry
from mednerf_kit.imaging.scans.read import read_volume

SIZE, SPACING_MM = (24, 20, 16), (4.0, 5.0, 6.0)
#: What is odd there and still means one thing only, or is said and assumed.
SENSIBLE = (
    "slope inf.nii",
    "pixdim nan.nii",
    "header size 7.nii",
    "ElementSpacing nan nan nan",
    "ElementType MET_SHORT_ARRAY",
    "space 5",
    "space scanner",
    "multi-frame with PerFrameFunctionalGroupsSequence []",
)
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


def ball() -> np.ndarray:
    """HU [D, H, W] of a ball of water in air."""
    z, y, x = (np.linspace(-1, 1, n) for n in SIZE[::-1])
    inside = x**2 + y[:, None] ** 2 + z[:, None, None] ** 2 < 0.5
    return np.where(inside, 0, -1000).astype(np.int16)


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their names."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@cache
def good_volumes() -> dict[str, tuple[dict[str, bytes], str]]:
    """A good CT of every kind: its files, and which of them is read ("" for the folder)."""
    image = sitk.GetImageFromArray(ball())
    image.SetSpacing(SPACING_MM)
    found = {}
    names = ("a.nii", "a.nii.gz", "a.mha", "z.mha", "a.mhd", "a.nrrd", "z.nrrd", "a.nhdr", "a.vtk")
    for name in (*names, "a.tif"):
        with tempfile.TemporaryDirectory() as folder:
            sitk.WriteImage(image, f"{folder}/{name}", useCompression=name[0] == "z")
            found[name] = files_in(Path(folder)), name
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(nibabel.Nifti1Pair(ball().T, np.diag([*SPACING_MM, 1])), f"{folder}/a.hdr")
        found["a.hdr"] = files_in(Path(folder)), "a.hdr"
    found["series"] = {f"{k:02d}": as_file(one_slice(k)) for k in range(SIZE[2])}, ""
    found["enhanced.dcm"] = {"enhanced.dcm": as_file(enhanced())}, "enhanced.dcm"
    return found


def one_slice(k: int) -> Dataset:
    """The slice ``k`` of a CT series of the ball."""
    hu = ball()[k]
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CT_CLASS
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = f"1.2.3.{k + 1}"
    d.SeriesInstanceUID, d.Modality, d.ImageType = "1.2.9", "CT", ["ORIGINAL", "PRIMARY"]
    d.PixelSpacing, d.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.ImagePositionPatient = [0, 0, k * SPACING_MM[2]]
    d.Rows, d.Columns = hu.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleSlope, d.RescaleIntercept = 1, 0
    d.PixelData = hu.tobytes()
    d["PixelData"].VR = "OW"
    return d


def enhanced() -> Dataset:
    """The series in one file."""
    d = one_slice(0)
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CT_CLASS + ".1"
    d.NumberOfFrames, d.PixelData = SIZE[2], ball().tobytes()
    d.PerFrameFunctionalGroupsSequence = []
    for k in range(SIZE[2]):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, k * SPACING_MM[2]]
        frame.PlanePositionSequence = [place]
        d.PerFrameFunctionalGroupsSequence.append(frame)
    del d.ImagePositionPatient
    return d


def as_file(d: Dataset) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        pydicom.dcmwrite(file.name, d, enforce_file_format=True)
        return Path(file.name).read_bytes()


def damaged(rng: np.random.Generator) -> Iterator[Case]:
    """Good files cut, scrambled and with bits of the header turned over."""
    for name, (files, target) in good_volumes().items():
        changed = "07" if name == "series" else max(files, key=lambda n: len(files[n]))
        header = target or changed
        for share in (0.02, 0.5, 0.97):
            cut = files | {changed: files[changed][: int(share * len(files[changed]))]}
            yield Case("cut", f"cut at {share:.0%} {name}", cut, target=target)
        first = 132 if files[header][128:132] == b"DICM" else 0
        for k in range(6):
            bad = bytearray(files[header])
            for at in rng.integers(first, min(len(bad), first + 348), 4):
                bad[at] ^= 1 << rng.integers(8)
            flipped = files | {header: bytes(bad)}
            yield Case("header", f"header {k} {name}", flipped, must_refuse=False, target=target)
        bad = bytearray(files[changed])
        start = int(rng.integers(len(bad) // 4, len(bad) // 2))
        bad[start : start + len(bad) // 8] = rng.bytes(len(bad) // 8)
        scrambled = files | {changed: bytes(bad)}
        yield Case("scrambled", f"scrambled {name}", scrambled, must_refuse=False, target=target)


def patched(data: bytes, at: int, form: str, *values: float) -> bytes:
    """A file with numbers of this form at a place."""
    content = struct.pack(form, *values)
    return data[:at] + content + data[at + len(content) :]


def nifti_liars() -> Iterator[tuple[str, bytes]]:
    """NIfTI headers that cannot be, by what is wrong."""
    data = good_volumes()["a.nii"][0]["a.nii"]
    nan, inf = float("nan"), float("inf")
    changes: dict[str, tuple[int, str, tuple[float, ...]]] = {
        "of no axes": (40, "<h", (0,)),
        "of 9 axes": (40, "<h", (9,)),
        "of 2 axes": (40, "<h", (2,)),
        "of 4 scans": (40, "<5h", (4, 24, 20, 4, 4)),
        "of 30000³ voxels": (42, "<3h", (30000,) * 3),
        "of no voxels": (42, "<h", (0,)),
        "of -24 voxels": (42, "<h", (-24,)),
        "of one slice": (46, "<h", (1,)),
        "of unknown values": (70, "<h", (4711,)),
        "of colours": (70, "<2h", (128, 24)),
        "of complex values": (70, "<2h", (32, 64)),
        "of floats without data": (70, "<2h", (64, 64)),
        "offset 1e30": (108, "<f", (1e30,)),
        "offset nan": (108, "<f", (nan,)),
        "offset -5": (108, "<f", (-5,)),
        "offset beyond the end": (108, "<f", (10**6,)),
        "slope inf": (112, "<f", (inf,)),
        "slope 1e38": (112, "<f", (1e38,)),
        "intercept nan": (112, "<2f", (1, nan)),
        "pixdim nan": (80, "<3f", (nan,) * 3),
        "pixdim 0": (80, "<3f", (0,) * 3),
        "pixdim 1e9": (80, "<3f", (1e9,) * 3),
        "sform nan": (280, "<12f", (nan,) * 12),
        "sform inf": (280, "<12f", (inf,) * 12),
        "sform 0": (280, "<12f", (0,) * 12),
        "sform flat": (280, "<12f", (4, 0, 0, 0, 0, 5, 0, 0, 4, 5, 0, 0)),
        "sform of kilometres": (280, "<12f", (4e6, 0, 0, 0, 0, 5e6, 0, 0, 0, 0, 6e6, 0)),
        "quaternion nan": (252, "<2h6f", (1, 0, nan, nan, nan, 0, 0, 0)),
        "header size 7": (0, "<i", (7,)),
    }
    for name, (at, form, values) in changes.items():
        yield f"{name}.nii", patched(data, at, form, *values)
    yield "an extension of 2 GiB.nii", data[:348] + struct.pack("<4B2i", 1, 0, 0, 0, 2**31 - 1, 6)
    zeros = gzip.compress(patched(data[:352], 42, "<3h", 1200, 1200, 1200) + bytes(10**7), 9)
    yield "unfolding.nii.gz", zeros
    yield "gzip of nothing.nii.gz", gzip.compress(b"")
    yield "gzip of gzip.nii.gz", gzip.compress(gzip.compress(data))


def text_liars() -> Iterator[Case]:
    """MetaImage and NRRD headers that cannot be; the values lie beside them."""
    raw = ball().tobytes()
    meta = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "4 5 6",
        "DimSize": "24 20 16",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "a.raw",
    }
    changes = {
        "NDims": ("0", "2", "4", "99", "three"),
        "DimSize": ("24 20", "0 20 16", "-24 20 16", "99999 99999 99999", "24 20 17", "a b c"),
        "ElementSpacing": ("0 0 0", "nan nan nan", "4 -5 6", "1e9 1e9 1e9", "one two three"),
        "TransformMatrix": ("0 0 0 0 0 0 0 0 0", "1 0 0 1 0 0 0 0 1", "nan 0 0 0 1 0 0 0 1", "1"),
        "Offset": ("nan 0 0", "inf 0 0"),
        "ElementType": ("MET_STRING", "MET_SHORT_ARRAY", "MET_BRICK", ""),
        "ElementDataFile": ("absent.raw", "..", "LIST", "a.mhd", "%03d.raw 1 99 1"),
        "ElementNumberOfChannels": ("3", "0", "-1"),
        "CompressedData": ("True",),
        "HeaderSize": ("999999", "-2"),
        "DistanceUnits": ("furlong",),
        "ElementToIntensityFunctionSlope": ("steep", "nan"),
    }
    for key, values in changes.items():
        for value in values:
            fields = meta | {key: value}
            fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last line of a header
            text = "".join(f"{name} = {said}\n" for name, said in fields.items())
            files = {"a.mhd": text.encode(), "a.raw": raw}
            yield Case("MetaImage", f"{key} {value}", files, target="a.mhd")
    nrrd = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "24 20 16",
        "space directions": "(4,0,0) (0,5,0) (0,0,6)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
        "data file": "a.raw",
    }
    changes = {
        "type": ("block", "complex", "double"),
        "dimension": ("0", "2", "4", "17", "many"),
        "space": ("5", "scanner", "left-posterior-superior-time"),
        "sizes": ("24 20", "0 20 16", "-1 20 16", "99999 99999 99999", "24 20 17"),
        "space directions": (
            "(4,0,0) (0,5,0) none",
            "(0,0,0) (0,0,0) (0,0,0)",
            "(nan,0,0) (0,5,0) (0,0,6)",
            "(4,0,0) (4,0,0) (0,0,6)",
            "(4,0) (0,5) (0,6)",
            "(1e9,0,0) (0,1e9,0) (0,0,1e9)",
            "rows columns slices",
        ),
        "encoding": ("gzip", "bzip2", "hex", "ascii", "secret"),
        "endian": ("middle",),
        "space origin": ("(nan,0,0)", "here"),
        "data file": ("absent.raw", "LIST", "a.nhdr", "%d.raw 1 9 1"),
        "space units": ('"cm" "mm" "mm"', '"furlong" "furlong" "furlong"'),
        "byte skip": ("999999",),
    }
    for key, values in changes.items():
        for value in values:
            text = "".join(f"{name}: {said}\n" for name, said in (nrrd | {key: value}).items())
            files = {"a.nhdr": f"NRRD0004\n{text}\n".encode(), "a.raw": raw}
            yield Case("NRRD", f"{key} {value}", files, target="a.nhdr")


def series_liars(rng: np.random.Generator) -> Iterator[Case]:
    """Series in which one slice is not what it says, and multi-frame files likewise."""
    changes: dict[str, object] = {
        "Rows": (0, 21, 65535),
        "Columns": (0, 25),
        "BitsAllocated": (0, 7, 32, 64),
        "SamplesPerPixel": (3,),
        "PixelData": (b"", bytes(99 * 2), bytes(10)),
        "RescaleSlope": ("0", "1e30"),
        "RescaleType": ("OD",),
        "PixelSpacing": ([0, 0], [-5, 4], [5], [9, 9]),
        "ImagePositionPatient": ([0, 0], [0, 0, 43], [90, 0, 42], [0, 0, 0]),
        "ImageOrientationPatient": ([0] * 6, [1, 0, 0, 1, 0, 0], [1, 0, 0], [0, 1, 0, 1, 0, 0]),
        "SeriesInstanceUID": ("", None),
        "Modality": ("MR", None),
        "PixelPaddingValue": (-1000,),
    }
    many = {
        "NumberOfFrames": (0, 15, 17, 2**31 - 1),
        "PerFrameFunctionalGroupsSequence": ([],),
        "SharedFunctionalGroupsSequence": ([Dataset()],),
        **{
            k: changes[k]
            for k in ("Rows", "BitsAllocated", "PixelSpacing", "PixelData", "Modality")
        },
    }
    good = good_volumes()["series"][0]
    may_be_read = ("SeriesInstanceUID", "PixelPaddingValue", "SharedFunctionalGroupsSequence")
    for key, values in [*changes.items(), *many.items()]:
        is_series = changes.get(key) is values
        for value in values:  # type: ignore[attr-defined]
            one = one_slice(7) if is_series else enhanced()
            if value is None:
                delattr(one, key)
            else:
                setattr(one, key, value)
            kind = "series" if is_series else "multi-frame"
            files = (good if is_series else {}) | {"07": as_file(one)}
            said = "no value" if value is None else f"{value!r:.40}"
            yield Case(kind, f"{kind} with {key} {said}", files, key not in may_be_read)
    yield Case("series", "a single slice", {"07": good["07"]})
    yield Case("series", "an empty folder", {"notes/readme.txt": b"nothing"})
    yield Case("series", "a slice missing", {k: v for k, v in good.items() if k != "07"})
    yield Case("series", "every slice twice", {**good, **{f"b{k}": v for k, v in good.items()}})
    yield Case("series", "two steps", {k: v for k, v in good.items() if k not in ("03", "05")})
    for n in (0, 200, 5000):
        yield Case("series", f"{n} bytes of garbage as .dcm", {**good, "a.dcm": rng.bytes(n)})


def no_volumes() -> Iterator[Case]:
    """What is no volume, and values that are no Hounsfield units."""
    for suffix in (
        "nii",
        "nii.gz",
        "hdr",
        "mha",
        "mhd",
        "nrrd",
        "nhdr",
        "vtk",
        "tif",
        "dcm",
        "xyz",
    ):
        yield Case("no volume", f"empty.{suffix}", b"")
        yield Case("no volume", f"text.{suffix}", b"<html><body>Not found</body></html>\n" * 20)
        yield Case("no volume", f"zeros.{suffix}", bytes(3000))
    yield Case("no volume", "archive.nii.gz", b"PK\x03\x04" + bytes(500))
    hu = ball().astype(np.float32)
    inside = hu > -500
    for name, values in {
        "all nan": np.full_like(hu, np.nan),
        "one nan": np.where(inside.cumsum().reshape(hu.shape) == 1, np.nan, hu),
        "one infinite": np.where(inside.cumsum().reshape(hu.shape) == 1, np.inf, hu),
        "constant": np.zeros_like(hu),
        "constant air": np.full_like(hu, -5000),
        "mu per mm": 0.02 * inside,
        "mu per cm": 0.2 * inside,
        "in -1 to 1": np.where(inside, 0.2, -1),
        "in 0 to 255": 255.0 * inside,
        "HU + 1000": hu + 1000,
        "HU + 1024, padded": np.where(hu.cumsum(2) % 7 < 1, -1000, hu + 1024),
        "z-scores": (hu - hu.mean()) / hu.std(),
        "huge": hu * 1e30,
    }.items():
        image = sitk.GetImageFromArray(values.astype(np.float32))
        image.SetSpacing(SPACING_MM)
        with tempfile.TemporaryDirectory() as folder:
            sitk.WriteImage(image, f"{folder}/a.mha")
            yield Case("no HU", f"{name}.mha", (Path(folder) / "a.mha").read_bytes())


def cases(seed: int) -> Iterator[Case]:
    """All CTs, sets and geometry files, in a fixed order."""
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom speaks of what is wrong on purpose
        for case in volume_cases(rng):
            yield replace(case, must_refuse=case.must_refuse and case.name not in SENSIBLE)
        yield from set_cases(rng)
        for name, data in dicom_cases(rng):
            yield Case("no CT", name, data)


def volume_cases(rng: np.random.Generator) -> Iterator[Case]:
    """The CTs among them."""
    yield from damaged(rng)
    for name, data in nifti_liars():
        yield Case("NIfTI", name, data)
    yield from text_liars()
    yield from series_liars(rng)
    yield from no_volumes()


def read(case: Case, path: Path) -> object:
    """Read a case as the commands do."""
    if case.kind == "geometry":
        return read_geometry(path)
    if case.kind == "set":
        with tempfile.TemporaryDirectory() as folder:
            return import_set(path, out=Path(folder) / "set")
    return read_volume(path)


def words(case: Case, path: Path) -> list[str]:
    """The command that reads a case."""
    if case.kind == "geometry":
        return ["data", "geometry", str(path), "out.astra.json"]
    if case.kind == "set":
        return ["data", "import", str(path), "--out", "set"]
    return ["drr", "--ct", str(path), "--out", "set", "--views", "2", "--size", "16"]


def good() -> Iterator[Case]:
    """A good file of every kind."""
    volumes: Mapping[str, tuple[dict[str, bytes], str]] = good_volumes()
    for name, (files, target) in volumes.items():
        yield Case("volume", name, files, target=target)
    yield from good_sets()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=6, help="files given to the whole command")
    parser.add_argument("--verbose", action="store_true", help="print what each file leads to")
    args = parser.parse_args()
    missed = run(
        cases(args.seed),
        good(),
        read=read,
        command=words,
        commands=args.commands,
        verbose=args.verbose,
    )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
