"""Files are whole or absent: whatever goes wrong while writing, the old file is still there."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.core.files import (
    GrowingFile,
    atomic,
    csv_text,
    load_tensors,
    made_folder,
    natural_key,
    remove_strays,
    save_tensors,
    whole_folder,
    write_json,
    write_text,
)


def test_rows_become_csv():
    rows = [
        {"name": "a", "psnr_db": 0.1 + 0.2, "n": 1},
        {"name": 'b, "c"', "psnr_db": None, "ssim": 1e-7},
    ]
    assert csv_text(rows) == (
        'name,psnr_db,n,ssim\na,0.30000000000000004,1,\n"b, ""c""",,,1e-07\n'
    ), "every digit; what is absent or None leaves its cell empty"
    assert csv_text([{"b": 1}], ["a", "b"], line_end="\r\n") == "a,b\r\n,1\r\n"
    assert csv_text([], ["a"]) == "a\n"


def test_a_row_with_an_unnamed_column_is_refused():
    with pytest.raises(ValueError, match="b"):
        csv_text([{"b": 1}], ["a"])


def test_names_sort_by_their_numbers():
    names = ["v10.png", "a2_1.png", "v9.png", "v09b.png", "a10_0.png", "a2_0.png", "b.png"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered == [
        "a2_0.png",
        "a2_1.png",
        "a10_0.png",
        "b.png",
        "v9.png",
        "v09b.png",
        "v10.png",
    ]


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=rng),
        "half": torch.randn(5, generator=rng).half(),
        "n": torch.tensor(7),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "view": torch.randn(4, 4, generator=rng).T,
    }


def test_text_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for text in ("one", "two – Ümlaut"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json_refuses_what_is_no_json_and_keeps_the_old(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1.5})
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": 1.5}


