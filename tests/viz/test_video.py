"""Videos read back with every frame, and a failed one leaves the old file alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import RunError
from mednerf_kit.viz import video


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_video_reads_back_with_every_frame(tmp_path, size):
    import imageio.v3

    frames = torch.linspace(0, 1, 7)[:, None, None].expand(7, *size)
    video.write_mp4(tmp_path / "orbit.mp4", frames, fps=10)
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
        video.write_mp4(tmp_path / "orbit.mp4", torch.zeros(2, 16, 16))
    assert (tmp_path / "orbit.mp4").read_bytes() == b"old"
