"""Sets of orbits: patients seen from the same angles, read into one tensor with its geometry.

Four layouts are known: ``flat``, that of the published MedNeRF set (``03_xray0071.png``,
``01_bbg_xray0000.png``); ``folders``, a folder of sorted pictures per patient; and ``own``, the
same with ``geometry.json`` (and usually ``split.json``) at the root, as ``cohort.py`` writes it;
and ``orbit``, the folder of one patient's views that ``project`` and ``render`` write.
Pictures are never mirrored. A single X-ray is read in ``radiograph.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError, reader, unknown_name
from ..core.files import natural_key, read_json
from ..core.memory import check_room
from ..core.resampling import area_resized
from ..imaging.geometry import CT_SCALES, DEFAULTS, Geometry
from .cohort import COHORT, phantom_cohort, split_patients
from .ct_cohort import cached_ct_cohort, ct_setup
from .ct_files import is_folder_of_cts
from .films.formats import read_film
from .films.stored import bone_bright
from .grey import read_as
from .set_folder import check_folder
from .view_names import MASK_FOLDER, views_by_name, without_masks

FLAT = re.compile(r"(?P<patient>.+?)(?:_bbg)?_xray(?P<view>\d+)\.png", re.IGNORECASE)
SPLITS = ("train", "val", "test", "all")

OFF_CENTRE = (
    "isocentres are the middles of scans, off the middles of bodies by chance, which one view does "
    "not tell: make the set again by `mednerf-kit data make ct`"
)


@dataclass(frozen=True)
class OrbitSet:
    """Orbits of P patients in V common views."""

    root: Path
    anatomy: str | None
    patients: tuple[str, ...]  # P names, sorted
    images: Tensor  # [P, V, H, W] float16 in [0, 1], bone bright, linear in the line integral
    geometry: Geometry  # of the pictures; V angles_deg
    volumes: dict[str, Path]  # the CT of a patient, where there is one
    # what each patient is recognised by, whatever the folder is called
    fingerprints: dict[str, tuple[str, ...]]
    split: str
    layout: str
    notes: tuple[str, ...] = ()  # what was assumed, a sentence each

    def subset(self, patients: Iterable[str]) -> OrbitSet:
        """The same set with these patients only, in this order."""
        names = tuple(patients)
        for name in names:
            if name not in self.patients:
                raise unknown_name("patient", name, self.patients)
        index = torch.tensor([self.patients.index(name) for name in names], dtype=torch.long)
        return replace(
            self,
            patients=names,
            images=self.images[index],
            volumes={name: path for name, path in self.volumes.items() if name in names},
            fingerprints={name: self.fingerprints[name] for name in names},
        )

    def resized(self, size: int) -> OrbitSet:
        """The same pictures with ``size`` columns (rows in proportion), by the area filter."""
        if size == self.geometry.cols:
            return self
        geometry = self.geometry.resized(size)
        images = self.images.new_empty(*self.images.shape[:2], geometry.rows, size)
        for orbit, slot in zip(self.images, images, strict=True):
            slot.copy_(area_resized(orbit, geometry.rows, size))
        return replace(self, images=images, geometry=geometry)

    def at_scale(self, scale: float | None) -> OrbitSet:
        """The same pictures with ``scale`` as the line integral that is white, and a note of it.

        What becomes brighter than white is cut, as in a set that was made at this scale. A set, or
        a wish, without a scale is left as it is.
        """
        own = self.geometry.line_integral_scale
        if own is None or scale is None or math.isclose(own, scale, rel_tol=1e-3):
            return self
        images = torch.empty_like(self.images)
        for orbit, slot in zip(self.images, images, strict=True):
            slot.copy_((orbit * (own / scale)).clamp_max_(1))
        cut = float(torch.stack([(orbit >= 1).float().mean() for orbit in images]).mean())
        note = f"the set's line_integral_scale is {own:g}: its pictures were brought to {scale:g}"
        if cut >= 1e-4:
            note += f", which cuts {cut:.1%} of the pixels at white"
        return replace(
            self,
            images=images,
            geometry=replace(self.geometry, line_integral_scale=scale),
            notes=(*self.notes, note),
        )

    def all_fingerprints(self) -> tuple[str, ...]:
        """Every fingerprint of every patient, as a snapshot records its training patients."""
        return tuple(one for name in self.patients for one in self.fingerprints[name])

    def seen_before(self, fingerprints: Iterable[str]) -> tuple[str, ...]:
        """The patients of this set that have one of these fingerprints, of a snapshot say."""
        recorded = set(fingerprints)
        return tuple(n for n in self.patients if recorded.intersection(self.fingerprints[n]))


@reader("wanted a whole set of X-rays", "copy or make it again")
def load_orbits(
    source: str | Path,
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    patients: Sequence[str] | None = None,
    limit: int | None = None,
    geometry: Geometry | None = None,
    cohort: Mapping[str, int] | None = None,
    views: int = 72,
    anatomy: str | None = None,
    input_kind: str | None = None,
    invert: bool = False,
    progress: bool = True,
) -> OrbitSet:
    """Read a set of DRRs from a folder; ``chest`` and ``knee`` mean the phantom cohorts.

    Phantoms that are missing are made by :mod:`.cohort`, and the DRRs of a folder of CTs by
    :mod:`.ct_cohort`, both into the cache. A set without ``geometry.json`` or a given
    geometry gets the default of its anatomy, guessed from the folder's name (chest: field of view
    18.2°, knee: 19.1°), with equally spaced angles from 0° and an unknown scale; ``notes`` says so.

    Options:
        split: train, val, test or all: from ``split.json``, or else :func:`split_patients`.
        size: number of columns wanted; None keeps the stored size.
        seed: of the split where there is no ``split.json``.
        patients: names of the patients wanted, instead of a split's.
        limit: the first of them only.
        geometry: of the pictures; None takes ``geometry.json``, or else the anatomy's default.
        cohort: patients of each split, of phantoms.
        views: number of views, of phantoms and CTs.
        anatomy: of a folder of CTs; None takes what its name says, else chest.
        input_kind: of :data:`.grey.KINDS`, what grey values are; None is line-integral.
        invert: turn grey values over first, for pictures in which bone is dark.
        progress: show what is made, of phantoms and CTs.

    Raises UserError for an unknown layout, missing views, two sizes, unreadable pictures, an
    unknown split or an empty one.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    root, made = Path(source).expanduser(), []
    if str(source) in DEFAULTS:
        counts = {
            part: min(n, limit or n) if split in (part, "all") else 0
            for part, n in (cohort or COHORT).items()
        }
        root, parts = phantom_cohort(
            str(source), **counts, size=size or 128, views=views, progress=progress
        )
        if patients is None:
            patients = [name for part in parts.values() for name in part]
    elif is_folder_of_cts(root):
        setup = ct_setup(geometry, size=size or 128, views=views)
        cts = cached_ct_cohort(root, anatomy=anatomy, setup=setup, progress=progress)
        root, made = cts.folder, cts.summary(root)
    layout, files, paired = find_pictures(root)
    names, notes = _selected(root, files, split=split, seed=seed, patients=patients)
    names = names if limit is None else names[:limit]
    count = _view_count(root, files, names)
    first, *_ = _read_orbit(_paths(files, names[0], 1))  # of the size of all
    anatomy = _anatomy(root, names)
    geometry, more_notes = _set_geometry(root, anatomy, count, first.shape[1:], geometry)
    scale = CT_SCALES[anatomy or "chest"]
    geometry, as_pictures, reading = read_as(input_kind, geometry, invert=invert, scale=scale)
    geometry = geometry if size is None else geometry.resized(size)
    images, fingerprints, remarks = _read_patients(root, files, names, geometry, as_pictures)
    return OrbitSet(
        root,
        anatomy,
        tuple(names),
        images,
        geometry,
        {name: ct for name in names if (ct := root / name / "volume.nii.gz").is_file()},
        fingerprints,
        split,
        layout,
        (*made, *paired, *notes, *more_notes, *reading, *sorted(remarks)),
    )


