"""Public archives of scenes: where they are, and their download, whole or not at all.

No checksums were published with them, so none is invented: every file is checked against the
archive's own CRC, and the SHA-256 of what came is written beside the scene, against which a later
download of the same archive is compared.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from ...core import files
from ...core.errors import RunError, UserError, unknown_name

UCSD = "https://cseweb.ucsd.edu/~viscomp/projects/LF/papers/ECCV20/nerf"
NSVF = "https://dl.fbaipublicfiles.com/nsvf/dataset"
MIRROR = "https://huggingface.co/datasets/nerfbaselines/nerfbaselines-data/resolve/main/blender"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="


@dataclass(frozen=True)
class Archive:
    """A zip with scenes of one format."""

    url: str
    scenes: dict[str, str]  # name of a scene -> the folder of ``data/`` it goes to
    mark: str  # the file by which a scene's folder is known
    licence: str
    sha256: str | None = None  # where its publisher states one


NERF = "nerf_synthetic"
LLFF = "nerf_llff_data"
BLENDER_SCENES = ("chair", "drums", "ficus", "hotdog", "materials", "mic", "ship")
LLFF_SCENES = ("flower", "fortress", "horns", "leaves", "orchids", "room", "trex")
NSVF_SCENES = (
    "Bike",
    "Lifestyle",
    "Palace",
    "Robot",
    "Spaceship",
    "Steamtrain",
    "Toad",
    "Wineholder",
)
TANKS_SCENES = ("Barn", "Caterpillar", "Family", "Ignatius", "Truck")
MODELS = "per model: CC0, CC BY, CC BY-NC or CC BY-SA (its README.txt)"

ARCHIVES = (
    Archive(
        f"{UCSD}/nerf_example_data.zip",
        {"lego": NERF},
        "transforms_train.json",
        "CC BY-NC, model by Heinzelnisse",
    ),
    Archive(f"{UCSD}/nerf_example_data.zip", {"fern": LLFF}, "poses_bounds.npy", "not stated"),
    *(
        Archive(f"{MIRROR}/{scene}.zip", {scene: NERF}, "transforms_train.json", MODELS)
        for scene in BLENDER_SCENES
    ),
    Archive(
        f"{DRIVE}16VnMcF1KJYxN9QId6TClMsZRahHNMW5g",
        dict.fromkeys(LLFF_SCENES, LLFF),
        "poses_bounds.npy",
        "not stated",
    ),
    Archive(
        f"{NSVF}/Synthetic_NSVF.zip",
        dict.fromkeys(NSVF_SCENES, "Synthetic_NSVF"),
        "intrinsics.txt",
        "see NSVF's page",
    ),
    Archive(
        f"{NSVF}/TanksAndTemple.zip",
        dict.fromkeys(TANKS_SCENES, "TanksAndTemple"),
        "intrinsics.txt",
        "CC BY-NC-SA 3.0",
    ),
)


def known_scenes() -> dict[str, Archive]:
    """Every scene that can be had, by name."""
    return {scene: archive for archive in ARCHIVES for scene in archive.scenes}


def get_scene(
    name: str,
    *,
    into: str | Path = "data",
    url: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Download the archive of a scene and unpack its scenes; returns the folder of the one wanted.

    ``url`` is another place of the same zip (http, https, file or a plain path). A scene that is
    already there is left as it is. Raises UserError for an unknown name, RunError when the archive
    cannot be had or is damaged.
    """
    catalogue = known_scenes()
    if name not in catalogue:
        raise unknown_name("scene", name, catalogue)
    archive = catalogue[name]
    target = Path(into) / archive.scenes[name] / name
    if (target / archive.mark).is_file():
        say(f"'{target}' is already there")
        return target
    if target.exists():
        raise UserError(
            f"got '{target}' without {archive.mark}",
            "wanted the whole scene or nothing there",
            "move that folder away",
        )
    source = url or archive.url
    if not urllib.parse.urlsplit(source).scheme:
        source = Path(source).expanduser().absolute().as_uri()
    try:
        Path(into).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=into) as file:
            digest, size = fetch(source, file, goal=target / archive.mark)
            if archive.sha256 not in (None, digest):
                raise damaged_archive(source, f"its SHA-256 is {digest}")
            for scene in unpack(file, archive, Path(into), source):
                record(Path(into) / archive.scenes[scene], scene, source, digest, size, say)
    except OSError as error:
        raise RunError(
            f"could not write into '{into}' ({error.strerror or error})",
            "wanted a writable disk with space",
            "free some, or choose another folder",
        ) from error
    if not target.is_dir():
        raise RunError(
            f"got '{source}' without a scene '{name}'",
            f"wanted a folder {name}/ with {archive.mark}",
            "check the address",
        )
    say(f"licence: {archive.licence}")
    return target


def fetch(url: str, file: BinaryIO, *, goal: Path) -> tuple[str, int]:
    """Copy a URL into an open file; returns its SHA-256 and its size in bytes.

    ``goal`` is the file that must be put in place by hand when the download fails.
    """
    digest, size = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mednerf-kit"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(
                total=total or None,
                unit="B",
                unit_scale=True,
                desc=url.rpartition("/")[2][:40],
                disable=None,
                file=sys.stderr,
            )
            with bar:
                while piece := answer.read(1 << 20):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    bar.update(len(piece))
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(
            f"could not get {url} ({reason})",
            "wanted the archive of this scene",
            f"download it elsewhere and unpack it so that '{goal}' exists, or give its place with "
            "--url",
        ) from None
    if total and size != total:
        raise RunError(
            f"got {size} of {total} bytes of {url}", "wanted the whole archive", "try again"
        )
    return digest.hexdigest(), size


def unpack(file: BinaryIO, archive: Archive, into: Path, source: str) -> list[str]:
    """Unpack the scenes of an archive that are not there yet; returns their names.

    Each scene is unpacked whole or not at all; every file's CRC is checked.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            entries = [
                entry
                for entry in opened.infolist()
                if not entry.is_dir() and "__MACOSX" not in entry.filename
            ]
            roots = {
                PurePosixPath(e.filename).parent
                for e in entries
                if PurePosixPath(e.filename).name == archive.mark
            }
            done = []
            for root in sorted(root for root in roots if root.name in archive.scenes):
                target = into / archive.scenes[root.name] / root.name
                if not target.exists():
                    _unpack_scene(opened, entries, root, target)
                    done.append(root.name)
            return done
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise damaged_archive(source, str(error)) from None


def _unpack_scene(
    opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo], root: PurePosixPath, target: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        for entry in entries:
            path = PurePosixPath(entry.filename)
            if not path.is_relative_to(root) or ".." in path.parts:
                continue
            place = temporary / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry) as packed, open(place, "wb") as plain:
                shutil.copyfileobj(packed, plain)
        temporary.chmod(0o755)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def record(
    folder: Path, scene: str, source: str, digest: str, size: int, say: Callable[[str], None]
) -> None:
    """Write beside a scene where it came from; reports an archive that has changed since."""
    path = folder / f"{scene}.source.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before.get("url") == source and before.get("sha256") != digest:
            say(f"{source} has changed: SHA-256 {digest}, before {before.get('sha256')}")
    files.write_json(path, {"url": source, "bytes": size, "sha256": digest})
    say(f"SHA-256 of the archive {digest} ({size} bytes), recorded in '{path}'")


def damaged_archive(source: str, why: str) -> UserError:
    """The error for an archive that is not what it should be."""
    return RunError(
        f"got {source}, which is damaged ({why})",
        "wanted a whole zip",
        "try again, or give another place with --url",
    )
