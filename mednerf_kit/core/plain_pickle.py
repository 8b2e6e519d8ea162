"""The plain data of a pickle: dictionaries, lists, numbers, texts and NumPy arrays; no code is run.

The file's opcodes are read by the standard library's ``pickletools`` and interpreted here. A pickle
may name functions to be called; only the ones that rebuild a NumPy array, type or number are
understood, by functions of this module. Anything else is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError

MARK = object()
CONVERT = "where you trust its author, load it there and write it again with numpy.savez"
#: How the opcodes end that push their argument.
NUMBERS = ("INT", "INT1", "INT2", "LONG", "LONG1", "LONG4", "FLOAT")
TEXTS = ("STRING", "UNICODE", "UNICODE8", "BYTES", "BYTES8", "BYTEARRAY8")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NUMBER_KINDS = "fiub"


class NotPlain(ValueError):
    """A pickle that holds more than plain data; the text says what."""


@dataclass(frozen=True)
class Named:
    """A global that the pickle names, by module and name; it is never imported."""

    name: str


@dataclass
class Built:
    """An array or a type whose parts come later, in a BUILD."""

    value: Any = None


def read_plain_pickle(path: str | Path) -> Any:
    """What a pickle of plain data holds.

    Raises UserError for a damaged file and for one that would run code.
    """
    path = Path(path)
    try:
        return plain(path.read_bytes())
    except NotPlain as error:
        raise UserError(
            f"got '{path}', a pickle with {error}", "wanted plain arrays only", CONVERT
        ) from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"got '{path}', which cannot be read as a pickle ({error})",
            "wanted a whole one",
            "copy the file again",
        ) from None


def plain(data: bytes) -> Any:
    """The plain data of a pickle's bytes; raises NotPlain or another ValueError.

    >>> plain(bytes.fromhex("8003 7d 58 01000000 61 4b02 73 2e".replace(" ", "")))
    {'a': 2}
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name.endswith(NUMBERS + TEXTS):
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name in STEPS:
            STEPS[name](stack, argument)
        elif name == "STOP":
            return _finished(stack.pop())
        elif name not in ("PROTO", "FRAME"):
            raise NotPlain(f"the instruction {name}")
    raise ValueError("it breaks off")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = max(k for k, value in enumerate(stack) if value is MARK)
    found = stack[at + 1 :]
    del stack[at:]
    return found


def _append(stack: list[Any], argument: Any) -> None:
    value = stack.pop()
    stack[-1].append(value)


def _appends(stack: list[Any], argument: Any) -> None:
    values = _since_mark(stack)
    stack[-1].extend(values)


def _set(stack: list[Any], argument: Any) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _sets(stack: list[Any], argument: Any) -> None:
    values = _since_mark(stack)
    stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _dict(stack: list[Any], argument: Any) -> None:
    values = _since_mark(stack)
    stack.append(dict(zip(values[::2], values[1::2], strict=True)))


def _global(stack: list[Any], argument: Any) -> None:
    if argument is None:  # STACK_GLOBAL
        name, module = stack.pop(), stack.pop()
    else:
        module, name = argument.split(" ", 1)
    whole = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if whole not in CALLS and whole != "numpy.ndarray":
        raise NotPlain(f"'{module}.{name}' in it")
    stack.append(Named(whole))


def _reduce(stack: list[Any], argument: Any) -> None:
    arguments, called = stack.pop(), stack.pop()
    if not isinstance(called, Named) or called.name not in CALLS:
        raise NotPlain("a call of something that is no array")
    stack.append(CALLS[called.name](*arguments))


def _build(stack: list[Any], argument: Any) -> None:
    state = stack.pop()
    built = stack[-1]
    if not isinstance(built, Built):
        raise NotPlain("an object that is no array")
    if isinstance(built.value, np.dtype):
        built.value = built.value.newbyteorder(state[1] if state[1] in "<>" else "=")
        return
    _, shape, kind, is_fortran, raw = state
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    flat = np.frombuffer(bytes(raw), _type_of(kind))
    built.value = flat.reshape(shape, order="F" if is_fortran else "C")


STEPS: dict[str, Callable[[list[Any], Any], None]] = {
    "MARK": lambda stack, argument: stack.append(MARK),
    "POP": lambda stack, argument: stack.pop() and None,
    "POP_MARK": lambda stack, argument: _since_mark(stack).clear(),
    "DUP": lambda stack, argument: stack.append(stack[-1]),
    "TUPLE": lambda stack, argument: stack.append(tuple(_since_mark(stack))),
    "LIST": lambda stack, argument: stack.append(_since_mark(stack)),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set,
    "SETITEMS": _sets,
    "GLOBAL": _global,
    "STACK_GLOBAL": _global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _dtype(name: Any, *_: Any) -> Built:
    kind = np.dtype(str(name))
    if kind.kind not in NUMBER_KINDS:
        raise NotPlain(f"an array of '{name}'")
    return Built(kind)


def _type_of(kind: Any) -> np.dtype:
    if not isinstance(kind, Built) or not isinstance(kind.value, np.dtype):
        raise NotPlain("an array of no number type")
    return kind.value


def _scalar(kind: Any, raw: Any = b"") -> Any:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(bytes(raw), _type_of(kind))[0].item()


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(bytes(raw), _type_of(kind)).reshape(shape, order=order)


#: What a pickle may call, by the name it has there (numpy._core is numpy.core).
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: Built(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": lambda text, *_: str(text).encode("latin-1"),
    "__builtin__.bytes": lambda raw=b"": raw,
    "builtins.bytearray": lambda raw=b"": raw,
    "collections.OrderedDict": lambda *pairs: dict(*pairs),
}


def _finished(value: Any) -> Any:
    """A value with arrays in the place of what they were built in."""
    if isinstance(value, Built):
        return value.value
    if isinstance(value, dict):
        return {_finished(key): _finished(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_finished(entry) for entry in value)
    if isinstance(value, Named):
        raise NotPlain(f"'{value.name}' as a value")
    return value