def _paths(files: Mapping[str, Mapping[int, Path]], name: str, count: int) -> list[Path]:
    return [files[name][view] for view in range(count)]


def _read_patients(
    root: Path,
    files: Mapping[str, Mapping[int, Path]],
    names: Sequence[str],
    geometry: Geometry,
    as_pictures: Callable[[np.ndarray, float], np.ndarray],
) -> tuple[Tensor, dict[str, tuple[str, ...]], set[str]]:
    """The views of all patients as pictures, float16 [P, V, rows, cols], fingerprints and remarks.

    ``as_pictures`` makes them of the stored views [V, H, W] of a patient and the end of their
    range; they are reduced to the geometry's size. One patient's stored views are held at a time.
    """
    count, shape = geometry.views, (geometry.rows, geometry.cols)
    check_room(
        f"{len(names)} patients with {count} views of {shape[1]}×{shape[0]} pixels",
        2 * len(names) * count * shape[0] * shape[1],
        "choose smaller pictures (--size, of a recipe dataset.size) or fewer patients (--limit)",
    )
    images = torch.empty(len(names), count, *shape, dtype=torch.float16)
    fingerprints, remarks, first = {}, set(), (0, 0)
    for name, slot in zip(names, images, strict=True):
        orbit, full_scale, more = _read_orbit(_paths(files, name, count))
        if name == names[0]:
            first = orbit.shape[1:]
        elif orbit.shape[1:] != first:
            raise UserError(
                f"got pictures of two sizes, {first[0]}×{first[1]} ({names[0]}) and "
                f"{orbit.shape[1]}×{orbit.shape[2]} ({name})",
                "wanted one size in a set",
                f"resize them or leave a patient out of '{root}'",
            )
        identity, on_films = _recorded(root / name)
        fingerprints[name] = (*identity, pixel_fingerprint(orbit))
        remarks |= more | on_films
        whole = torch.from_numpy(as_pictures(orbit, full_scale)).half()
        slot.copy_(whole if whole.shape[1:] == shape else area_resized(whole, *shape))
    return images, fingerprints, remarks


