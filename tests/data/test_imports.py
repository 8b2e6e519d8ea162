"""Projections of other programs become the sets they were made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.imports.base import IMPORTERS, find_importer, import_set, rounded_up
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.geometry_files.plastimatch import view_text
from mednerf_kit.imaging.projector import project_volume

GEOMETRY = replace(
    DEFAULTS["chest"].resized(24).orbit(8), columns_flipped=False, line_integral_scale=None
)


def integrals(geometry: Geometry) -> torch.Tensor:
    """Line integrals [V, rows, cols] of a lopsided body."""
    mu = torch.zeros(12, 16, 20)
    mu[2:9, 3:13, 4:15] = 0.02
    mu[6:9, 9:12, 5:8] = 0.05
    return project_volume(mu, (10.0, 10.0, 10.0), geometry)


def stored(root: Path) -> torch.Tensor:
    """The line integrals of the only patient of a set."""
    found = load_orbits(root, split="all")
    return found.images[0].float() * (found.geometry.line_integral_scale or 1.0)


def write_plastimatch(
    folder: Path, values: np.ndarray, geometry: Geometry, *, suffix: str = ".pfm"
) -> Path:
    """Values [V, rows, cols], columns unmirrored, as plastimatch lays them out."""
    folder.mkdir(parents=True)
    for view, angle in enumerate(geometry.angles_deg):
        (folder / f"c{view:04d}.txt").write_text(view_text(geometry, angle))
        pixels = np.ascontiguousarray(values[view], dtype="<f4").tobytes()
        header = f"Pf\n{geometry.cols} {geometry.rows}\n-1\n".encode()
        (folder / f"c{view:04d}{suffix}").write_bytes(header * (suffix == ".pfm") + pixels)
    return folder


@pytest.mark.parametrize("name", sorted(IMPORTERS.entries))
def test_every_format_recognises_and_reads_its_example(name: str, tmp_path: Path) -> None:
    source = IMPORTERS[name].example(tmp_path / "source")
    assert find_importer(source) == name
    made = import_set(source, out=tmp_path / "set")
    found = load_orbits(made.root, split="all")
    assert found.patients == tuple(sorted(made.patients))
    assert found.geometry.views == found.images.shape[1] and float(found.images.max()) > 0.5


@pytest.mark.parametrize("suffix", [".pfm", ".raw"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (40.0, -20.0)])
def test_plastimatch_s_pixels_are_tenths_rows_from_the_top(
    suffix: str, shift: tuple[float, float], tmp_path: Path
) -> None:
    geometry = replace(GEOMETRY, offset_mm=shift, rows=20, cols=24)
    values = integrals(geometry)
    source = write_plastimatch(tmp_path / "pm", values.numpy() / 10, geometry, suffix=suffix)
    options = {"rows": 20, "cols": 24} if suffix == ".raw" else {}
    made = import_set(source, out=tmp_path / "set", options=options)
    scale = rounded_up(float(values.max()))
    assert Geometry.from_json(made.root / "geometry.json") == replace(
        geometry, line_integral_scale=scale
    )
    assert torch.allclose(stored(made.root), values, atol=2e-3 * scale)


def test_plastimatch_s_exponential_is_transmission(tmp_path: Path) -> None:
    values = integrals(GEOMETRY)
    source = write_plastimatch(tmp_path / "pm", np.exp(-values.numpy() / 10), GEOMETRY)
    made = import_set(source, out=tmp_path / "set")
    assert torch.allclose(stored(made.root), values, atol=0.01)
    assert any("minus logarithm" in note for note in made.notes)


@pytest.mark.parametrize("exponential", [False, True])
def test_an_autoscaled_pgm_has_no_scale(exponential: bool, tmp_path: Path) -> None:
    values = integrals(GEOMETRY).numpy()
    source = write_plastimatch(tmp_path / "pm", values, GEOMETRY)
    for view, pixels in enumerate(np.exp(-values) if exponential else values):
        levels = (255 * (pixels - pixels.min()) / np.ptp(pixels)).round().astype(int)
        (source / f"c{view:04d}.pfm").unlink()
        text = "\n".join(" ".join(map(str, row)) for row in levels)
        (source / f"c{view:04d}.pgm").write_text(f"P2\n24 24\n65535\n{text}\n")
    made = import_set(source, out=tmp_path / "set")
    found = load_orbits(made.root, split="all")
    assert found.geometry.line_integral_scale is None
    assert any("written with -e" in note for note in made.notes) == exponential
    shown, wanted = found.images[0].float().numpy(), values / values.max()
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > (0.8 if exponential else 0.98)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_stretched_floats_have_no_scale(top: float, tmp_path: Path) -> None:
    values = integrals(GEOMETRY).numpy()
    values *= top / values.max((1, 2), keepdims=True)  # as --autoscale does
    made = import_set(write_plastimatch(tmp_path / "pm", values, GEOMETRY), out=tmp_path / "set")
    found = load_orbits(made.root, split="all")
    assert found.geometry.line_integral_scale is None
    assert torch.allclose(found.images[0].float(), torch.from_numpy(values / top), atol=1e-3)


def test_a_prefix_may_end_in_digits(tmp_path: Path) -> None:
    values = integrals(GEOMETRY).numpy() / 10
    source = write_plastimatch(tmp_path / "pm", values, GEOMETRY)
    for path in sorted(source.iterdir()):
        text = path.read_bytes()
        for prefix in ("ct01", "ct02"):
            path.with_name(prefix + path.name[1:]).write_bytes(text)
        path.unlink()
    assert import_set(source, out=tmp_path / "set").patients == ("ct01", "ct02")


def test_a_call_for_each_view_makes_one_patient(tmp_path: Path) -> None:
    geometry = GEOMETRY.at([270.0, 0.0])
    source = write_plastimatch(tmp_path / "pm", integrals(geometry).numpy() / 10, geometry)
    for path in list(source.iterdir()):
        prefix = "ap" if path.stem == "c0000" else "lat"
        path.rename(path.with_name(f"{prefix}0000{path.suffix}"))
    made = import_set(source, out=tmp_path / "set")
    assert made.patients == ("pm",)
    assert Geometry.from_json(made.root / "geometry.json").angles_deg == (270.0, 0.0)


def test_an_oblique_view_keeps_its_tilt(tmp_path: Path) -> None:
    geometry = replace(GEOMETRY.at([310.0, 20.0]), tilt_deg=12.0)
    source = write_plastimatch(tmp_path / "pm", integrals(geometry).numpy() / 10, geometry)
    found = Geometry.from_json(import_set(source, out=tmp_path / "set").root / "geometry.json")
    assert replace(found, line_integral_scale=None) == geometry


def test_a_second_patient_joins_the_set_on_its_scale(tmp_path: Path) -> None:
    values = integrals(GEOMETRY)
    one = write_plastimatch(tmp_path / "one", values.numpy() / 10, GEOMETRY)
    two = write_plastimatch(tmp_path / "two", values.numpy() / 20, GEOMETRY)
    import_set(one, out=tmp_path / "set")
    import_set(two, out=tmp_path / "set")
    found = load_orbits(tmp_path / "set", split="all")
    assert found.patients == ("one", "two")
    assert torch.allclose(found.images[0].float(), 2 * found.images[1].float(), atol=2e-3)
    other = write_plastimatch(
        tmp_path / "three", values.numpy() / 10, replace(GEOMETRY, cols=24, pixel_mm=3.0)
    )
    with pytest.raises(UserError, match="another geometry"):
        import_set(other, out=tmp_path / "set")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda v: v * 0, "views are black"),
        (lambda v: v * np.nan, "not numbers|NaN"),
        (lambda v: v - v.max() / 2, "none below 0"),
    ],
)
def test_values_that_are_no_line_integrals_are_refused(harm, words: str, tmp_path: Path) -> None:
    source = write_plastimatch(tmp_path / "pm", harm(integrals(GEOMETRY).numpy() / 10), GEOMETRY)
    with pytest.raises(UserError, match=words):
        import_set(source, out=tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no import format recognises"):
        import_set(tmp_path / "empty", out=tmp_path / "set")
    with pytest.raises(UserError, match="does not exist"):
        import_set(tmp_path / "nowhere", out=tmp_path / "set")
