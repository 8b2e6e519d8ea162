"""Whole inputs of every kind there is a reader for; `fuzz.py` damages them and has them read."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from mednerf_kit import cli
from mednerf_kit.core import files


@dataclass(frozen=True)
class Target:
    """What is read: a kind of input, how it is made, which of its files are damaged, and how a
    command reads it.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]  # of the folder
    pattern: str = "*"  # of the files that are damaged, however deep


def command(*words: object) -> Callable[[Path], None]:
    """A command of the program; HERE among its words is the folder of the case."""

    def run(folder: Path) -> None:
        cli.cli.main(
            [str(word).replace("HERE", str(folder)) for word in words],
            prog_name="mednerf-kit",
            standalone_mode=False,
        )

    return run


def scene_targets() -> Iterator[Target]:
    """A toy scene of every format, and COLMAP's binary form."""
    from mednerf_kit.data.posed.scene import SCENES

    check = command("data", "check", "HERE/scene", "--split", "train")
    for name, entry in SCENES.entries.items():
        if name not in ("blocks", "orbit"):
            yield Target(f"scene: {name}", lambda home, e=entry: example(e, home / "scene"), check)
    colmap = SCENES.entries["colmap"]
    yield Target("scene: colmap.bin", lambda home: binary_colmap(colmap, home / "scene"), check)
    yield Target("scene: masks, depth", lambda home: with_extras(colmap, home / "scene"), check)
    yield Target(
        "set of X-rays",
        lambda home: make_set(home / "chest_set"),
        command("data", "check", "HERE/chest_set", "--split", "all"),
    )


def example(entry: Any, place: Path) -> None:
    """A format's own example, at this place; one that is a file keeps its suffix."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = entry.example(Path(folder) / "example")
        shutil.move(made, place.with_suffix(made.suffix))


def binary_colmap(entry: Any, place: Path) -> None:
    """COLMAP's example with its three files in binary."""
    from mednerf_kit.data.posed.colmap_model import MODELS, find_model

    example(entry, place)
    where = find_model(place)
    assert where is not None
    lines = {
        name: [
            line.split()
            for line in (where / f"{name}.txt").read_text().splitlines()
            if not line.startswith("#")
        ]
        for name in ("cameras", "images", "points3D")
    }
    models = [name for name, _ in MODELS]
    out = struct.pack("<Q", len(lines["cameras"]))
    for number, model, cols, rows, *values in lines["cameras"]:
        out += struct.pack("<iiQQ", int(number), models.index(model), int(cols), int(rows))
        out += struct.pack(f"<{len(values)}d", *map(float, values))
    (where / "cameras.bin").write_bytes(out)
    heads = [line for line in lines["images"][::2] if line]
    out = struct.pack("<Q", len(heads))
    for number, *pose, camera, name in heads:
        out += struct.pack("<i7di", int(number), *map(float, pose), int(camera))
        out += name.encode() + b"\0" + struct.pack("<Q2dq", 1, 1.0, 1.0, -1)
    (where / "images.bin").write_bytes(out)
    out = struct.pack("<Q", len(lines["points3D"]))
    for number, *values in lines["points3D"]:
        x, y, z, _, _, _, error = map(float, values[:7])
        out += struct.pack("<Q3d3BdQ", int(number), x, y, z, 1, 2, 3, error, 0)
    (where / "points3D.bin").write_bytes(out)
    for name in lines:
        (where / f"{name}.txt").unlink()


def with_extras(entry: Any, place: Path) -> None:
    """COLMAP's example as nerfstudio's, a picture of it in OpenEXR, with masks and with depth of
    both kinds.
    """
    import OpenEXR
    from PIL import Image

    from mednerf_kit.data.posed.depth import save_depth
    from mednerf_kit.data.posed.scene import load_scene
    from mednerf_kit.data.posed.transforms import write_transforms

    example(entry, place.with_name("colmap"))
    scene = load_scene(place.with_name("colmap"), split="all")
    shutil.rmtree(place.with_name("colmap"))
    valid = torch.ones(scene.images.shape[:3], dtype=torch.bool)
    valid[:, 3:6, 4:9] = False
    write_transforms([replace(scene, valid=valid)], place)
    node = json.loads((place / "transforms.json").read_text())
    names = [frame["file_path"] for frame in node["frames"]]
    picture = OpenEXR.File(
        {"type": OpenEXR.scanlineimage}, {"RGB": scene.images[0].float().numpy()}
    )
    picture.write(str(place / names[0].replace(".png", ".exr")))
    (place / names[0]).unlink()
    node["frames"][0]["file_path"] = names[0].replace(".png", ".exr")
    levels = np.full(scene.images.shape[1:3], 4000, np.uint16)
    for frame, stem in zip(node["frames"], scene.stems, strict=True):
        frame["depth_file_path"] = f"depth/{stem}.png"
        (place / "depth").mkdir(exist_ok=True)
        Image.fromarray(levels).save(place / frame["depth_file_path"])
    node["train_filenames"] = [frame["file_path"] for frame in node["frames"]]
    node.pop("all_filenames")
    files.write_json(place / "transforms.json", node)
    files.write_json(place / "depth" / "depth.json", {"scale": 0.001, "kind": "planar"})
    save_depth(place / "depth_train.npz", scene.stems, torch.full(valid.shape, 4.0))


