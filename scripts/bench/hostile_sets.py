"""Damaged and hostile sets of other programs, and geometry files, for ``hostile_volumes.py``."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from hostile import Case

from mednerf_kit.data.imports.base import IMPORTERS
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.geometry_files.base import GEOMETRY_FILES

#: Texts that a number may be replaced with.
NO_NUMBERS = ("nan", "-1", "0", "1e999", "x")


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their names."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@cache
def examples() -> dict[str, tuple[dict[str, bytes], str]]:
    """A small good source of every import format: its files, and which is read."""
    found = {}
    for name in sorted(IMPORTERS.entries):
        with tempfile.TemporaryDirectory() as folder:
            path = IMPORTERS[name].example(Path(folder) / "source")
            whole = path.is_dir()
            found[name] = files_in(path if whole else path.parent), "" if whole else path.name
    return found


@cache
def geometries() -> dict[str, bytes]:
    """A good geometry file of every format, by its name."""
    found = {}
    for name in sorted(GEOMETRY_FILES.entries):
        writer = GEOMETRY_FILES.build(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"geometry{writer.suffix}"
            writer.write(DEFAULTS["chest"].resized(16).orbit(4), path)
            found[path.name] = path.read_bytes()
    return found


def good() -> Iterator[Case]:
    """A good source of every format, and a good geometry file of every format."""
    for name, (files, target) in examples().items():
        yield Case("set", name, files, target=target)
    for name, data in geometries().items():
        yield Case("geometry", name, data)


def damaged(rng: np.random.Generator) -> Iterator[Case]:
    """Sources and geometry files that are cut, scrambled or whose numbers are none."""
    for name, (files, target) in examples().items():
        for file in list(files)[:3]:
            data = files[file]
            for share in (0.02, 0.5, 0.97):
                cut = files | {file: data[: int(share * len(data))]}
                yield Case("set", f"{name}: {file} cut at {share:.0%}", cut, False, target)
            bad = bytearray(data)
            for at in rng.integers(0, len(bad), 1 + len(bad) // 50):
                bad[at] = rng.integers(256)
            bent = files | {file: bytes(bad)}
            yield Case("set", f"{name}: {file} scrambled", bent, False, target)
            left = {k: v for k, v in files.items() if k != file}
            if left:
                yield Case("set", f"{name}: without {file}", left, False, target)
    for name, data in geometries().items():
        for share in (0.02, 0.5, 0.97):
            yield Case(
                "geometry", f"cut at {share:.0%} {name}", data[: int(share * len(data))], False
            )
        bad = bytearray(data)
        for at in rng.integers(0, len(bad), 8):
            bad[at] = rng.integers(32, 127)
        yield Case("geometry", f"scrambled {name}", bytes(bad), must_refuse=False)


def wrong_numbers() -> Iterator[Case]:
    """Geometry files, metadata and text files in which a number is none or cannot be."""
    for name, data in geometries().items():
        for old in (b"1120", b"1600", b"16,", b"16\n"):
            for new in NO_NUMBERS:
                changed = data.replace(old, new.encode() + old[-1:].strip(b"0123456789"), 1)
                if changed != data:
                    yield Case("geometry", f"{old!r} as {new} {name}", changed, must_refuse=False)
    meta = json.loads(examples()["r2_gaussian"][0]["meta_data.json"])
    files = examples()["r2_gaussian"][0]
    changes: dict[str, object] = {
        "no scanner": {k: v for k, v in meta.items() if k != "scanner"},
        "a list": [1, 2, 3],
        "a text": "meta",
        "no views": meta | {"proj_train": []},
        "views of texts": meta | {"proj_train": ["p0.npy"]},
        "an absent view": meta | {"proj_train": [{"file_path": "absent.npy", "angle": 0}]},
        "an angle that is none": meta | {"proj_train": [{"file_path": "p0.npy", "angle": "east"}]},
        "an infinite angle": meta | {"proj_train": [{"file_path": "p0.npy", "angle": 1e999}]},
        "a parallel beam": meta | {"scanner": meta["scanner"] | {"mode": "parallel"}},
    }
    for key in ("DSD", "DSO", "sDetector", "offDetector"):
        for value in (0, -1, None, "far"):
            changes[f"{key} {value}"] = meta | {"scanner": meta["scanner"] | {key: value}}
    for name, value in changes.items():
        data = json.dumps(value).encode()
        yield Case("set", f"r2_gaussian: {name}", files | {"meta_data.json": data})
    table = examples()["pictures"][0]
    for name, text in {
        "no lines": "file,angle_deg\n",
        "an absent picture": "file,angle_deg\nz.npy,0\n",
        "no number": "file,angle_deg\na.npy,east\n",
        "an infinite angle": "file,angle_deg\na.npy,inf\n",
        "a picture twice": "file,angle_deg\na.npy,0\na.npy,10\n",
        "a short line": "file,angle_deg\na.npy\n",
        "null bytes": "file,angle_deg\na.npy,0\0\n",
        "a folder": "file,angle_deg\n.,0\n",
    }.items():
        yield Case("set", f"pictures: {name}", table | {"angles.csv": text.encode()})


def hostile() -> Iterator[Case]:
    """Sources that would run code, unfold, or claim what they do not hold."""
    entity = '<!ENTITY a "' + "b" * 99 + '"><!ENTITY c "' + "&a;" * 99 + '">'
    xml = "<RTKThreeDCircularGeometry version='3'>{}</RTKThreeDCircularGeometry>"
    view = "<Projection><SourceToIsocenterDistance>9</SourceToIsocenterDistance></Projection>"
    for name, text in {
        "entities": f"<!DOCTYPE x [{entity}]>" + xml.format("&c;" * 99),
        "5000 deep": xml.format("<Projection>" * 5000 + "</Projection>" * 5000),
        "no distance": xml.format("<Projection><GantryAngle>1</GantryAngle></Projection>"),
        "a parallel beam": xml.format(view),
        "no projection": xml.format(""),
        "a word": xml.format(view.replace("9", "nine")),
    }.items():
        yield Case("geometry", f"{name}.xml", text.encode())
        source = examples()["rtk"][0] | {"geometry.xml": text.encode()}
        yield Case("set", f"rtk: {name}", source)
    deep = "[" * 100_000 + "]" * 100_000
    for name in ("geometry.json", "a.astra.json", "a.tigre.json", "meta_data.json"):
        for text in (deep, "{}", "[]", '"DSO"', "null", '{"DSO": 1}', '{"type": "cone_vec"}', ""):
            yield Case("geometry", f"{text[:20]} {name}", text.encode())
    call = b"cbuiltins\nprint\n(Vthis should never be seen\ntR"
    for name, data in {
        "a function": call + b".",
        "a function in a list": b"(dVtrain\n(l" + call + b"as.",
        "a path": b"cpathlib\nPurePosixPath\n(Va\ntR.",
        "no angles": b"(dVDSD\nF1\nsVDSO\nF1\nsVtrain\n(dVprojections\n(lF1\nass.",
    }.items():
        yield Case("set", f"naf: {name}.pickle", data)
    yield Case("set", "naf: marks.pickle", b"(" * 10**6)
    yield Case("set", "naf: a long text.pickle", b"\x80\x04B\xff\xff\xff\x7f" + b"a" * 99)
    yield Case("set", "naf: memory.pickle", b"\x80\x04]" + b"\x94" * 10**5 + b"h\xff.")
    for suffix in ("pt", "npz", "safetensors", "pickle"):
        yield Case("set", f"text.{suffix}", b"<html>Not found</html>\n" * 20)
        yield Case("set", f"empty.{suffix}", b"")
    arrays = {
        "no geometry": {"image": np.ones((2, 8, 8))},
        "five axes": {"image": np.ones((1, 1, 2, 8, 8))},
        "no pictures": {"rt_inv": np.eye(4)},
        "a pose for two": {
            "image": np.ones((2, 8, 8)),
            "rt_inv": np.eye(4)[None],
            "k_inv": np.eye(3)[None],
            "sdd": np.ones(1),
        },
        "no numbers": {
            "image": np.full((1, 8, 8), np.nan),
            "source": np.zeros((1, 1, 3)),
            "target": np.random.default_rng(0).random((1, 64, 3)),
        },
        "texts": {"image": np.array(["a"])},
        "a target in one point": {
            "image": np.ones((1, 8, 8)),
            "source": np.zeros((1, 1, 3)),
            "target": np.ones((1, 64, 3)),
        },
    }
    for name, held in arrays.items():
        file = io.BytesIO()
        np.savez(file, **held)
        yield Case("set", f"tensors: {name}.npz", file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (30000, 30000, 9)}\n"
        start = b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head
        archive.writestr("image.npy", start + bytes(10**7))
    yield Case("set", "tensors: unfolding.npz", file.getvalue())
    huge = json.dumps({"image": {"dtype": "F32", "shape": [9] * 9, "data_offsets": [0, 10**12]}})
    data = len(huge).to_bytes(8, "little") + huge.encode()
    yield Case("set", "tensors: beyond its end.safetensors", data)
    for name, data in {
        "of 99999×99999": b"Pf\n99999 99999\n-1\n" + bytes(100),
        "of nan": b"Pf\n16 16\n-1\n" + np.full(256, np.nan, "<f4").tobytes(),
        "black": b"Pf\n16 16\n-1\n" + bytes(1024),
        "below zero": b"Pf\n16 16\n-1\n" + np.full(256, -9, "<f4").tobytes(),
    }.items():
        files = examples()["plastimatch"][0]
        pictures = {k: data for k in files if k.endswith(".pfm")}
        yield Case("set", f"plastimatch: {name}", files | pictures)
    for name, folder in {"empty": {"a/b.txt": b""}, "of text": {"readme.md": b"a set"}}.items():
        yield Case("set", f"a folder, {name}", folder)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """All sets and geometry files, in a fixed order."""
    yield from damaged(rng)
    yield from wrong_numbers()
    yield from hostile()
