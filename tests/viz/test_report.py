"""Pictures, plots and videos can be read back and point the right way; the report is one escaped,
self-contained file.
"""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mednerf_kit import DISCLAIMER
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.data.pictures import read_png
from mednerf_kit.viz import figures, report


def decoded(data):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


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


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_video_reads_back_with_every_frame(tmp_path, size):
    import imageio.v3

    frames = torch.linspace(0, 1, 7)[:, None, None].expand(7, *size)
    figures.write_orbit_video(tmp_path / "orbit.mp4", frames, fps=10)
    back = imageio.v3.imread(tmp_path / "orbit.mp4", plugin="FFMPEG")
    assert back.shape == (7, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(back.mean((1, 2, 3)) - np.linspace(0, 255, 7)).max() < 4
    meta = imageio.v3.immeta(tmp_path / "orbit.mp4", plugin="FFMPEG")
    assert (meta["codec"], meta["pix_fmt"].split("(")[0], meta["fps"]) == ("h264", "yuv420p", 10)
    assert [p.name for p in tmp_path.iterdir()] == ["orbit.mp4"]


def test_failed_video_keeps_the_old_file(tmp_path, monkeypatch):
    import imageio.v3

    def refuse(*args, **options):
        raise RuntimeError("No ffmpeg exe could be found")

    (tmp_path / "orbit.mp4").write_bytes(b"old")
    monkeypatch.setattr(imageio.v3, "imwrite", refuse)
    with pytest.raises(RunError, match="ffmpeg"):
        figures.write_orbit_video(tmp_path / "orbit.mp4", torch.zeros(2, 16, 16))
    assert (tmp_path / "orbit.mp4").read_bytes() == b"old"


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


def test_plots_are_pngs_and_read_csv_rows():
    curves = {"fitted": ([0, 1, 2], [3.0, 2.0, 1.0]), "held out": ([0, 1, 2], [3.0, 2.5, 2.6])}
    assert decoded(figures.curve_plot(curves, "step", "loss", marks=[1])).std() > 5
    rows = [
        {"angle_deg": str(a), "psnr_db": str(20 + a / 90 + p), "empty": ""}
        for a in range(0, 360, 30)
        for p in range(2)
    ]
    assert decoded(figures.error_by_angle_plot(rows, input_angles_deg=[270])).ndim == 3
    with pytest.raises(UserError, match="empty"):
        figures.error_by_angle_plot(rows, columns={"empty": "nothing"})


class Links(HTMLParser):
    """Collects what a page would fetch, its tags and its text."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "poster")
        ]

    def handle_data(self, data):
        self.texts.append(data)


def content():
    angles = [float(a) for a in range(0, 360, 20)]
    orbit = torch.rand(18, 24, 24, generator=torch.Generator().manual_seed(0))
    return report.ReportContent(
        title='An <script>alert(1)</script> X-ray & "more" {braces}',
        targets=orbit[13:14],
        projections=orbit[12:13],
        input_angles_deg=[270.0],
        orbit=orbit,
        orbit_angles_deg=angles,
        orbit_spread=0.1 * orbit,
        volume=torch.rand(12, 12, 12),
        volume_spread=torch.rand(12, 12, 12),
        volume_unit="<HU>",
        spacing_mm=(3.0, 2.0, 2.0),
        numbers={
            "PSNR <input>": (31.25, "dB"),
            "LPIPS": (None, ""),
            "broken": (float("nan"), "<u>"),
        },
        provenance={"prior": "<b>bundled</b>", "seed": 3},
        plots={"a <plot>": figures.png_bytes(np.zeros((4, 4), np.uint8))},
        uncertainty_meaning=["Spread is <i>not</i> error."],
        warnings=["Watch <out> for 'this'."],
    )


def test_report_is_self_contained_and_says_what_it_is(tmp_path):
    path = tmp_path / "report.html"
    report.write_report(path, content())
    page = path.read_text(encoding="utf-8")
    seen = Links()
    seen.feed(page)
    assert len(seen.sources) == 10 and all(
        source.startswith("data:image/") for source in seen.sources
    )
    assert not re.search(r"https?://|@import|<link", page)
    assert all(url.startswith("data:") for url in re.findall(r"url\((.*?)\)", page))
    text = " ".join(seen.texts)
    assert text.index(DISCLAIMER) < text.index("Input and projection")
    for words in (
        "Target",
        "Signed error",
        "Orbit",
        "Volume",
        "What the uncertainty means",
        "31.25",
        "not available",
        "Warnings",
    ):
        assert words in text
    assert "260°" in text and "(input)" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_report_escapes_every_string():
    page = report.report_html(content())
    seen = Links()
    seen.feed(page)
    assert seen.tags.count("script") == 1 and not {"b", "i", "u", "out", "plot", "hu"} & set(
        seen.tags
    )
    text = " ".join(seen.texts)
    for words in (
        "<script>alert(1)</script>",
        "{braces}",
        "<HU>",
        "PSNR <input>",
        "<u>",
        "<b>bundled</b>",
        "a <plot>",
        "<i>not</i>",
        "<out>",
    ):
        assert words in text


def test_report_inlines_the_target_as_given():
    page = report.report_html(content())
    first = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="Target', page)
    picture = decoded(base64.b64decode(first.group(1)))
    assert np.array_equal(picture, figures.to_uint8(content().targets[0]))


def test_report_shows_only_what_there_is():
    whole = content()
    bare = replace(
        whole,
        orbit=None,
        orbit_spread=None,
        volume=None,
        volume_spread=None,
        numbers={},
        plots={},
        provenance={},
        warnings=(),
    )
    page = report.report_html(bare)
    for words in (
        "<h2>Orbit",
        "<h2>Volume",
        "<h2>Numbers",
        "<h2>Where",
        "<h2>Warnings",
        "<h2>Uncertainty<",
    ):
        assert words not in page
    assert "What the uncertainty means" in page and DISCLAIMER in page


def test_report_takes_several_xrays_and_a_short_orbit():
    whole = content()
    two = replace(
        whole,
        targets=whole.orbit[:2],
        projections=whole.orbit[2:4],
        input_angles_deg=[270.0, 359.0],
        orbit=whole.orbit[:2],
        orbit_spread=whole.orbit_spread[:2],
        orbit_angles_deg=[0.0, 90.0],
    )
    page = report.report_html(two)
    assert page.count("Signed error: projection") == 2 * 2  # the caption and its alt text
    assert "0° (input)" in page  # 359° is nearest to 0°, across the turn
