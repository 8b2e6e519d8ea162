"""The file of a small ablation."""

import pytest
from small_ablation import DRAWN, TEXT, cheap_resolve

from mednerf_kit.study.ablation import figure, run


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A file of an ablation whose recipes are made quickly and whose figure is not drawn."""
    monkeypatch.setattr(run, "resolve", cheap_resolve)
    monkeypatch.setattr(figure, "as_png", lambda ablation, found: DRAWN)
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path
