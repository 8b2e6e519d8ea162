"""A DICOM film full of names through the whole command: no output holds one."""

import re
from pathlib import Path

import numpy as np
import pytest
from dicom_films import assert_clean, full_of_names, written
from tiny_prior import QUICK, orbit_of, snapshot

from mednerf_kit import cli
from mednerf_kit.invert import reconstruct
from mednerf_kit.prior import load as prior_load


def test_no_file_and_no_line_holds_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(reconstruct, "Inversion", QUICK)
    run = snapshot(tmp_path / "run")
    view = orbit_of(prior_load.load_prior(run), 0, (270.0,))[0].numpy()
    pixels = np.kron((view.clip(0, 1) * 4095).astype(np.uint16), np.ones((4, 4), np.uint16))
    path, out = written(tmp_path, full_of_names(pixels)), tmp_path / "out"
    capfd.readouterr()  # what pydicom says of writing
    words = ["project", "--run", str(tmp_path / "run"), "--xray", str(path), "--out", str(out)]
    assert cli.main([*words, "--samples", "1", "--device", "cpu", "--dicom"]) == 0
    assert_clean(*capfd.readouterr())
    for name in ("metrics.json", "report.html"):
        text = (out / name).read_text(encoding="utf-8")
        # pictures and measured numbers may spell anything
        assert_clean(re.sub(r"base64,[\w+/=\s]+|\d+\.\d+", "", text))
    for found in out.rglob("*"):
        assert "QUX" not in found.name
        if found.is_file() and found.suffix not in (".html", ".json"):
            content = found.read_bytes()
            assert not any(mark in content for mark in (b"QUXNAME", b"19530617", b"QUXLO")), found
    assert list(out.rglob("*.dcm"))
