"""The report is one self-contained file, in which every string is escaped."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import torch

from mednerf_kit import DISCLAIMER
from mednerf_kit.viz import figures, report


def decoded(data):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


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
