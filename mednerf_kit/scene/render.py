"""``mednerf-kit render`` on fitted scenes: videos along a path, comparisons and exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ..core import files
from ..core.errors import UserError
from ..data.posed.splits import NoViews
from ..data.posed.transforms import check_transforms, write_transforms
from ..data.posed.types import Scene
from ..data.posed.world import Frame, file_length
from ..imaging.cameras import Cameras, circle_path, spiral
from ..imaging.volume import Quantity, Volume, write_volume
from ..recon.field_volume import FieldVolume
from ..viz import figures
from . import export, field_queries, load, outputs
from .load import Fit, load_fit

PathName = Literal["orbit", "spiral", "test"]
VOLUME = 128  # voxels along a side of an exported attenuation volume


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
    frame: Frame = "file",
    out: Path = Path("out/render"),
    device: str = "auto",
) -> Path:
    """Write ``orbit.mp4`` and ``depth.mp4`` along a path, and on request exports; returns ``out``.

    What cannot be written is refused before anything is rendered.

    Options:
        run: the fitted scene.
        path: orbit, spiral or test; None chooses by the scene (:func:`camera_path`).
        views: number of views on the path.
        size: width of the pictures in pixels; None is the scene's own.
        settings: samplers to use instead of the fitted ones.
        video: render the path.
        points: write a coloured point cloud, ``points.ply``.
        mesh: write a surface, ``mesh.ply``.
        threshold: density or distance at which the mesh is cut.
        transforms: write the posed pictures as ``transforms.json``.
        compare: other runs of the same scene, rendered along the same path into ``compare.mp4`` and
            ``.gif``, in this order.
        frame: points, mesh and poses are in the world of the scene's files, or ``normalised`` in
            the space it was fitted in. ``frame.json`` tells one from the other where they differ.
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
    files.made_folder(out)
    if cameras is not None:
        length = file_length(scene) if frame == "file" else 1.0
        seen = outputs.write_video(fit, cameras, out, length=length)
        for i, image in enumerate(seen.image):
            figures.write_png8(
                out / "frames" / f"{i:03d}.png", outputs.as_picture(image.clamp(0, 1))
            )
        if compare:
            others = [load.render_views(other, cameras).image for other in fits[1:]]
            outputs.write_comparison(
                dict(zip(labels, [seen.image, *others], strict=True)), out / "compare"
            )
    to_world = scene.to_world if frame == "file" else None
    if points:
        export.export_points(fit, out / "points.ply", to_world=to_world)
    if mesh:
        export.export_mesh(fit, out / "mesh.ply", threshold=threshold, to_world=to_world)
    if transforms:
        write_transforms(every_split(fit, scene), out, to_world=to_world)
    if scene.to_world is not None and (points or mesh or transforms):
        way = {"frame": frame, "to_world": scene.to_world.tolist()}
        files.write_json(out / "frame.json", way)
    if scene.quantity == "line_integral" and not scene.cameras.ndc:
        write_attenuation(fit, scene, out)
    return out


def every_split(fit: Fit, train: Scene) -> Iterator[Scene]:
    """The splits of a fitted scene that have views, read one after the other."""
    yield train
    for part in ("test", "val"):
        with suppress(NoViews):
            yield fit.scene(part)


def camera_path(
    fit: Fit, scene: Scene, name: PathName | None, views: int, size: int | None
) -> Cameras:
    """An orbit, a spiral or the test views, with pictures ``size`` pixels wide.

    The default is the spiral for forward-facing scenes and the orbit for others. Raises UserError
    for an orbit of a scene in NDC.
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
    values, box = field_queries.density_grid(fit, VOLUME)
    scale = scene.facts.get("line_integral_scale")
    x, y, z = box[1].tolist()
    field = FieldVolume(values, float(scene.facts["mm_per_unit"]), scale, (x, y, z))
    quantity: Quantity = "relative" if scale is None else "mu_per_mm"
    volume = Volume.centred(field.per_mm, field.spacing_mm, quantity)
    write_volume(volume, out / "volume.nii.gz")


def labels_of(fits: Sequence[Fit], settings: Sequence[str] = ()) -> list[str]:
    """What runs are called in a comparison: their folders' names.

    Parents or snapshots are added where they are needed to tell runs apart; ``settings``, with
    which the first run is rendered, follow its name. Raises UserError for one snapshot twice under
    the same settings.
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
    """Refuse a run of another scene: of another name (of a patient, say), place or quantity."""
    (name, place, kind), (other_name, other_place, other_kind) = (
        (str(f.meta["scene"]), Path(f.meta["dataset"]).expanduser().resolve(), f.meta["quantity"])
        for f in (fit, other)
    )
    if (name, place, kind) != (other_name, other_place, other_kind):
        raise UserError(
            f"got '{other.path.parent}', a run of {other_kind} scene {other_name} in "
            f"'{other_place}', to compare",
            f"wanted one of {kind} scene {name} in '{place}'",
            "give runs of the same scene",
        )
