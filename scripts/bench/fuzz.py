#!/usr/bin/env python3
"""Damaged and hostile files for every reader, made by Hypothesis from whole ones.

    python scripts/bench/fuzz.py --cases 1000

The whole files are made here; the same seed makes the same damage. Every case is read in a process
of its own, through the command line, within 10 s of the processor and 2 GiB beyond what the program
itself takes.
What is asked for is an answer: done (0), a failure (1) or an input that cannot be used (2), and no
traceback, nothing "unexpected", no "interrupted" where nobody interrupted. Exits with 1 where a
case misses; what was read then stays in --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import yaml
from fuzz_corpus import Target, targets
from hostile import one_thread
from hypothesis import strategies as st

from mednerf_kit import cli

SECONDS, GIB = 10, 2
PATIENCE_S = 30 * SECONDS  # of the wall clock: what takes longer waits for something
#: In place of a number or a word of a text.
WORDS = (
    *("nan", "inf", "-inf", "-5", "0", "1e308", "1e-320", "99999999999999999999", "-0.0", "1e11"),
    *("null", "true", '"a"', "[]", "{}", "[[]]", "''", "\0", "é", "-", "a b", "2147483648", ""),
)
#: In place of a node of JSON or YAML.
NODES = (
    *(None, True, -5, 0, 1e308, float("nan"), float("inf"), 10**12, 10**25, 0.5, "a", "", "nan"),
    *([], {}, [[]], {"name": 3}, [None], ["a"], [1, 2, 3], [[0.0] * 4] * 4, "../../../etc"),
)
#: In place of any bytes.
NUMBERS = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in {
        "h": (-1, 0, 32767),
        "i": (-1, 0, 2**31 - 1, 70000),
        "q": (-1, 0, 2**62, 10**6),
        "f": (float("nan"), float("inf"), -1.0, 0.0, 1e38),
        "d": (float("nan"), float("inf"), -1.0, 0.0, 1e300),
    }.items()
    for value in values
)
FOREIGN = (b"", b"\0", bytes(400), b"<html>not found</html>\n" * 9, b"PK\x03\x04" + bytes(90), b"{")


# what is done to a file


def text_of(content: bytes) -> str | None:
    """A file's text; None of a binary one."""
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode()
        return text if "\0" not in text else None
    return None


@st.composite
def other_word(draw: st.DrawFn, text: str) -> bytes:
    """One word or number of a text replaced."""
    found = list(re.finditer(r"[-+.\w]+", text)) or [re.match("", text)]
    word = draw(st.sampled_from(found))
    return (text[: word.start()] + draw(st.sampled_from(WORDS)) + text[word.end() :]).encode()


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all nodes below the root."""
    if not isinstance(node, (dict, list)):
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def other_node(draw: st.DrawFn, root: Any, write: Callable[[Any], str]) -> bytes:
    """One node of JSON or YAML replaced or left out, or the root itself."""
    root = json.loads(json.dumps(root))
    known = list(places(root))
    if not known or draw(st.integers(0, 20)) == 0:
        return write(draw(st.sampled_from(NODES))).encode()
    *path, last = draw(st.sampled_from(known))
    node = root
    for key in path:
        node = node[key]
    if draw(st.integers(0, 3)) == 0:
        del node[last]
    else:
        node[last] = draw(st.sampled_from(NODES))
    return write(root).encode()


@st.composite
def other_array(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """An array of another shape, type or range."""
    return draw(
        st.sampled_from(
            (
                *(array[:0], array.ravel(), array[None], array[..., :1], np.float64(1.0)),
                *(array.astype(complex), array.astype(str), array > 0, array.astype("i1")),
                *(np.full(array.shape, value) for value in (np.nan, np.inf, 0.0, 1e300, -1.0)),
                np.zeros(array.shape, [("a", "f4"), ("b", "f4")]),
            )
        )
    )


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as an NPY file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@st.composite
def damaged(draw: st.DrawFn, name: str, content: bytes) -> bytes:
    """A file's content, damaged: cut, overwritten, or with other values in its place."""
    ways: list[st.SearchStrategy[bytes]] = [
        st.integers(0, max(0, len(content) - 1)).map(lambda n: content[:n]),
        st.sampled_from(FOREIGN),
        overwritten(content, st.binary(min_size=1, max_size=24)),
    ]
    text = text_of(content)
    if text is not None:
        ways += 4 * [other_word(text)]
    else:
        ways += [
            overwritten(content, st.sampled_from((bytes(64), b"\xff" * 64))),
            overwritten(content, st.sampled_from(NUMBERS)),
            overwritten(content[:400], st.sampled_from(NUMBERS)).map(lambda c: c + content[400:]),
        ]
    if name.endswith(".json") and text:
        ways += 6 * [other_node(json.loads(text), json.dumps)]
    if name.endswith(".yaml") and text:
        ways += 6 * [other_node(yaml.safe_load(text), yaml.safe_dump)]
    if name.endswith(".npy"):
        ways += 3 * [other_array(np.load(io.BytesIO(content))).map(npy_bytes)]
    if name.endswith(".safetensors"):
        ways += 3 * [other_metadata(content)]
    return draw(st.one_of(ways))