def find_pictures(root: Path) -> tuple[str, dict[str, dict[int, Path]], tuple[str, ...]]:
    """The layout of a set, its pictures (patient -> view number -> file), and how they were paired.

    Views and files are paired by :mod:`.view_names`.
    """
    check_folder(root)
    flat = _flat(_pngs(root))
    if flat:
        return "flat", flat, ()
    angles_deg = _angles_of(root)
    notes: dict[str, None] = {}
    alone = [path for path in _pngs(root) if path.name.startswith("view_")]
    if alone and (root / "geometry.json").is_file():
        views, pairing = views_by_name(without_masks(alone)[0], angles_deg)
        patient = root.resolve().parent.name or "orbit"
        return "orbit", {patient: views}, (pairing,) if pairing else ()
    folders = {}
    for folder in sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        pictures = _pngs(folder)
        if pictures and FLAT.fullmatch(pictures[0].name):
            raise UserError(
                f"got '{root}', a folder of sets",
                "wanted one set",
                f"give one of them, for example '{folder}'",
            )
        if pictures:
            pictures, without = without_masks(pictures)
            folders[folder.name], pairing = views_by_name(pictures, angles_deg)
            notes |= dict.fromkeys(note for note in (without, pairing) if note)
    masks = [name for name in folders if MASK_FOLDER.fullmatch(name)]
    if masks and len(masks) < len(folders):
        folders = {name: views for name, views in folders.items() if name not in masks}
        notes[f"the folder '{masks[0]}' was left out: its pictures are masks by its name"] = None
    if not folders:
        raise UserError(
            f"got '{root}', where no known layout was recognised",
            "wanted DRRs (PATIENT/*.png, PATIENT_xrayNNNN.png) or a posed scene "
            "(transforms.json, poses_bounds.npy, "
            "sparse/0 …)",
            "data/README.md shows every layout; `mednerf-kit drr`, `data import` and `data get` "
            "make some",
        )
    return ("own" if (root / "geometry.json").is_file() else "folders"), folders, tuple(notes)


