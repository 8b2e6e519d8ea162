"""Where the isocentre of a CT lies: in the body by default, wherever that is in its scan."""

from __future__ import annotations

import json

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.drr import make_drr
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.data.xray_setup import Handling, XraySetup
from mednerf_kit.imaging.body import find_body
from mednerf_kit.imaging.volume import Volume, write_volume

SETUP = XraySetup(size=32, views=4)
SPACING_MM = (8.0, 8.0, 8.0)


def scan(shift: tuple[int, int]) -> Volume:
    """An elliptic body with lungs, moved by voxels (x, y) from the middle of its scan."""
    z, y, x = torch.meshgrid(*(torch.arange(48.0) - 23.5,) * 3, indexing="ij")
    x, y = x - shift[0], y - shift[1]
    body = ((x / 16) ** 2 + (y / 11) ** 2 < 1) & (z.abs() < 18)
    hu = torch.where(body, 40.0, -1000.0)
    hu[body & ((x.abs() - 7) ** 2 + y**2 < 25) & (z.abs() < 14)] = -800.0
    return Volume.centred(hu, SPACING_MM, "hu")


@pytest.mark.parametrize("shift", [(0, 0), (3, -5)])
def test_the_middle_of_a_body_is_found(shift) -> None:
    volume = scan(shift)
    x, y, z = find_body(volume).centroid_mm(volume)
    assert (x, y, z) == pytest.approx((8.0 * shift[0], 8.0 * shift[1], 0.0), abs=1.0)
    assert Handling().isocentre_of(volume) == pytest.approx((x, y, 0.0))
    assert Handling(isocentre="scan").isocentre_of(volume) == (0.0, 0.0, 0.0)


def test_a_scan_without_a_body_is_taken_about_its_middle() -> None:
    empty = Volume.centred(torch.full((8, 8, 8), -1000.0), SPACING_MM, "hu")
    assert Handling().isocentre_of(empty) == (0.0, 0.0, 0.0)


def test_pictures_do_not_tell_where_the_body_lay_in_its_scan(tmp_path) -> None:
    for name, shift in (("middle", (0, 0)), ("aside", (3, -5))):
        write_volume(scan(shift), tmp_path / f"{name}.nii.gz")
        made = make_drr(
            str(tmp_path / f"{name}.nii.gz"), out=tmp_path / "set", setup=SETUP, mask_table=True
        )
        known = json.loads((made.folder / "patient.json").read_text())
        assert known["isocentre"] == "body"
        assert known["isocentre_mm"] == pytest.approx([8.0 * s for s in (*shift, 0)], abs=1.0)
    aside, middle = load_orbits(tmp_path / "set", split="all").images.float()
    assert float((aside - middle).abs().max()) < 0.02
    about = make_drr(str(tmp_path / "aside.nii.gz"), out=tmp_path / "other", setup=SETUP)
    seen = load_orbits(tmp_path / "other", split="all").images.float()[0]
    assert float((seen - middle).abs().max()) > 0.1
    assert json.loads((about.folder / "patient.json").read_text())["isocentre_mm"] == [0, 0, 0]


def test_an_unknown_isocentre_is_refused() -> None:
    with pytest.raises(UserError, match="got isocentre 'table'"):
        Handling(isocentre="table")  # type: ignore[arg-type]


def test_a_set_about_the_middles_of_scans_is_remarked_on(tmp_path) -> None:
    write_volume(scan((0, 0)), tmp_path / "ct.nii.gz")
    for isocentre in ("body", "scan"):
        place = tmp_path / isocentre
        make_drr(str(tmp_path / "ct.nii.gz"), out=place, setup=SETUP, isocentre=isocentre)
        remarked = any("middles of scans" in note for note in load_orbits(place).notes)
        assert remarked == (isocentre == "scan")
