"""Files that are whole or absent: atomic writes of text, JSON, CSV, tensors and folders, and files
that grow by whole records.

Tensors are safetensors files with JSON metadata and a checksum beside them; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunError, UserError

try:
    import fcntl
except ImportError:  # where files have no such locks, what a killed process left stays
    fcntl = None  # type: ignore[assignment]

RANDOM = "[a-z0-9_]{8}"  # what tempfile puts into a name
#: Temporary files and folders; the suffix, which writers go by, stands at the end as well.
TEMPORARY = re.compile(rf"\..+?((?:\.\w+)+)-{RANDOM}\1|\..+-{RANDOM}\.part")

if TYPE_CHECKING:  # torch takes a second to import, and a look at a file's metadata needs none
    from torch import Tensor


@contextmanager
def atomic(path: str | Path, *, frames: int | None = None) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well.

    It lies in the same folder and has the same suffix. What was written is read back as far as its
    kind asks for (:mod:`.written`; ``frames`` of a video), and lies on the disk before it gets its
    name.

    An error leaves the old file as it was; a full disk answers with a :class:`RunError`.
    """
    from .written import check_whole  # what only reads has no need of it

    path = Path(path)
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    stem = path.name.removesuffix(suffix)
    temporary: Path | None = None
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary, handle = _locked(
                lambda: _made_file(path.parent, prefix=f".{stem[:40]}{suffix}-", suffix=suffix)
            )
            stack.callback(os.close, handle)
            yield temporary
            check_whole(temporary, frames)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except OSError as error:
            raise could_not_write(path, error) from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder whose files take their places in ``folder`` when the block ends well.

    On an error none of them does. In a folder that holds something already, what has other names
    stays, and files are exchanged one by one, JSON last, which says that the others are there.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder if _stays(folder) else folder.parent
        remove_strays(beside)
        temporary, handle = _locked(
            lambda: tempfile.mkdtemp(dir=beside, prefix=f".{folder.name[:40]}-", suffix=".part")
        )
    except OSError as error:
        raise could_not_write(folder, error) from error
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        _take_places(temporary, folder)
    except (RunError, OSError) as error:
        if isinstance(error, RunError):  # of a file, which will have its place in the folder
            error.args = (str(error).replace(str(temporary), str(folder)),)
            raise
        raise could_not_write(folder, error) from error
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _stays(folder: Path) -> bool:
    """Whether a folder is there that another one cannot take the place of in one step."""
    return folder.is_dir() and (
        any(folder.iterdir())
        or os.path.ismount(folder)
        or not os.access(folder.parent, os.W_OK | os.X_OK)
    )


def _take_places(temporary: Path, folder: Path) -> None:
    """Move everything in ``temporary`` to ``folder``, in one step where nothing stays there."""
    if not _stays(folder):
        temporary.rename(folder)
        return
    found = [path for path in temporary.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: path.suffix == ".json"):
        place = folder / path.relative_to(temporary)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)


def made_folder(path: str | Path) -> Path:
    """Make the folder for results now: a failure must come before the work, not after it.

    What a killed process has left in it of unfinished files is removed.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"could not make folder '{path}' ({error.strerror})",
            "wanted a place for the results",
            "choose another folder",
        ) from None
    remove_strays(path)
    return path


def remove_strays(folder: Path) -> None:
    """Remove the temporary files and folders of processes that were killed.

    A process that lives has them locked; where nothing can be locked they stay.
    """
    for path in folder.iterdir() if fcntl is not None and folder.is_dir() else ():
        if not TEMPORARY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                _lock(handle)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def _made_file(folder: Path, *, prefix: str, suffix: str) -> str:
    """The path of a new, empty file."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
    os.close(handle)
    return name


def _locked(make: Callable[[], str]) -> tuple[Path, int]:
    """What ``make`` makes, locked, and its handle.

    Before it is locked another process may take it for a stray: then another one is made.
    """
    while True:
        path = Path(make())
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            handle = os.open(path, os.O_RDONLY)
            try:
                _lock(handle)
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return path, handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file or folder until it is closed; BlockingIOError where another process has."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


