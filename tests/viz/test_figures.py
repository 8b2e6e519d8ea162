"""Contact sheets, error maps and slices point the right way; PNG files read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mednerf_kit import DISCLAIMER
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.pictures import read_png
from mednerf_kit.viz import figures


def test_png16_round_trip_and_note(tmp_path):
    from PIL import Image

    image = torch.rand(9, 13, generator=torch.Generator().manual_seed(0))
    image[0, :3] = torch.tensor([-0.5, 1.5, float("nan")])
    figures.write_png16(tmp_path / "a.png", image)
    back = read_png(tmp_path / "a.png")
    assert back.dtype == torch.float32
    assert torch.allclose(back, image.nan_to_num(0).clamp(0, 1), atol=0.51 / 65535)
    assert back[0, :3].tolist() == [0, 1, 0]
    assert Image.open(tmp_path / "a.png").text["Comment"] == DISCLAIMER


def test_png8_round_trip_of_grey_and_colour(tmp_path):
    for shape in ((5, 7), (5, 7, 3)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        figures.write_png8(tmp_path / "a.png", image)
        assert torch.allclose(read_png(tmp_path / "a.png"), image, atol=0.51 / 255)


def test_reading_what_is_no_png_is_one_sentence(tmp_path):
    figures.write_png8(tmp_path / "cut.png", torch.rand(40, 40))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    for name in ("cut.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            read_png(tmp_path / name)


def test_strip_places_tiles_row_by_row_under_their_labels():
    images = torch.linspace(0, 1, 5)[:, None, None].expand(5, 20, 30)
    plain = figures.strip(images, 3, gap_px=2)
    assert plain.shape == (42, 94, 3)
    assert [int(plain[10, 15 + 32 * k, 0]) for k in range(3)] == [0, 64, 128]
    # an empty place is white
    assert [int(plain[32, 15 + 32 * k, 0]) for k in range(3)] == [191, 255, 255]
    labelled = figures.strip(images, 3, ["0°", "5°", "10°", "15°", "20°"], gap_px=2)
    assert labelled.shape == (72, 94, 3) and labelled[:15, :30].min() < 128
    assert np.array_equal(labelled[15:35], plain[:20])


def test_signed_error_is_symmetric_blue_white_red():
    truth = torch.full((1, 5), 0.5)
    error = torch.tensor([[-0.9, -0.1, 0.0, 0.1, 0.9]])
    picture = figures.signed_error_picture(truth + error, truth, limit=0.2).astype(int)[0]
    assert picture[2].tolist() == [255, 255, 255]
    assert picture[1, 2] > picture[1, 0] and picture[3, 0] > picture[3, 2]
    assert tuple(picture[0]) == figures.SIGNED[0] and tuple(picture[4]) == figures.SIGNED[-1]


@pytest.mark.parametrize(
    "top, limit", [(0.17, 0.2), (0.2, 0.2), (0.21, 0.5), (61, 100), (0.0, 1.0)]
)
def test_nice_limit_covers_the_values(top, limit):
    assert figures.nice_limit(torch.tensor([0.0, -top])) == limit


def test_slices_follow_the_radiological_convention():
    volume = torch.zeros(20, 20, 20)  # [z, y, x] in LPS: high indices are superior, posterior, left
    # left, anterior, superior of the middle
    volume[10, 10, 16] = volume[10, 3, 10] = volume[17, 10, 10] = 1.0
    axial, coronal, sagittal = figures.three_slices(volume)
    # anterior is up, the patient's left is on the image's right
    assert axial.nonzero().tolist() == [[3, 10], [10, 16]]
    assert coronal.nonzero().tolist() == [[2, 10], [9, 16]]  # superior is up
    assert sagittal.nonzero().tolist() == [[2, 10], [9, 3]]  # anterior is on the image's left


def test_slices_keep_proportions_and_carry_letters():
    volume = torch.zeros(10, 40, 40)
    assert [tuple(s.shape) for s in figures.three_slices(volume, spacing_mm=(3.0, 1.5, 1.5))] == [
        (40, 40),
        (20, 40),
        (20, 40),
    ]
    picture = figures.slices_picture(volume, (0, 1), spacing_mm=(3.0, 1.5, 1.5), tile_px=120)
    assert picture.shape == (120, 368, 3)
    for k in range(3):
        tile = picture[:, 124 * k : 124 * k + 120].max(-1)
        for edge in (tile[:22, 50:70], tile[-22:, 50:70], tile[50:70, :22], tile[50:70, -22:]):
            assert edge.max() > 200  # a letter stands at the middle of each edge
        assert tile[30:90, 30:90].max() == 0
