"""What a fit leaves at its end: a picture of one view beside the truth, and its PSNR."""

from __future__ import annotations

from typing import Any

import torch

from ..core.errors import UserError
from ..data.posed.types import Scene
from ..engine.loop import Loop
from ..metrics.image import psnr_from_mse_db
from ..viz.figures import write_png8
from .fit import FitTask, is_flat
from .load import Fit, load_fit, render_views
from .pose.search import align_cameras
from .views import peak_mib


def write_preview(loop: Loop, device: torch.device) -> dict[str, Any]:
    """Write a preview of one view, unseen where there is one; returns and logs its PSNR.

    The test views are scored by ``evaluate``. Where poses were refined, the files' poses of unseen
    views are off too: the view is also scored once its own pose is refined.
    """
    fit = load_fit(loop.folder, device=str(device))
    scene, known = one_view(fit)
    truth = scene.images.float()
    counted = ... if scene.valid is None else scene.valid

    def psnr_db(image: torch.Tensor) -> float:
        return float(psnr_from_mse_db((image.clamp(0, 1) - truth)[counted].square().mean()))

    seen = render_views(fit, scene.cameras)
    found = {"preview_psnr_db": psnr_db(seen.image)}
    preview = loop.folder / "previews" / "view.png"
    loop.log(
        f"view {scene.stems[0]}, {known}: {found['preview_psnr_db']:.2f} dB (preview {preview})"
    )
    if is_flat(seen.image.flatten(0, -2), truth.flatten(0, -2)):
        loop.log("this view is one flat colour: the fit has collapsed, or has hardly begun")
    task = loop.task
    if isinstance(task, FitTask) and task.poses is not None:
        found |= task.poses.change(task.scene.cameras)
        seen = render_views(fit, align_cameras(fit.model, scene.cameras, truth, device=fit.device))
        found["preview_psnr_aligned_db"] = psnr_db(seen.image)
        loop.log(
            f"training poses corrected by {found['pose_rotation_deg']:.3f}° and "
            f"{found['pose_shift']:.4f} units on average; "
            f"{found['preview_psnr_aligned_db']:.2f} dB with the view's own pose refined too"
        )
    pair = torch.cat([truth[0], seen.image[0].clamp(0, 1)], 1)
    write_png8(preview, pair[..., 0] if pair.shape[-1] == 1 else pair)
    return {**found, "peak_mib": peak_mib(device)}


def one_view(fit: Fit) -> tuple[Scene, str]:
    """The first view that was held out, or else the first there is, and which of the two it is."""
    trained = fit.meta["split"]
    for split in ("val", "test"):
        try:
            scene = fit.scene(split).take([0])
        except UserError:  # a scene without such views, or with a damaged one, was still fitted
            continue
        return scene, "trained on" if trained in (split, "all") else "not trained on"
    return fit.scene(fit.meta["split"]).take([0]), "trained on"
