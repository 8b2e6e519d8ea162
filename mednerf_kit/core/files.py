"""Files that are whole or absent: atomic writes of text, JSON, CSV and tensors.

Tensors are safetensors files with JSON metadata beside them; nothing is pickled.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunError, UserError

if TYPE_CHECKING:  # torch takes a second to import, and a look at a file's metadata needs none
    from torch import Tensor


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well.

    It lies in the same folder and has the same suffix.

    An error leaves the old file as it was; a full disk answers with a :class:`RunError`.
    """
    path = Path(path)
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}-", suffix=suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"could not write '{path}' ({error.strerror or error})",
            "wanted a writable disk with space",
            "free some space or choose another folder; the previous file is untouched",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    """Write named tensors and JSON metadata as one safetensors file, atomically."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"meta": json.dumps(meta or {})})
        # safetensors wraps the operating system's error in its own class
        except Exception as error:
            raise OSError(str(error)) from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote. A damaged file is named in the error."""
    with _opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _meta(file)  # noqa: SIM118


def load_meta(path: str | Path) -> dict[str, Any]:
    """The JSON metadata alone of what :func:`save_tensors` wrote, without importing torch.

    A damaged file is named in the error: its header must be whole, and the file as long as the
    header says.
    """
    with _opened(path, "np") as file:
        return _meta(file)


def _meta(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {}).get("meta", "{}"))


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
