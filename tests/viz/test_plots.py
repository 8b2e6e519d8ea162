"""Curves as PNGs, from numbers and from the text of a CSV."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.viz import plots


def decoded(data):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def test_plots_are_pngs_and_read_csv_rows():
    curves = {"fitted": ([0, 1, 2], [3.0, 2.0, 1.0]), "held out": ([0, 1, 2], [3.0, 2.5, 2.6])}
    assert decoded(plots.curve_plot(curves, "step", "loss", marks=[1])).std() > 5
    rows = [
        {"angle_deg": str(a), "psnr_db": str(20 + a / 90 + p), "empty": ""}
        for a in range(0, 360, 30)
        for p in range(2)
    ]
    assert decoded(plots.error_by_angle_plot(rows, input_angles_deg=[270])).ndim == 3
    with pytest.raises(UserError, match="empty"):
        plots.error_by_angle_plot(rows, columns={"empty": "nothing"})
