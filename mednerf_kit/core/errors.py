"""What a person is told when something supplied cannot be used: one sentence, one exit code, no
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something supplied is unusable: says what was got, what was wanted and what to do next (exit
    code 2).

    >>> print(UserError("got SOD 900 mm, SDD 800 mm", "wanted SOD < SDD", "swap the two distances"))
    got SOD 900 mm, SDD 800 mm; wanted SOD < SDD: swap the two distances.
    """

    exit_code = 2

    def __init__(self, got: str, wanted: str, next_step: str) -> None:
        end = "" if next_step.endswith(("?", "!", ".")) else "."
        super().__init__(f"{got}; {wanted}: {next_step}{end}")


class RunError(UserError):
    """Something went wrong while working (a full disk, a NaN): same sentence, exit code 1."""

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