def _pngs(folder: Path) -> list[Path]:
    """The PNG files of a folder, 10 after 9; without hidden ones, as macOS lays beside others."""
    pictures = [path for path in folder.glob("*.png") if not path.name.startswith(".")]
    return sorted(pictures, key=natural_key)


def _angles_of(root: Path) -> list[float]:
    """``angles_deg`` of the set's geometry.json; none where it has none or cannot be read."""
    try:
        values = read_json(root / "geometry.json")
        return [float(angle) for angle in values["angles_deg"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _flat(pictures: list[Path]) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = {}
    for path in pictures:
        match = FLAT.fullmatch(path.name)
        if match is None:
            continue
        views, view = found.setdefault(match["patient"], {}), int(match["view"])
        if view in views:
            raise UserError(
                f"got '{views[view].name}' and '{path.name}'",
                "wanted one picture per view",
                "remove one of the two",
            )
        views[view] = path
    return found


def _selected(
    root: Path, files: dict, *, split: str, seed: int, patients: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The names wanted, sorted, and what was assumed to choose them."""
    notes: list[str] = []
    if patients is not None:
        for name in patients:
            if name not in files:
                raise unknown_name("patient", name, files)
        names = sorted(patients)
    elif split == "all":
        names = sorted(files)
    else:
        parts = read_split(root)
        if parts is None:
            parts = split_patients(files, seed=seed)
            counts = ", ".join(f"{len(parts[part])} {part}" for part in parts)
            notes = [f"no split.json: split by patient with seed {seed} ({counts})"]
        names = sorted(parts.get(split, []))
        absent = [name for name in names if name not in files]
        if absent:
            raise UserError(
                f"got split.json with patient '{absent[0]}', of whom '{root}' has no picture",
                "wanted only patients of the set",
                "correct split.json",
            )
    if not names:
        raise UserError(
            f"got '{root}', whose {split} split is empty",
            "wanted at least one patient",
            "choose another --split, or add patients",
        )
    return names, notes


def read_split(root: Path) -> dict[str, list[str]] | None:
    """``split.json`` of a set, or None."""
    path = root / "split.json"
    if not path.is_file():
        return None
    try:
        parts = read_json(path)
        return {str(part): [str(name) for name in names] for part, names in parts.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(
            f"got '{path}', which cannot be read",
            'wanted {"train": [...], "val": [...], "test": [...]}',
            "correct or remove it",
        ) from None


def _view_count(root: Path, files: dict[str, dict[int, Path]], names: list[str]) -> int:
    """How many views the set has; the patients wanted must have them all."""
    views = max(max(numbers) for numbers in files.values()) + 1
    for name in names:
        missing = [view for view in range(views) if view not in files[name]]
        if missing:
            shown = ", ".join(str(view) for view in missing[:4]) + (
                " …" if len(missing) > 4 else ""
            )
            raise UserError(
                f"got {views - len(missing)} of {views} views of patient '{name}' in '{root}' "
                f"(missing: {shown})",
                "wanted every view of every patient",
                "add the pictures or leave that patient out",
            )
    return views


def _read_orbit(paths: list[Path]) -> tuple[np.ndarray, float, set[str]]:
    """The views of one patient [V, H, W] as stored, the end of their range, and remarks."""
    views: list[np.ndarray] = []
    remarks: set[str] = set()
    full_scale = 0.0
    for path in paths:
        film = read_film(path)
        values = bone_bright(film)
        remarks.update(film.notes)
        if views and values.shape != views[0].shape:
            raise UserError(
                f"got '{paths[0].name}' of {views[0].shape[0]}×{views[0].shape[1]} and "
                f"'{path.name}' of "
                f"{values.shape[0]}×{values.shape[1]} pixels in '{path.parent}'",
                "wanted one size in a set",
                "resize them or make the set again",
            )
        if views and (values.dtype, film.full_scale) != (views[0].dtype, full_scale):
            raise UserError(
                f"got '{path}' as {values.dtype} among {views[0].dtype} pictures",
                "wanted one bit depth in a set",
                "convert them or make the set again",
            )
        views.append(values)
        full_scale = film.full_scale
    return np.stack(views), full_scale, remarks


def pixel_fingerprint(orbit: np.ndarray) -> str:
    """A fingerprint of a patient by pictures alone: a hash of the stored pixels of three views.

    The views are the first and those a quarter and half of the way round.

    It survives renaming and re-compressing, not resizing: for sets made here the CT's own
    fingerprint is recorded as well.
    """
    digest = blake2b(digest_size=12)
    for view in (0, len(orbit) // 4, len(orbit) // 2):
        digest.update(np.ascontiguousarray(orbit[view]).tobytes())
    return f"pixels:{digest.hexdigest()}"


def _recorded(folder: Path) -> tuple[tuple[str, ...], set[str]]:
    """What ``patient.json`` knows: the fingerprint of the CT or phantom, and remarks."""
    try:
        record = read_json(folder / "patient.json")
        identity = (str(record["identity"]),)
    except (OSError, ValueError, KeyError, TypeError):
        return (), set()
    remarks = set()
    if identity[0].startswith("ct:") and record.get("isocentre") != "body":
        remarks.add(OFF_CENTRE)
    film = record.get("film")
    if isinstance(film, dict):
        remarks.add(
            f"the pictures are films ({film.get('name')}): grey values are not linear in the line "
            "integral"
        )
    return identity, remarks


def _anatomy(root: Path, patients: list[str]) -> str | None:
    """Chest or knee, guessed from the set's or its first patient's name."""
    for text in (root.name, root.resolve().name, patients[0]):
        for anatomy in DEFAULTS:
            if anatomy in text.lower():
                return anatomy
    return None


def _set_geometry(
    root: Path, anatomy: str | None, views: int, shape: tuple[int, int], given: Geometry | None
) -> tuple[Geometry, list[str]]:
    """The geometry of the pictures as stored, and what was assumed."""
    rows, cols = shape
    notes = []
    if given is None and (root / "geometry.json").is_file():
        given = Geometry.from_json(root / "geometry.json")
    if given is None:
        if anatomy is None:
            raise UserError(
                f"got '{root}' without geometry.json, and neither chest nor knee in its name",
                "wanted the X-ray set-up",
                "write geometry.json at its root (data/README.md shows one)",
            )
        given = replace(DEFAULTS[anatomy], line_integral_scale=None)
        given = replace(given, rows=rows, cols=cols, pixel_mm=given.pixel_mm * given.cols / cols)
        notes.append(
            f"no geometry.json: taken for a {anatomy} set by its name, field of view "
            f"{given.fov_deg:.1f}°, "
            f"{views} equally spaced views from 0°, unknown scale"
        )
    if given.views not in (0, views):
        raise UserError(
            f"got {views} views in '{root}' and {given.views} angles_deg in its geometry",
            "wanted one angle per view",
            "correct geometry.json or add the missing pictures",
        )
    if given.rows * cols != given.cols * rows:
        raise UserError(
            f"got pictures of {rows}×{cols} pixels in '{root}' and a geometry of "
            f"{given.rows}×{given.cols}",
            "wanted the same shape",
            "correct rows and cols in geometry.json",
        )
    given = given if given.views else given.orbit(views)
    return (given if given.cols == cols else given.resized(cols)), notes
