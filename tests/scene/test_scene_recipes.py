"""Scene recipes: bad ones are refused, the shipped ones resolve."""

from __future__ import annotations

import pytest
from tiny_scene import fitted

from mednerf_kit.core.errors import UserError
from mednerf_kit.engine.session import resolve


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"levels": [{"sampler": {"name": "importance"}, "field": "scene"}]}, "on the first level"),
        ({"levels": [{"sampler": {"name": "stratified"}, "field": "scenes"}]}, "scene"),
        ({"levels": [{"sample": {"name": "stratified"}}]}, "sampler"),
        ({"losses": {"msee": 1.0}}, "mse"),
        ({"losses": {"depth_soft": 0.01}}, "none looks at the picture"),
        ({"steps": 0}, "wanted at least 1"),
        ({"image_model": "line_integral"}, "line_integral for radiographs"),
        ({"scene": {"sizes": 24}}, "size"),
    ],
)
def test_bad_recipes_are_refused_in_one_sentence(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        fitted(tmp_path, **change)


def test_shipped_scene_recipes_resolve():
    from mednerf_kit.core import config

    for path in sorted(config.folder().glob("*.yaml")):
        node = config.load(path.stem)
        if node["task"].get("name") == "fit":
            for preset in ("quick", "default", "paper"):
                assert resolve("blocks", path.stem, preset, [])["task"]["name"] == "fit"
            assert len(path.read_text().splitlines()) <= 40 and path.read_text().startswith("# ")
