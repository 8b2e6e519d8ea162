"""A file that was cut while it was written never gets its name, whoever wrote it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mednerf_kit.core import files, written
from mednerf_kit.core.errors import RunError
from mednerf_kit.imaging.scans.dicom_out import write_enhanced_ct
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.viz import figures, video

FRAMES = 7


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def volume(whole: bool) -> Volume:
    values = 2000 * noise(12, 14, 16) - 1000
    return Volume.centred(values.round() if whole else values, (2.0, 2.0, 2.0), "hu")


def write_arrays(path: Path) -> None:
    with files.atomic(path) as temporary:
        np.savez_compressed(temporary, a=noise(9, 9).numpy())


WRITERS: dict[str, Callable[[Path], None]] = {
    **{
        f"{kind}{suffix}": lambda path, kind=kind: write_volume(volume(kind == "whole"), path)
        for kind in ("whole", "float")
        for suffix in (".nii.gz", ".nii", ".mha", ".nrrd")
    },
    "v.dcm": lambda path: write_enhanced_ct(volume(True), path),
    "v.mp4": lambda path: video.write_mp4(path, noise(FRAMES, 20, 24)),
    "v.gif": lambda path: video.write_gif(path, noise(FRAMES, 20, 24)),
    "p.png": lambda path: figures.write_png16(path, noise(20, 24)),
    "s.safetensors": lambda path: files.save_tensors(path, {"a": noise(9, 9)}, {"step": 1}),
    "a.npz": write_arrays,
    "m.json": lambda path: files.write_json(path, {"psnr_db": [30.5, 31]}),
}


def test_every_kind_that_is_checked_is_tried():
    assert all(any(name.endswith(suffix) for name in WRITERS) for suffix in written.CHECKS)


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_not_whole(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    written.check_whole(path, FRAMES if name == "v.mp4" else None)
    content = path.read_bytes()
    last = len(content) - (2 if name == "m.json" else 1)  # JSON is whole without its last line end
    for length in sorted({0, 1, last, *range(0, last, max(1, last // 60))}):
        path.write_bytes(content[:length])
        with pytest.raises(written.NotWhole):
            written.check_whole(path)


def test_a_video_with_fewer_frames_is_not_whole(tmp_path):
    video.write_mp4(tmp_path / "v.mp4", noise(FRAMES, 16, 16))
    with pytest.raises(written.NotWhole, match="7 of 8 frames"):
        written.check_whole(tmp_path / "v.mp4", FRAMES + 1)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "m.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_disk_that_ends_early_leaves_the_old_file(name, share, tmp_path):
    """The operating system refuses to write more of a file than this share of it."""
    path = tmp_path / name
    WRITERS[name](path)
    content = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(content)), hard))
        with pytest.raises(RunError, match=f"could not write '{path}'") as caught:
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert path.read_bytes() == content and os.listdir(tmp_path) == [name]


def test_what_a_library_cut_in_silence_is_noticed(tmp_path, monkeypatch):
    """SimpleITK does not always say that the disk was full."""
    import SimpleITK as sitk

    real = sitk.WriteImage

    def full(image, name, **options):
        real(image, name, **options)
        os.truncate(name, os.path.getsize(name) // 2)

    path = tmp_path / "v.nrrd"
    write_volume(volume(True), path)
    with monkeypatch.context() as patch:
        patch.setattr(sitk, "WriteImage", full)
        with pytest.raises(RunError, match=r"v\.nrrd.*(compressed data end|bytes were written)"):
            write_volume(volume(False), path)
    assert torch.equal(read_volume(path).values, volume(True).values)
    assert os.listdir(tmp_path) == ["v.nrrd"]
