"""MetaImage and NRRD in their spellings; other files that are cut, misnamed or shifted."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from ct_files import AFFINE, RAS, SIZE, ball, write_itk, write_nifti

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.scans.read import read_volume

STORED = np.ascontiguousarray(ball().T)
RAW, SIZES = STORED.astype("<i2").tobytes(), " ".join(map(str, SIZE))
AS_TEXT = " ".join(map(str, STORED.ravel())).encode()
META = {
    "NDims": "3",
    "DimSize": SIZES,
    "ElementSpacing": "4 5 6",
    "Offset": " ".join(map(str, AFFINE[:3, 3])),
    "ElementType": "MET_SHORT",
}
ORIGIN = ",".join(map(str, AFFINE[:3, 3]))
NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": SIZES,
    "encoding": "raw",
    "endian": "little",
    "space": "left-posterior-superior",
    "space directions": "(4,0,0) (0,5,0) (0,0,6)",
    "space origin": f"({ORIGIN})",
}
IN_RAS = {
    "space directions": "(-4,0,0) (0,-5,0) (0,0,6)",
    "space origin": f"({','.join(map(str, (RAS @ AFFINE)[:3, 3]))})",
}


def write(path: Path, fields: dict, data: bytes, *, mark: str = " = ", end: str = "\n") -> Path:
    """A header of these fields, those of None left out, with ``data`` behind it."""
    lines = [f"{name}{mark}{value}" for name, value in fields.items() if value is not None]
    if path.suffix in (".nrrd", ".nhdr"):
        lines = ["NRRD0005", "# a comment: not a field", *lines, ""]
    path.write_bytes("".join(line + end for line in lines).encode() + data)
    return path


def meta(path: Path, data: bytes = RAW, file: str = "LOCAL", **fields: str | None) -> Path:
    return write(path, {**META, **fields, "ElementDataFile": file}, data)


def nrrd(path: Path, data: bytes = RAW, mark: str = ": ", end: str = "\n", **fields) -> Path:
    return write(path, {**NRRD, **fields}, data, mark=mark, end=end)


def in_halves(folder: Path, name: str = "part{}.raw") -> Path:
    for k in (0, 1):
        half = len(RAW) // 2
        (folder / name.format(k + 1)).write_bytes(RAW[k * half : (k + 1) * half])
    return folder


SPELLINGS = {
    "of few fields": lambda p: meta(p / "a.mha"),
    "zlib": lambda p: meta(p / "a.mha", zlib.compress(RAW), CompressedData="True"),
    "text": lambda p: meta(p / "a.mha", AS_TEXT, BinaryData="False"),
    "big-endian": lambda p: meta(
        p / "a.mha", STORED.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True"
    ),
    "other names": lambda p: meta(
        p / "a.mha", ElementSpacing=None, ElementSize="4 5 6", Offset=None, Position=META["Offset"]
    ),
    "in cm": lambda p: meta(
        p / "a.mha", ElementSpacing=".4 .5 .6", Offset="-4.6 -4.75 -4.5", DistanceUnits="cm"
    ),
    "of 4 axes": lambda p: meta(
        p / "a.mha",
        NDims="4",
        DimSize=f"{SIZES} 1",
        ElementSpacing="4 5 6 1",
        Offset=META["Offset"] + " 0",
    ),
    "behind bytes of its own": lambda p: meta(
        (p / "a.raw").write_bytes(b"x" * 99 + RAW) and p / "a.mhd", b"", "a.raw", HeaderSize="-1"
    ),
    "in a list of files": lambda p: meta(in_halves(p) / "a.mhd", b"part1.raw\npart2.raw\n", "LIST"),
    "in numbered files": lambda p: meta(in_halves(p) / "a.mhd", b"", "part%d.raw 1 2 1"),
    "NRRD": lambda p: nrrd(p / "a.nrrd"),
    "NRRD of few blanks": lambda p: nrrd(p / "a.nrrd", mark=":"),
    "NRRD from Windows": lambda p: nrrd(p / "a.nrrd", end="\r\n"),
    "NRRD in RAS": lambda p: nrrd(p / "a.nrrd", space="right-anterior-superior", **IN_RAS),
    "NRRD in short RAS": lambda p: nrrd(p / "a.nrrd", space="RAS", **IN_RAS),
    "NRRD with blanks in vectors": lambda p: nrrd(
        p / "a.nrrd", **{"space directions": "(4, 0, 0) (0, 5, 0) (0, 0, 6)"}
    ),
    "NRRD with an axis of one": lambda p: nrrd(
        p / "a.nrrd",
        dimension="4",
        sizes=f"1 {SIZES}",
        **{"space directions": "none (4,0,0) (0,5,0) (0,0,6)"},
    ),
    "NRRD in metres": lambda p: nrrd(
        p / "a.nrrd",
        **{
            "space units": '"m" "m" "m"',
            "space directions": "(.004,0,0) (0,.005,0) (0,0,.006)",
            "space origin": "(-.046,-.0475,-.045)",
        },
    ),
    "NRRD, gzip": lambda p: nrrd(p / "a.nrrd", gzip.compress(RAW), encoding="gzip"),
    "NRRD, gzip in two members": lambda p: nrrd(
        p / "a.nrrd", gzip.compress(RAW[:99]) + gzip.compress(RAW[99:]), encoding="gz"
    ),
    "NRRD, bzip2": lambda p: nrrd(p / "a.nrrd", bz2.compress(RAW), encoding="bzip2"),
    "NRRD, text": lambda p: nrrd(p / "a.nrrd", AS_TEXT, encoding="ascii"),
    "NRRD, hex": lambda p: nrrd(p / "a.nrrd", RAW.hex().encode(), encoding="hex"),
    "NRRD, detached": lambda p: nrrd(
        (p / "a.raw").write_bytes(RAW) and p / "a.nhdr", b"", **{"data file": "a.raw"}
    ),
    "NRRD, a list": lambda p: write(
        in_halves(p) / "a.nhdr", {**NRRD, "data file": "LIST\npart1.raw\npart2.raw"}, b"", mark=": "
    ),
    "NRRD, behind lines of its own": lambda p: nrrd(
        (p / "a.raw").write_bytes(b"one\ntwo\n" + RAW) and p / "a.nhdr",
        b"",
        **{"data file": "a.raw", "line skip": "2"},
    ),
}


@pytest.mark.parametrize("written", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_is_the_same_scan(tmp_path, written):
    found = read_volume(written(tmp_path))
    np.testing.assert_array_equal(found.values.numpy(), STORED)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-9)


FAULTS = {
    "raw that says it is compressed": lambda p: meta(p / "a.mha", CompressedData="True"),
    "an empty list": lambda p: meta(p / "a.mhd", b"", "LIST"),
    "99 axes": lambda p: meta(p / "a.mha", NDims="99"),
    "a negative step": lambda p: meta(p / "a.mha", ElementSpacing="4 -5 6"),
    "an origin that is none": lambda p: meta(p / "a.mha", Offset="nan 0 0"),
    "compressed and damaged": lambda p: meta(
        p / "a.mha",
        (z := bytearray(zlib.compress(RAW))) and bytes(z[:-4] + b"1234"),
        CompressedData="True",
    ),
    "a longer file": lambda p: meta(
        (p / "a.raw").write_bytes(RAW + RAW) and p / "a.mhd", b"", "a.raw"
    ),
    "bytes as text": lambda p: nrrd(p / "a.nrrd", encoding="ascii"),
    "an axis of no direction": lambda p: nrrd(
        p / "a.nrrd", **{"space directions": "(4,0,0) (0,5,0) none"}
    ),
    "a left-handed space": lambda p: nrrd(p / "a.nrrd", space="3D-left-handed"),
}


@pytest.mark.parametrize("written", FAULTS.values(), ids=FAULTS)
def test_a_header_that_cannot_be_is_refused(tmp_path, written):
    with pytest.raises(UserError) as caught:
        read_volume(written(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_space_without_names_is_said(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", space=None, **{"space dimension": "3"})
    (said,) = read_volume(path).remarks
    assert "left, back and head" in said


@pytest.mark.parametrize("suffix", [".vtk", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_files_of_other_formats_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    write_itk(path, ball(), AFFINE)
    np.testing.assert_array_equal(read_volume(path).values.numpy(), STORED)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".gipl", ".mrc", ".hdf5", ".mnc"])
def test_a_cut_file_of_a_rare_format_says_so_and_nothing_else(tmp_path, suffix, capfd):
    whole, cut = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_itk(whole, ball(), AFFINE)
    np.testing.assert_array_equal(read_volume(whole).values.numpy().T, ball())
    held = whole.read_bytes()
    cut.write_bytes(held[: len(held) // 2])
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_volume(cut)
    assert "0x" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_compressed_file_under_a_plain_name_says_so_and_the_other_way_round(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", ball(), AFFINE)
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    with pytest.raises(UserError, match="which is compressed.*rename it to 'b.nii.gz'"):
        read_volume(tmp_path / "b.nii")
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress((tmp_path / "b.nii").read_bytes()))
    with pytest.raises(UserError, match="which is not compressed.*rename it to 'c.nii'"):
        read_volume(tmp_path / "c.nii.gz")
    with pytest.raises(UserError, match="give the file 'a.nii.gz'"):
        read_volume(tmp_path)
