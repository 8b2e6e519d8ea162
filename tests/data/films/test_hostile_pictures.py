"""The bench's damaged and hostile pictures: one sentence each, or a picture where that may be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.radiograph import read_radiograph

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        spec = importlib.util.spec_from_file_location("hostile_films", BENCH / "hostile_films.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.mark.filterwarnings("ignore")  # what libraries warn of is part of the damage
def test_every_bad_picture_is_refused_in_one_sentence(bench, tmp_path, capfd):
    count = 0
    for case in bench.cases(seed=0):
        if case.kind == "DICOM":
            continue
        path = tmp_path / f"{count:03d} {case.name}".replace("%", "")
        path.write_bytes(case.data)
        count += 1
        try:
            read_radiograph(path, size=64)
        except UserError as error:
            assert error.exit_code == 2 and "\n" not in str(error) and str(error).count(";") >= 1
        else:
            assert not case.must_refuse, case.name
    assert count > 200 and capfd.readouterr().err == ""


def test_the_files_that_are_damaged_are_good_ones_before(bench, tmp_path):
    import numpy as np

    files = bench.whole_files(np.random.default_rng(0))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read_radiograph(tmp_path / name, size=64).shape == (96, 80), name
