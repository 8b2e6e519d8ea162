"""What this machine has: versions, device, speed, data, priors, video and LPIPS weights.

Nothing here fails: what is absent or broken is reported as such, with what it is needed for.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "SimpleITK",
    "nibabel",
    "OpenEXR",
    "imageio",
    "imageio-ffmpeg",
    "lpips",
    "kornia",
    "tensorboard",
    "click",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pyjpegls",
    "tifffile",
    "PyYAML",
    "tqdm",
    "matplotlib",
    "scikit-image",
    "safetensors",
    "pillow",
    "starlette",
    "uvicorn",
    "python-multipart",
)


def examine() -> dict[str, Any]:
    """Everything known, as plain values (JSON); None stands for "not found"."""
    return {
        "mednerf_kit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        **compute(),
        **places(),
    }


def version(package: str) -> str | None:
    """The installed version, without importing the package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compute() -> dict[str, Any]:
    """The device torch would use, its speed in fp32 and bf16, the cache and LPIPS weights."""
    try:
        import torch

        from .data.cohort import cache_dir
        from .metrics.perceptual import LPIPS_BACKBONE
    except Exception as error:  # a broken installation fails in many ways
        return {"device": None, "torch_error": str(error).strip().partition("\n")[0]}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speed = {
        name: round(matmul_gflops(dtype, device))
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "gflops": speed,
        "faster": max(speed, key=lambda name: speed[name]),
        "cache": str(cache_dir()),
        "cache_mib": round(
            sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file()) / 2**20
        ),
        "lpips_backbone": str(backbone) if backbone.is_file() else None,
    }


def matmul_gflops(dtype: Any, device: Any, *, seconds: float = 0.4) -> float:
    """Best speed of a layer's matrix product within ``seconds``, in 1e9 operations per second.

    A layer is [points, 128] @ [128, 128] on a CPU, in a tile that stays in its caches; a GPU gets a
    square it can fill.
    """
    import torch

    points, width = (4096, 4096) if device.type == "cuda" else (16384, 128)
    x = torch.ones(points, width, dtype=dtype, device=device)
    weight = torch.ones(width, width, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        x @ weight
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * points * width**2 / best / 1e9


def places() -> dict[str, Any]:
    """Where data, bundled priors and ffmpeg are."""
    data = os.environ.get("MEDNERF_KIT_DATA")
    folder = Path(data) if data else None
    return {
        "data": data if folder and folder.is_dir() else None,
        "data_sets": sorted(p.name for p in folder.iterdir() if p.is_dir())
        if folder and folder.is_dir()
        else [],
        "priors": sorted(
            path.stem
            for path in (Path(__file__).parent / "bundled").glob("*.safetensors")
            if not path.stem.endswith("_conditional")
        ),
        "ffmpeg": ffmpeg(),
    }


def ffmpeg() -> str | None:
    """The ffmpeg that imageio will call, if there is one."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def in_words(facts: dict[str, Any]) -> str:
    """The facts of :func:`examine` as lines, with what is missing and what it is needed for."""
    absent = {
        "data": "not found (set MEDNERF_KIT_DATA to the folder of real data)",
        "ffmpeg": "not found (needed for orbit.mp4)",
        "lpips_backbone": "not found (LPIPS is reported as null)",
        "priors": "none (`project` then needs --run)",
        "device": f"torch cannot be imported: {facts.get('torch_error')}",
    }
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            value = "  ".join(
                f"{name} {'MISSING' if v is None else v}" for name, v in value.items()
            )
        elif isinstance(value, list):
            value = ", ".join(value)
        lines.append(f"{key:16s} {value if value not in (None, '') else absent.get(key, '-')}")
    return "\n".join(lines)