def ball(size: int = 16) -> Any:
    """A ball of water in air."""
    from mednerf_kit.imaging.volume import Volume

    line = torch.linspace(-1, 1, size)
    near = sum(axis**2 for axis in torch.meshgrid(line, line, line, indexing="ij")) < 0.5
    return Volume.centred(near.float() * 1000 - 1000, (12.0,) * 3, "hu")


def make_set(root: Path) -> None:
    """Three patients of eight small views."""
    from mednerf_kit.data.drr import render_orbit, write_patient
    from mednerf_kit.imaging.geometry import DEFAULTS

    geometry = DEFAULTS["chest"].resized(16).orbit(8)
    views = render_orbit(ball(), geometry)
    for name in ("p0", "p1", "p2"):
        record = {"identity": f"ball:{name}", "film": {"name": "none"}}
        write_patient(root / name, views, scale=7.5, record=record, volume=ball())
    geometry.save(root / "geometry.json")
    files.write_json(root / "split.json", {"train": ["p0", "p1"], "val": [], "test": ["p2"]})


def volume_targets() -> Iterator[Target]:
    """A ball as a file of every kind."""
    from mednerf_kit.imaging.scans.dicom_out import write_enhanced_ct
    from mednerf_kit.imaging.volume import write_volume

    for suffix in (".nii.gz", ".nii", ".mha", ".nrrd", ".dcm"):
        write = write_enhanced_ct if suffix == ".dcm" else write_volume
        sizes = ("--views", 2, "--size", 8, "--detector-mm", 300)
        yield Target(
            f"volume: {suffix}",
            lambda home, w=write, s=suffix: w(ball(), home / f"ball{s}"),
            command("drr", "--ct", f"HERE/ball{suffix}", "--out", "HERE/out", *sizes),
        )


def film_targets() -> Iterator[Target]:
    """A picture as a radiograph of every kind, with a geometry beside it."""
    from PIL import Image

    from mednerf_kit.data.radiograph import read_radiograph
    from mednerf_kit.imaging.geometry import DEFAULTS

    grey = (np.outer(np.hanning(40), np.hanning(36)) * 65535).astype(np.uint16)

    def make(home: Path, name: str) -> None:
        if name.endswith(".npy"):
            np.save(home / name, grey / 65535)
        elif name.endswith(".dcm"):
            computed_radiograph(home / name, grey)
        elif name.endswith(".pfm"):
            content = b"Pf\n36 40\n-1\n" + (grey / 65535).astype("<f4").tobytes()
            (home / name).write_bytes(content)
        else:
            picture = grey if name.startswith("16") else (grey >> 8).astype(np.uint8)
            Image.fromarray(picture).save(home / name)
        geometry = replace(DEFAULTS["chest"], rows=40, cols=36).at([270.0])
        geometry.save(home / "geometry.json")

    for name in (
        *("16.png", "8.png", "16.tif", "8.jpg", "8.bmp", "8.pgm", "a.npy", "a.pfm", "a.dcm"),
    ):
        yield Target(
            f"X-ray: {name}",
            lambda home, n=name: make(home, n),
            lambda home, n=name: read_radiograph(home / n, size=32),
        )


def computed_radiograph(path: Path, grey: np.ndarray) -> None:
    """A DICOM film of 16 bits, as computed radiography stores it."""
    import pydicom

    film, kind = pydicom.Dataset(), pydicom.uid.ComputedRadiographyImageStorage
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = kind
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = "1.2.3"
    film.Modality, film.ViewPosition, film.BodyPartExamined = "CR", "PA", "CHEST"
    film.Rows, film.Columns = grey.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 16, 15
    film.PixelRepresentation, film.ImagerPixelSpacing = 0, [8.0, 8.0]
    film.WindowCenter, film.WindowWidth = 32768, 65536
    film.PixelData = grey.tobytes()
    film["PixelData"].VR = "OW"
    film.save_as(path, enforce_file_format=True)


def geometry_targets() -> Iterator[Target]:
    """Set-ups and projections of other programs."""
    from mednerf_kit.data.imports.base import IMPORTERS
    from mednerf_kit.imaging.geometry import DEFAULTS
    from mednerf_kit.imaging.geometry_files.base import GEOMETRY_FILES

    geometry = replace(DEFAULTS["chest"], columns_flipped=False).orbit(4)
    for name, entry in GEOMETRY_FILES.entries.items():
        suffix = entry.suffix
        yield Target(
            f"geometry: {name}",
            lambda home, n=name, s=suffix: GEOMETRY_FILES.build(n).write(geometry, home / f"g{s}"),
            command("data", "geometry", f"HERE/g{suffix}", "HERE/out/geometry.json"),
        )
    for name, entry in IMPORTERS.entries.items():
        yield Target(
            f"import: {name}",
            lambda home, e=entry: example(e, home / "in"),
            lambda folder, n=name: command(
                *("data", "import", *folder.glob("in*"), "--out", "HERE/out", "--format", n)
            )(folder),
        )