@st.composite
def overwritten(draw: st.DrawFn, content: bytes, other: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes replaced."""
    at, new = draw(st.integers(0, max(0, len(content) - 1))), draw(other)
    return content[:at] + new + content[at + len(new) :]


@st.composite
def other_metadata(draw: st.DrawFn, content: bytes) -> bytes:
    """A tensor file with other metadata, and without the checksum that would tell."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    meta = json.loads(header["__metadata__"].pop("meta"))
    header["__metadata__"] = {"meta": draw(other_node(meta, json.dumps)).decode()}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


# how it is read


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    code: int  # the exit code, or minus the signal
    said: str
    seconds: float  # of the processor
    gib: float  # largest memory of the process

    @property
    def fault(self) -> str:
        """What is wrong with it, or nothing."""
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if "Traceback" in self.said or "unexpected" in self.said:
            return "not foreseen"
        if self.seconds > SECONDS or self.gib > GIB:
            return f"{self.seconds:.1f} s, {self.gib:.1f} GiB"
        if self.code and sum("Error: " in line for line in self.said.splitlines()) != 1:
            return "not one sentence"
        return ""


def read_apart(read: Callable[[Path], Any], folder: Path) -> Outcome:
    """Let a process of its own read a folder, as the command line would."""
    said = folder / ".said"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            one_thread()
            handle = os.open(said, os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = (os.fdopen(fd, "w", 1) for fd in (1, 2))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (GIB << 30), resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS))
            signal.alarm(PATIENCE_S)
            os.chdir(folder)
            cli_of = cli.cli
            cli.cli = SimpleNamespace(main=lambda *_, **__: read_with(cli_of, read, folder))  # type: ignore[assignment]
            code = cli.main([])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    text = said.read_text(errors="replace") if said.is_file() else ""
    return Outcome(code, text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def read_with(group: Any, read: Callable[[Path], Any], folder: Path) -> None:
    """Read with the real group of commands in its place."""
    cli.cli = group
    read(folder)


def warm_up() -> None:
    """What takes long to import comes once, before the forks."""
    import matplotlib.figure  # noqa: F401
    import nibabel  # noqa: F401
    import pydicom  # noqa: F401
    import SimpleITK  # noqa: F401
    import skimage.measure  # noqa: F401
    import tifffile  # noqa: F401
    import torch._dynamo  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401


def fuzz(
    target: Target, corpus: Path, count: int, seed: int, keep: Path | None = None
) -> list[Outcome]:
    """Damage a target's files ``count`` times, and read each."""
    whole = corpus / target.name.replace("/", "_")
    if not whole.is_dir():
        whole.mkdir(parents=True)
        target.make(whole)
    first = Path(shutil.copytree(whole, corpus / "undamaged"))
    assert (read := read_apart(target.read, first)).code == 0, f"{target.name}: {read.said}"
    shutil.rmtree(first)
    names = sorted(
        path.relative_to(whole).as_posix()
        for path in whole.rglob(target.pattern)
        if path.is_file() and "events.out" not in path.name and path.name != "log.txt"
    )
    contents = {name: (whole / name).read_bytes() for name in names}
    found: list[Outcome] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def one(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(names))
        content = data.draw(damaged(name, contents[name]))
        with tempfile.TemporaryDirectory(dir=corpus) as place:
            folder = Path(place) / "case"
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(content)
            found.append(read_apart(target.read, folder))
            if found[-1].fault and keep is not None:
                fault = f"{target.name.replace(': ', '-').replace('/', '_')}-{len(found)}"
                shutil.copytree(folder, keep / fault, dirs_exist_ok=True)
                (keep / fault / ".damaged").write_text(f"{name}\n{found[-1].fault}\n")

    one()
    return found


def main() -> None:
    """Fuzz every reader and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets with this in their names")
    parser.add_argument("--keep", type=Path, help="folder for the cases that miss")
    options = parser.parse_args()
    warm_up()
    chosen = [target for target in targets() if options.only in target.name]
    start, rows = time.perf_counter(), {}
    print("| input | cases | read | refused (2) | failed (1) | missed | slowest, s | most, GiB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as corpus:
        os.environ["MEDNERF_KIT_CACHE"] = f"{corpus}/cache"
        for i, target in enumerate(chosen):
            count = (i + 1) * options.cases // len(chosen) - i * options.cases // len(chosen)
            rows[target.name] = fuzz(target, Path(corpus), count, options.seed, options.keep)
            print(row(target.name, rows[target.name]), flush=True)
    every = [outcome for found in rows.values() for outcome in found]
    print(row("all", every))
    print(f"{time.perf_counter() - start:.0f} s, seed {options.seed}")
    faults = [(name, o) for name, found in rows.items() for o in found if o.fault]
    for name, outcome in faults:
        print(f"{name}: {outcome.fault}: {outcome.said[-400:].strip()}")
    sys.exit(1 if faults else 0)


def row(name: str, found: list[Outcome]) -> str:
    """A line of the table."""
    codes, missed = Counter(o.code for o in found), sum(bool(o.fault) for o in found)
    slowest, most = max(o.seconds for o in found), max(o.gib for o in found)
    counts = f"{len(found)} | {codes[0]} | {codes[2]} | {codes[1]} | {missed}"
    return f"| {name} | {counts} | {slowest:.1f} | {most:.2f} |"


if __name__ == "__main__":
    main()
