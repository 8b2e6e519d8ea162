"""``mednerf-kit render`` and ``evaluate`` on fitted scenes: videos along a path, scores of unseen
views, and exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ..core.errors import UserError
from ..data.posed.splits import NoViews
from ..data.posed.transforms import check_transforms, write_transforms
from ..data.posed.types import Scene
from ..engine import run_folder as run_folders
from ..imaging.cameras import Cameras, circle_path, spiral
from ..imaging.volume import Quantity, Volume, write_volume
from ..recon.field_volume import FieldVolume
from ..viz import figures
from . import export, load, outputs
from .evaluate import evaluate_scene
from .load import Fit, load_fit

PathName = Literal["orbit", "spiral", "test"]
VOLUME = 128  # voxels along a side of an exported attenuation volume


def evaluate_run(
    *,
    run: str,
    dataset: str | None = None,
    split: str = "test",
    settings: Sequence[str] = (),
    views: Sequence[int] | None = None,
    limit: int | None = None,
    out: Path | None = None,
    eight_bit: bool = False,
    lpips_net: Literal["alex", "vgg"] = "vgg",
    lpips_weights: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a fitted scene on a split; pictures, tables and curves go to ``out`` (default:
    ``evaluate/`` in the run folder, with other samplers a folder named after these). ``dataset`` is
    where the scene lies now, if not where it was trained."""
    fit = load_fit(run, settings=settings, dataset=dataset, device=device)
    folder = out or fit.path.parent / "-".join(
        ["evaluate", *(re.sub(r"[^\w.]+", "_", s) for s in settings)]
    )
    found = evaluate_scene(
        fit,
        split,
        views,
        limit,
        out=folder,
        eight_bit=eight_bit,
        lpips_net=lpips_net,
        lpips_path=lpips_weights,
    )
    if rows := run_folders.read_stats(fit.path.parent):
        outputs.curves(rows, folder / "curves.png")
    return found


def render_run(
    *,
    run: str,
    path: PathName | None = None,
    views: int = 40,
    size: int | None = None,
    settings: Sequence[str] = (),
    video: bool = True,
    points: bool = False,
    mesh: bool = False,
    threshold: float | None = None,
    transforms: bool = False,
    compare: Sequence[str] = (),
    out: Path = Path("out/render"),
    device: str = "auto",
) -> Path:
    """Write ``orbit.mp4`` and ``depth.mp4`` along a path, and on request point cloud, mesh and
    posed pictures; returns ``out``.

    ``compare`` names other runs of the same scene, which are rendered along the same path into
    ``compare.mp4`` and ``.gif``, in this order. What cannot be written is refused before anything
    is rendered.
    """
    fits = [
        load_fit(run, settings=settings, device=device),
        *(load_fit(other, device=device) for other in compare),
    ]
    labels, fit = labels_of(fits, settings), fits[0]
    for other in fits[1:]:
        check_same_scene(fit, other)
    scene = fit.scene("train")
    cameras = camera_path(fit, scene, path, views, size) if video or compare else None
    if points:
        export.check_points(fit)
    if mesh:
        export.check_mesh(scene.cameras)
    if transforms:
        check_transforms(scene)
    out.mkdir(parents=True, exist_ok=True)
    if cameras is not None:
        seen = outputs.write_video(fit, cameras, out)
        for i, image in enumerate(seen.image):
            figures.write_png8(
                out / "frames" / f"{i:03d}.png", outputs.as_picture(image.clamp(0, 1))
            )
        if compare:
            others = [load.render_views(other, cameras).image for other in fits[1:]]
            outputs.compare(dict(zip(labels, [seen.image, *others], strict=True)), out / "compare")
    if points:
        export.export_points(fit, out / "points.ply")
    if mesh:
        export.export_mesh(fit, out / "mesh.ply", threshold=threshold)
    if transforms:
        write_transforms(every_split(fit, scene), out)
    if scene.quantity == "line_integral" and not scene.cameras.ndc:
        write_attenuation(fit, scene, out)
    return out


def every_split(fit: Fit, train: Scene) -> Iterator[Scene]:
    """The splits of a fitted scene that have views, one in memory at a time beside the training
    views.
    """
    yield train
    for part in ("test", "val"):
        with suppress(NoViews):
            yield fit.scene(part)


def camera_path(
    fit: Fit, scene: Scene, name: PathName | None, views: int, size: int | None
) -> Cameras:
    """An orbit, a spiral (the default of forward-facing scenes) or the test views, with pictures
    ``size`` pixels wide.

    An orbit of a scene in NDC is a UserError.
    """
    name = name or ("spiral" if scene.cameras.ndc or scene.format == "llff" else "orbit")
    if name == "orbit" and scene.cameras.ndc:
        raise UserError(
            "got an orbit round a forward-facing scene, whose back NDC has no place for",
            "wanted a spiral or test",
            "choose that --path",
        )
    if name == "test":
        cameras = fit.scene("test").cameras
    elif name == "spiral":
        middle = scene.box.mean(0) if not scene.cameras.ndc else None
        focus = (
            float((scene.cameras.position.mean(0) - middle).norm()) if middle is not None else 1.0
        )
        focus = float(scene.facts.get("focus", focus))
        cameras = spiral(scene.cameras, focus=focus, views=views)
    else:
        cameras = circle_path(scene.cameras, views=views)
    if size:
        cameras = cameras.resized(round(size * cameras.rows / cameras.cols), size)
    return cameras


def write_attenuation(fit: Fit, scene: Scene, out: Path) -> None:
    """The density of a fitted orbit of radiographs as ``volume.nii.gz`` with millimetre spacing."""
    values, box = load.density_grid(fit, VOLUME)
    scale = scene.facts.get("line_integral_scale")
    x, y, z = box[1].tolist()
    field = FieldVolume(values, float(scene.facts["mm_per_unit"]), scale, (x, y, z))
    quantity: Quantity = "relative" if scale is None else "mu_per_mm"
    volume = Volume.centred(field.per_mm, field.spacing_mm, quantity)
    write_volume(volume, out / "volume.nii.gz")


def labels_of(fits: Sequence[Fit], settings: Sequence[str] = ()) -> list[str]:
    """What runs are called in a comparison: their folders' names, with the parents or snapshots
    that tell equal ones apart.

    ``settings``, with which the first is rendered, follow its name. One snapshot twice under the
    same settings is a UserError.
    """
    snapshots = [fit.path.resolve().with_suffix("") for fit in fits]
    for least, paths in enumerate(([path.parent for path in snapshots], snapshots), start=1):
        for n in range(least, max(len(path.parts) for path in paths)):
            labels = ["/".join(path.parts[-n:]) for path in paths]
            labels[0] = " ".join([labels[0], *settings])
            if len(set(labels)) == len(labels):
                return labels
    raise UserError(
        "got one run twice to compare",
        "wanted runs that differ",
        "leave one out, or change its sampler with --set",
    )


def check_same_scene(fit: Fit, other: Fit) -> None:
    """Refuse to look at another scene along this one's path: of another name (which tells patients
    apart), place or quantity.
    """
    broadcast_text = [
        (str(f.meta["scene"]), Path(f.meta["dataset"]).expanduser().resolve(), f.meta["quantity"])
        for f in (fit, other)
    ]
    if broadcast_text[0] != broadcast_text[1]:
        (name, place, kind), (other_name, other_place, other_kind) = broadcast_text
        raise UserError(
            f"got '{other.path.parent}', a run of {other_kind} scene {other_name} in "
            f"'{other_place}', to compare",
            f"wanted one of {kind} scene {name} in '{place}'",
            "give runs of the same scene",
        )
