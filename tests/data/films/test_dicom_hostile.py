"""Damaged and hostile DICOM files: one sentence each, whatever is wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.dicom import read_dicom_film

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "hostile_dicom.py"


def test_every_hostile_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hostile_dicom", SCRIPT)
    assert spec is not None and spec.loader is not None
    hostile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hostile)
    path, names = tmp_path / "film.dcm", []
    for name, content in hostile.cases(np.random.default_rng(0)):
        path.write_bytes(content)
        names.append(name)
        with pytest.raises(UserError) as caught:
            read_dicom_film(path)
        sentence = str(caught.value)
        assert sentence.startswith(f"got '{path}'") and "\n" not in sentence, name
        assert len(sentence) < 400 + len(str(path)), name
    assert len(names) == len(set(names)) >= 120