class GrowingFile:
    """A file that grows by whole records: one that a full disk cuts is taken back.

    Raises :class:`RunError` where it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise could_not_write(self.path, error) from error

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def append(self, record: bytes) -> None:
        """Put a record at the end, without a buffer."""
        size, rest = os.fstat(self.handle).st_size, memoryview(record)
        try:
            while rest:
                rest = rest[os.write(self.handle, rest) :]
        except OSError as error:
            os.ftruncate(self.handle, size)
            raise could_not_write(self.path, error) from error


def could_not_write(path: Path, error: OSError) -> RunError:
    """The sentence for a file that the operating system or :mod:`.written` did not accept."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return RunError(
        f"could not write '{path}' ({error.strerror or lines[-1]})",
        "wanted a writable disk with space",
        "free some space or choose another folder; the previous file is untouched",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def existing(path: str | Path, wanted: str) -> Path:
    """The path; a UserError where nothing is there, which says what was wanted.

    >>> existing("/", "a folder").name
    ''
    """
    if not Path(path).exists():
        raise UserError(f"got '{path}', which does not exist", f"wanted {wanted}", "check the path")
    return Path(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically (NaN is refused: it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; raises OSError, or ValueError for text that is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def csv_text(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    line_end: str = "\n",
) -> str:
    """Rows as the text of a CSV file with a header.

    ``columns`` name what is written, in their order: by default every key, in the order of first
    appearance. A value that is absent or None leaves its cell empty.

    >>> print(csv_text([{"view": "a", "psnr_db": 30.5}, {"view": "b, c"}]), end="")
    view,psnr_db
    a,30.5
    "b, c",
    """
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorting key of file names by which view 10 follows view 9, with or without leading zeros.

    >>> [path.name for path in sorted(map(Path, ["v10.png", "v9.png"]), key=natural_key)]
    ['v9.png', 'v10.png']
    """
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)
    ]


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors and JSON metadata as one safetensors file, atomically.

    A checksum of both stands in the header as ``digest``.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(meta or {})
    with atomic(path) as temporary:
        bytearray(4 << 20)  # or a MemoryError: where its writer gets no buffer, the process ends
        try:
            save_file(whole, temporary, metadata={"meta": text, "digest": digest_of(whole, text)})
        # safetensors wraps the operating system's error in its own class
        except Exception as error:
            raise OSError(str(error)) from error


def digest_of(tensors: Mapping[str, Tensor], text: str) -> str:
    """A checksum (BLAKE2b of 64 bits) of named tensors, their shapes and types, and of a text.

    >>> import torch
    >>> digest_of({"a": torch.zeros(2)}, "") == digest_of({"a": torch.zeros(1, 2)}, "")
    False
    """
    import torch

    found = hashlib.blake2b(text.encode(), digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote. A damaged file is named in the error.

    Files of before there was a checksum are read without.
    """
    with _opened(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata() or {}
        if header.get("digest") not in (None, digest_of(tensors, header.get("meta", "{}"))):
            raise ValueError("its checksum is another than that of what it holds")
        return tensors, _meta(file)


def load_meta(path: str | Path) -> dict[str, Any]:
    """The JSON metadata alone of what :func:`save_tensors` wrote, without importing torch.

    A damaged file is named in the error: its header must be whole, and the file as long as the
    header says. The checksum is not compared, for it takes the tensors too.
    """
    with _opened(path, "np") as file:
        return _meta(file)


def _meta(file: Any) -> dict[str, Any]:
    meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    if not isinstance(meta, dict):
        raise ValueError("its metadata are no JSON object")
    return meta


@contextmanager
def _opened(path: str | Path, framework: str) -> Iterator[Any]:
    """A safetensors file, opened for reading; what is wrong with it is a UserError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(existing(path, "a snapshot")), framework=framework) as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"got '{path}', which is damaged ({error})",
            "wanted a whole safetensors file",
            "use the snapshot before it",
        ) from None
