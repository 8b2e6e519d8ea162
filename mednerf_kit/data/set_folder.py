"""Where a set lies: the names of those in the package, and folders, known without torch."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError

#: Phantom cohorts and a scene that need nothing on disk.
EMBEDDED = ("chest", "knee", "blocks")


def check_folder(root: Path) -> None:
    """Refuse what is no folder as a set of DRRs.

    >>> check_folder(Path("/"))
    """
    if not root.is_dir():
        raise UserError(
            f"got dataset '{root}', which is no folder",
            f"wanted {', '.join(EMBEDDED)}, or a folder of DRRs or of a posed scene",
            "check the path or the name",
        )


def check_dataset(dataset: str | None) -> None:
    """Refuse what is neither the name of an embedded dataset nor a folder; None passes."""
    if dataset is not None and dataset not in EMBEDDED:
        check_folder(Path(dataset).expanduser())


def check_cts(root: Path) -> None:
    """Refuse what is no folder as one of CTs."""
    if not root.is_dir():
        raise UserError(f"got '{root}', which is no folder", "wanted one of CTs", "check the path")