@pytest.mark.parametrize(
    "name, suffix",
    [("v.tar.gz", ".tar.gz"), ("a.txt", ".txt"), ("s.b.csv", ".csv"), ("plain", "")],
)
def test_the_temporary_file_has_the_suffix_writers_go_by(tmp_path, name, suffix):
    with atomic(tmp_path / name) as temporary:
        assert (
            temporary.parent == tmp_path
            and temporary.name.endswith(suffix)
            and temporary.name.startswith(".")
        )
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_an_error_while_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(type(error)), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "where", ["os.fsync", "os.replace", "pathlib.Path.write_text", "tempfile.mkstemp"]
)
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch, where):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(
            RunError, match=r"a\.txt.*No space left.*previous file is untouched"
        ) as caught:
            write_text(path, "new")
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_grows_past_the_limit_leaves_the_old_file(tmp_path):
    """The operating system itself refuses: no more than 64 KiB in a file."""
    path = tmp_path / "s.safetensors"
    save_tensors(path, tensors(), {"step": 1})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        with pytest.raises(RunError, match=r"s\.safetensors"):
            save_tensors(path, {"large": torch.zeros(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    assert load_tensors(path)[1] == {"step": 1}


def test_a_kept_file_grows_by_whole_records(tmp_path, monkeypatch):
    """The third record is cut by the disk: what it left of it is taken back."""
    with GrowingFile(tmp_path / "stats.jsonl") as file:
        file.append(b"one\n")
        file.append(b"two\n")
        real, pieces = os.write, iter([3])

        def short(handle, data):
            size = next(pieces, None)
            return full_disk() if size is None else real(handle, data[:size])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", short)
            with pytest.raises(RunError, match=r"stats\.jsonl.*No space left") as caught:
                file.append(b"three\n")
        assert caught.value.exit_code == 1
        file.append(b"four\n")
    with GrowingFile(tmp_path / "stats.jsonl") as file:
        file.append(b"five\n")
    assert (tmp_path / "stats.jsonl").read_bytes() == b"one\ntwo\nfour\nfive\n"
    with pytest.raises(RunError, match="nowhere"), GrowingFile(tmp_path / "nowhere" / "a"):
        pass


def fill(folder: Path, text: str) -> None:
    write_text(folder / "deep" / "a.txt", text)
    write_text(folder / "b.json", json.dumps(text))


def content(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


@pytest.mark.parametrize("before", ["absent", "empty", "filled"])
def test_a_folder_takes_its_place_with_everything(tmp_path, before):
    place = tmp_path / "out"
    kept = {}
    if before != "absent":
        place.mkdir()
    if before == "filled":
        fill(place, "old")
        (place / "own.txt").write_text("a user's")
        kept = {"own.txt": "a user's"}
    with whole_folder(place) as temporary:
        fill(temporary, "new")
        assert content(place) == kept | (
            {"b.json": '"old"', "deep/a.txt": "old"} if kept else {}
        ) | {f"{temporary.name}/{name}": text for name, text in content(temporary).items() if kept}
    assert content(place) == {"b.json": '"new"', "deep/a.txt": "new", **kept}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert stat.S_IMODE(place.stat().st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [{}, {"b.json": '"old"', "deep/a.txt": "old"}])
def test_of_a_folder_nothing_comes_when_something_cannot_be_written(tmp_path, error, before):
    place = tmp_path / "out"
    if before:
        fill(place, "old")
    wanted = RunError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted) as caught, whole_folder(place) as temporary:
        write_text(temporary / "deep" / "a.txt", "new")
        with atomic(temporary / "b.json"):
            raise error
    assert content(place) == before and [p.name for p in place.glob(".*")] == []
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    if wanted is RunError:
        assert f"'{place / 'b.json'}' (No space left)" in str(caught.value)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    """A process that writes still keeps its files, and so does a person."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mednerf_kit.core.files import atomic, whole_folder\n"
        "home = Path(sys.argv[1])\n"
        "with atomic(home / 'snapshot-000004.safetensors'), atomic(home / 'v.nii.gz'):\n"
        "    with whole_folder(home / 'patient'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert process.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 3
    own = [".bashrc", ".bashrc-20260101", ".config.old-20260101.bak", "v.nii.gz", ".a.txt-notes"]
    for name in own:
        (tmp_path / name).write_text("a user's")
    with atomic(tmp_path / "b.txt") as temporary:
        assert made_folder(tmp_path) == tmp_path
        assert {p.name for p in tmp_path.iterdir()} == {*own, temporary.name}


@pytest.mark.parametrize("made", ["mkstemp", "mkdtemp"])
def test_what_is_not_yet_locked_may_be_taken_for_a_stray(tmp_path, monkeypatch, made):
    """Another process tidies up just when a temporary file or folder is made."""
    make, removed = getattr(tempfile, made), []

    def tidied(**options):
        found = make(**options)
        if not removed:
            removed.append(found)
            remove_strays(tmp_path)
        return found

    monkeypatch.setattr(f"tempfile.{made}", tidied)
    if made == "mkstemp":
        write_text(tmp_path / "a.txt", "whole")
        assert content(tmp_path) == {"a.txt": "whole"}
    else:
        with whole_folder(tmp_path / "out") as temporary:
            fill(temporary, "new")
        assert content(tmp_path / "out") == {"b.json": '"new"', "deep/a.txt": "new"}
    assert removed and not list(tmp_path.glob(".*"))


def test_a_full_disk_while_saving_tensors_keeps_the_snapshot_before(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    save_tensors(path, tensors())
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(RunError, match="No space left"):
            save_tensors(path, {"a": torch.zeros(2)})
    assert torch.equal(load_tensors(path)[0]["a"], tensors()["a"])


def test_without_memory_saving_tensors_is_an_error_and_not_the_end_of_the_process(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; import torch, safetensors.torch\n"
        "from mednerf_kit.core.files import save_tensors\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + (400 << 10)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try: save_tensors(sys.argv[1], {'a': torch.ones(2)})\n"
        "except MemoryError: sys.exit(7)\n"
    )
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "s.safetensors"])
    assert found.returncode == 7, "its writer aborts where it gets no buffer"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_tensors_and_metadata_come_back(tmp_path):
    meta = {"step": 3, "names": ["ä", "b"], "nested": {"x": None, "y": 0.1}}
    save_tensors(tmp_path / "s.safetensors", tensors(), meta)
    found, found_meta = load_tensors(tmp_path / "s.safetensors")
    assert found_meta == meta and set(found) == set(tensors())
    for name, wanted in tensors().items():
        assert torch.equal(found[name], wanted) and found[name].dtype == wanted.dtype


def test_tensors_that_share_memory_or_need_gradients_are_saved_whole(tmp_path):
    base = torch.arange(12.0, requires_grad=True)
    save_tensors(tmp_path / "s.safetensors", {"whole": base, "part": base[2:5]})
    found, meta = load_tensors(tmp_path / "s.safetensors")
    assert found["part"].tolist() == [2, 3, 4] and found["whole"].shape == (12,) and meta == {}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_text(path: Path) -> None:
    path.write_text("this was never a snapshot, whatever its name says")


def scramble(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[8:40] = bytes(32)
    path.write_bytes(bytes(whole))


def flip_a_weight(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 4
    path.write_bytes(bytes(whole))


def zero_weights(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes(20))


def change_metadata(path: Path) -> None:
    whole = path.read_bytes()
    assert whole.count(b'step\\": 1') == 1
    path.write_bytes(whole.replace(b'step\\": 1', b'step\\": 7'))


@pytest.mark.parametrize(
    "harm",
    [
        *(cut, cut_header, empty, fill_with_text, scramble),
        *(flip_a_weight, zero_weights, change_metadata),
    ],
)
def test_a_damaged_file_is_named(tmp_path, harm):
    path = tmp_path / "snapshot-000010.safetensors"
    save_tensors(path, tensors(), {"step": 1})
    harm(path)
    with pytest.raises(UserError, match="snapshot-000010.safetensors.*damaged") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_file_of_before_there_was_a_checksum_is_read(tmp_path):
    metadata = {"meta": json.dumps({"step": 3})}
    save_file({"a": torch.ones(2)}, tmp_path / "s.safetensors", metadata)
    found, meta = load_tensors(tmp_path / "s.safetensors")
    assert meta == {"step": 3} and found["a"].tolist() == [1, 1]


@pytest.mark.parametrize("text", ["[]", "3", "null", '"step"', "{", ""])
def test_metadata_that_are_no_object_are_named(tmp_path, text):
    path = tmp_path / "s.safetensors"
    save_file({"a": torch.ones(2)}, path, {"meta": text})
    with pytest.raises(UserError, match=r"s\.safetensors.*damaged"):
        load_tensors(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.*does not exist"):
        load_tensors(tmp_path / "gone.safetensors")


def test_a_folder_is_no_snapshot(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tensors(tmp_path)