SCENE_RECIPE = {
    "base": "tensorf",
    "scene": {"size": 16, "train_views": 3},
    "selector": {"name": "random", "n": 32},
    "levels": [{"field": "scene", "sampler": {"name": "stratified", "n": 8}}],
    "steps": 4,
    "snapshot_steps": 2,
}
SMALL_FIELD = [
    *("density_ranks=2", "appearance_ranks=2", "features=3", "head_width=8"),
    *("start_voxels=512", "end_voxels=512", "upsample=[]", "masks=[]"),
]


def trained(home: Path) -> None:
    """A run of a scene that stopped half-way."""
    from mednerf_kit.engine.session import train

    (home / "recipe.yaml").write_text(yaml.safe_dump(SCENE_RECIPE))
    settings = [f"fields.scene.{setting}" for setting in SMALL_FIELD]
    recipe = str(home / "recipe.yaml")
    folder = train(
        dataset="blocks", config=recipe, settings=settings, outdir=home / "runs", device="cpu"
    )
    assert folder is not None
    (home / "recipe.yaml").unlink()
    (folder / "snapshot-000004.safetensors").unlink()


def small_latent(home: Path) -> None:
    """A latent of the prior of the package, and that prior with a calibration beside it."""
    from mednerf_kit.invert import outputs
    from mednerf_kit.prior.load import load_prior

    prior = load_prior("bundled:knee")
    shutil.copy(prior.path, home / "knee.safetensors")
    files.write_json(home / "calibration.json", {"view": 1.5, "volume": {"1": 1.2, "2": 1.1}})
    one = outputs.one_patient(prior, outputs.seeded_eps(prior, 1))
    outputs.save_latent(home / "latent.safetensors", prior, one)


def run_targets() -> Iterator[Target]:
    """Runs, snapshots, latents, poses, recipes and ablations."""
    from mednerf_kit.scene.pose.photograph import read_pose_file

    resume = command("train", "--outdir", "HERE/runs", "--resume", "00000-blocks")
    yield Target("run: resumed", trained, resume, "*[!0-9]")
    yield Target(
        "run: latest",
        trained,
        command(
            "train",
            "--dataset",
            "blocks",
            "--config",
            "tensorf",
            "--outdir",
            "HERE/runs",
            "--resume",
            "latest",
            "--dry-run",
        ),
    )
    snapshot = "HERE/runs/00000-blocks/snapshot-000002.safetensors"
    view = ("--views", 1, "--size", 16, "--no-video", "--points", "--out", "HERE/out")
    yield Target("snapshot", trained, command("render", "--run", snapshot, *view), "snapshot*")
    yield Target("latent and calibration", small_latent, lambda home: read_latent(home))
    yield Target("pose of a camera", camera_pose, lambda home: read_pose_file(home / "pose.json"))
    dry = command(
        *("train", "--dataset", "blocks", "--config", "HERE/recipe.yaml", "--dry-run"),
    )
    for name in ("tensorf", "hash", "neus", "lnerf"):
        yield Target(f"recipe: {name}", lambda home, n=name: whole_recipe(home, n), dry)
    for name in ("chest", "chest_mednerf", "chest_hypernerfgan"):
        yield Target(f"recipe: {name}", lambda home, n=name: whole_recipe(home, n), dry)
    yield Target(
        "ablation",
        small_ablation,
        command("ablate", "HERE/ablation.yaml", "--outdir", "HERE/out", "--dry-run"),
    )


def camera_pose(home: Path) -> None:
    """Where a photograph may have been taken, as ``pose`` writes and reads it."""
    files.write_json(home / "pose.json", {"camera_to_world": np.eye(4).tolist()})


def read_latent(home: Path) -> None:
    """A latent as ``render`` reads it, with all that its prior has beside it."""
    from mednerf_kit.invert import outputs
    from mednerf_kit.prior.load import load_prior

    prior = load_prior(home / "knee.safetensors")
    outputs.load_kept(home / "latent.safetensors", prior)
    outputs.load_latent(home / "latent.safetensors", prior)


def whole_recipe(home: Path, name: str) -> None:
    """A recipe with everything that its base says."""
    from mednerf_kit.core import config

    recipe = config.load(name)
    recipe.pop("presets", None)
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def small_ablation(home: Path) -> None:
    """A grid of two cells."""
    cells = {"first": {}, "second": {"selector.n": 64}}
    node = {"base": "tensorf", "dataset": "blocks", "seeds": [0, 1], "steps": 4, "cells": cells}
    (home / "ablation.yaml").write_text(yaml.safe_dump({**node, "metrics": ["psnr_db"]}))


def targets() -> list[Target]:
    """Every kind of input there is a reader for."""
    kinds = (scene_targets, volume_targets, film_targets, geometry_targets, run_targets)
    return [target for kind in kinds for target in kind()]
