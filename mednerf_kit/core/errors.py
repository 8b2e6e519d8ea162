"""Errors for people: one sentence and an exit code, without a traceback."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class UserError(Exception):
    """Something that a person supplied cannot be used (exit code 2).

    The sentence says what was got, what was wanted and what to do next.

    >>> print(UserError("got SOD 900 mm, SDD 800 mm", "wanted SOD < SDD", "swap the two distances"))
    got SOD 900 mm, SDD 800 mm; wanted SOD < SDD: swap the two distances.
    """

    exit_code = 2

    def __init__(self, got: str, wanted: str, next_step: str) -> None:
        end = "" if next_step.endswith(("?", "!", ".")) else "."
        super().__init__(f"{got}; {wanted}: {next_step}{end}")


class RunError(UserError):
    """Something went wrong while working, such as a full disk or a NaN (exit code 1)."""

    exit_code = 1


#: How libraries that raise errors of other kinds say that memory ran out, in small letters.
NO_MEMORY = (
    *("out of memory", "allocate memory", "bad_alloc", "can't start new thread"),
    *("failed to map segment", "could not create a primitive", "could not execute a primitive"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    On a CPU, torch, oneDNN, ITK and the loader of shared libraries raise kinds of errors that stand
    for much else; there the words tell.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("shapes do not match"))
    False
    """
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(known in words for known in NO_MEMORY)


@contextmanager
def reading(what: str, wanted: str, next_step: str) -> Iterator[None]:
    """Whatever a reader stumbles over inside the block is the fault of the file: a UserError.

    Sentences that say more stay as they are. The reader's own error is the cause.

    >>> try:
    ...     with reading("'a.json'", "wanted a whole file", "copy it again"):
    ...         {}["step"]
    ... except UserError as error:
    ...     print(error)
    got 'a.json', which cannot be read (KeyError: 'step'); wanted a whole file: copy it again.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["without a message"]
        why = f"which cannot be read ({type(error).__name__}: {lines[0][:200]})"
        if is_out_of_memory(error):
            why = "which takes more memory than there is"
        raise UserError(f"got {what}, {why}", wanted, next_step) from error


def reader(wanted: str, next_step: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator of a function whose first argument is what it reads: :func:`reading` about it."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def read(*args: P.args, **options: P.kwargs) -> T:
            source = args[0] if args else next(iter(options.values()))
            with reading(f"'{source}'", wanted, next_step):
                return function(*args, **options)

        return read

    return decorate


def unknown_name(kind: str, name: object, known: Iterable[object]) -> UserError:
    """The error for a name nobody registered, with the nearest one offered.

    Names that YAML takes for something else (``true``, ``7``) stand as they print.

    >>> print(unknown_name("sampler", "locl", ["stratified", "local"]))
    got sampler 'locl'; wanted one of local, stratified: did you mean 'local'?
    >>> print(unknown_name("recipe key", True, ["steps", 7]))
    got recipe key 'True'; wanted one of 7, steps: pick one of these.
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else "pick one of these"
    return UserError(f"got {kind} '{name}'", f"wanted one of {', '.join(names)}", hint)
