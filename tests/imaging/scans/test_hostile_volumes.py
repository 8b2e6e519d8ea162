"""The bench's damaged and hostile CTs, sets and geometry files: one sentence each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from mednerf_kit.core.errors import UserError

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        path = BENCH / "hostile_volumes.py"
        spec = importlib.util.spec_from_file_location("hostile_volumes", path)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.filterwarnings("ignore")  # what libraries warn of is part of the damage
def test_every_bad_scan_set_and_geometry_is_refused_in_one_sentence(bench, tmp_path, capfd):
    count = 0
    for case in bench.cases(seed=0):
        if case.kind == "no CT":  # a test of films has them
            break
        path = case.write(tmp_path, count)
        count += 1
        try:
            bench.read(case, path)
        except UserError as error:
            sentence = str(error)
            assert error.exit_code == 2 and "\n" not in sentence and sentence.count(";") >= 1
            assert len(sentence) < 600 + len(str(path)), case.name
        else:
            assert not case.must_refuse, case.name
    assert count > 500 and capfd.readouterr() == ("", "")


def test_the_files_that_are_damaged_are_good_ones_before(bench, tmp_path):
    for number, case in enumerate(bench.good()):
        bench.read(case, case.write(tmp_path, number))
