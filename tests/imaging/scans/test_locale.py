"""What a reader of volumes leaves behind in the process."""

from __future__ import annotations

import locale

import pytest
import torch

from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume


@pytest.mark.parametrize("ending", [".vtk", ".mha", ".nrrd"])
def test_a_read_volume_leaves_the_locale_as_it_was(tmp_path, ending) -> None:
    import SimpleITK as sitk

    hu = torch.full((8, 8, 8), -1000.0)
    hu[2:6, 2:6, 2:6] = 40.0
    image = sitk.GetImageFromArray(hu.to(torch.int16).numpy())
    image.SetSpacing((4.0, 4.0, 4.0))
    sitk.WriteImage(image, str(tmp_path / f"ct{ending}"))
    before = locale.setlocale(locale.LC_ALL)
    found = read_volume(tmp_path / f"ct{ending}")
    assert locale.setlocale(locale.LC_ALL) == before
    assert isinstance(found, Volume) and float(found.values.max()) == 40.0
