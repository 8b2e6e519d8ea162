"""Errors for people: one sentence and an exit code, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name nobody registered, with the nearest one offered.

    >>> print(unknown_name("sampler", "locl", ["stratified", "local"]))
    got sampler 'locl'; wanted one of local, stratified: did you mean 'local'?
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else "pick one of these"
    return UserError(f"got {kind} '{name}'", f"wanted one of {', '.join(known)}", hint)
