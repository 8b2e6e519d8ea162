"""Two photographs that tests of scenes change."""

import json

import pytest
from scene_files import TOY

from mednerf_kit.data.posed import toy


@pytest.fixture
def photos(tmp_path):
    """Two opaque views of the toy as nerfstudio's scene, every one for training."""
    root = tmp_path / "photos"
    frames = []
    for v in range(2):
        toy.write_toy_picture(root / "images" / f"{v}.png", TOY, v, alpha=False)
        matrix = [*TOY.c2w[v].double().tolist(), [0, 0, 0, 1]]
        frames.append({"file_path": f"images/{v}.png", "transform_matrix": matrix})
    lens = {"fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12}
    names = [frame["file_path"] for frame in frames]
    lists = {"train_filenames": names, "val_filenames": names[:1]}
    (root / "transforms.json").write_text(json.dumps({**lens, **lists, "frames": frames}))
    return root
