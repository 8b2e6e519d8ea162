"""The files of ``mednerf-kit tomography``: a table, volumes and slices, views side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import DISCLAIMER
from ...core import files
from ...imaging.geometry import nearest_view
from ...imaging.volume import files_at_hand, write_volumes
from ...recon.field_volume import FieldVolume
from ...viz import figures
from .case import Case

COLUMNS = {
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "psnr_gain_fitted_db": "gain-fitted dB",
    "psnr_3d_db": "3-D PSNR dB",
    "ssim_3d": "3-D SSIM",
    "mae": "3-D MAE",
    "seconds": "s",
    "processor_seconds": "processor s",
}
DIGITS = {"ssim": 3, "ssim_3d": 3, "mae": 4, "seconds": 1, "processor_seconds": 1}
SHOWN_DEG = (270.0, 0.0, 45.0)  # the held-out views nearest to these are shown


def write_all(
    out: Path,
    case: Case,
    table: Mapping[str, Any],
    volumes: Mapping[str, FieldVolume],
    shown: Mapping[str, Tensor],
    *,
    dicom: bool = False,
) -> None:
    """Everything of one comparison, or nothing; with ``dicom`` every volume as a DICOM file too."""
    with files.whole_folder(files.made_folder(out)) as folder:
        _write(folder, case, table, volumes, shown, dicom)


def _write(
    folder: Path,
    case: Case,
    table: Mapping[str, Any],
    volumes: Mapping[str, FieldVolume],
    shown: Mapping[str, Tensor],
    dicom: bool,
) -> None:
    files.write_json(folder / "table.json", table)
    files.write_text(folder / "table.csv", as_csv(table))
    files.write_text(folder / "table.md", as_markdown(table))
    figures.write_png8(folder / "views.png", views_side_by_side(case, shown))
    everything = {**volumes, **({} if case.truth is None else {"truth": case.truth})}
    brightest = [bright_value(volume.values) for volume in everything.values()]
    window = (0.0, float(torch.stack(brightest).median()))
    for name, volume in everything.items():
        slices = figures.slices_picture(volume.values, window)
        figures.write_png8(folder / f"{name}_slices.png", slices)
    if files_at_hand():
        scans = {
            name: volume.to_volume("The CT." if name == "truth" else "Estimate.")
            for name, volume in everything.items()
        }
        write_volumes(scans, folder, dicom=dicom)


def bright_value(values: Tensor) -> Tensor:
    """The value that 99.8 % of the voxels do not exceed, []."""
    return values.flatten().kthvalue(round(0.998 * values.numel())).values


def views_side_by_side(case: Case, shown: Mapping[str, Tensor]) -> Any:
    """Held-out views, a row each: the truth, then every method."""
    angles = case.held_geometry.angles_deg
    rows = list(dict.fromkeys(nearest_view(angles, wanted) for wanted in SHOWN_DEG))
    tiles = [views[k] for k in rows for views in (case.held, *shown.values())]
    labels = [name for k in rows for name in (f"{angles[k]:g}°, held out", *shown)]
    return figures.strip(torch.stack(tiles), 1 + len(shown), labels)


def cells(table: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The columns that some method has, and a row a method."""
    rows = table["methods"]
    known = [name for name in COLUMNS if any(row.get(name) is not None for row in rows.values())]
    return known, [[method, *(row.get(name) for name in known)] for method, row in rows.items()]


def as_csv(table: Mapping[str, Any]) -> str:
    """The table with every digit."""
    known, rows = cells(table)
    columns = ["method", *known]
    return files.csv_text([dict(zip(columns, row, strict=True)) for row in rows], columns)


def as_markdown(table: Mapping[str, Any]) -> str:
    """The table for people."""
    known, rows = cells(table)
    head = ["method", *(COLUMNS[name] for name in known)]
    lines = [head, [":--", *["--:"] * len(known)]]
    for method, *values in rows:
        texts = [
            "–" if value is None else f"{value:.{DIGITS.get(name, 2)}f}"
            for name, value in zip(known, values, strict=True)
        ]
        lines.append([method, *texts])
    counts = f"{table['views']} views, {table['held_out_views']} held out"
    title = f"# {table['patient']} of {table['dataset']}: {counts}"
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "\n\n".join([title, body, table["conventions"], table["gain_rule"], f"*{DISCLAIMER}*"])
        + "\n"
    )
