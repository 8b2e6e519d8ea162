"""``mednerf-kit score``: how real, how varied and how new a prior's random patients are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ... import DISCLAIMER
from ...core import files
from ...core.errors import UserError
from ...data.orbits import OrbitSet
from ...engine.device import select_device
from ...invert.predict import fine_grid_size
from ...metrics import image as image_metrics
from ...metrics import perceptual
from ...metrics.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    sliced_wasserstein,
)
from ...metrics.features import EXTRACTORS, INCEPTION_FILE, Extractor, inception_path, read
from ...prior.load import Prior, load_prior
from ...prior.sets import read_set
from ...viz import figures
from .memory import memorisation
from .mixing import write_mixing
from .random_patients import (
    RandomPatients,
    baked_views,
    draw,
    drawn_codes,
    enlarged,
    own_views,
    spread_views,
)

CONVENTIONS = (
    "Pictures lie in [0, 1], bone bright. Fakes come from scenes baked once and projected at the "
    "set's angles, each scene at equally spaced ones from a random one on. fid and kid are those "
    "of InceptionV3 (torchvision's ImageNet weights, not the TensorFlow graph of published "
    "figures); under features every extractor has its own Fréchet and kernel distance. Kernel "
    "distances are unbiased, Fréchet distances grow as sets shrink: compare equal counts. "
    "Precision, recall and swd read as many views of a patient as of a scene. floor compares "
    "training patients with unseen ones: what a perfect generator would get."
)
NOT_ASKED = "FID and KID were not computed: InceptionV3 was not asked for."
# pictures of a set, at most, in what needs them all in memory at once
SWD_MOST, NEIGHBOURS_MOST = 2048, 10_000
ORBIT_VIEWS = 8  # at which samples and patients are compared
CHECKED_SCENES, CHECKED_VIEWS = 2, 4  # whose voxels are compared with rays


@dataclass(frozen=True)
class Side:
    """One of two sets that are compared."""

    features: dict[str, Tensor]  # extractor -> [N, F]
    pictures: Tensor  # [M, rows, cols]
    spread: int  # so many of the first are evenly spread views of each patient


@dataclass(frozen=True)
class Sets:
    """The patients of a comparison."""

    compared: OrbitSet  # whom the random patients are compared with
    training: OrbitSet
    unseen: OrbitSet | None  # patients that the prior has not seen, where there are any


def extractors(
    name: str | Mapping[str, Extractor], weights: str | Path | None
) -> tuple[dict[str, Extractor], str | None]:
    """The extractors to use by name, and why InceptionV3 is not among them.

    ``auto`` is the hand-made one, and InceptionV3 where its weights are on this disk; a named one
    must work.
    """
    pyramid = EXTRACTORS.build("pyramid")
    if isinstance(name, Mapping):
        return {"pyramid": pyramid, **name}, NOT_ASKED
    if name != "auto" or weights is not None:
        node = {"name": "inception" if name == "auto" else name} | (
            {"weights": str(weights)} if weights else {}
        )
        return {"pyramid": pyramid, str(node["name"]): EXTRACTORS.build(node)}, NOT_ASKED
    if inception_path() is None:
        return {"pyramid": pyramid}, (
            f"FID and KID were not computed: InceptionV3's weights '{INCEPTION_FILE}' are not on "
            "this disk; "
            "name them with --weights or $MEDNERF_KIT_INCEPTION, or let --extractor inception "
            "download them."
        )
    return {"pyramid": pyramid, "inception": EXTRACTORS.build("inception")}, None


def real_sets(
    prior: Prior, dataset: str, split: str, limit: int | None
) -> tuple[OrbitSet, OrbitSet, OrbitSet | None]:
    """The patients to compare with, the training patients, and unseen ones (None without any)."""
    node = prior.meta["recipe"]["dataset"]
    trained_on = (str(prior.meta["dataset"]), str(prior.meta["split"]))
    known = prior.meta["patients"][:limit]
    training = read_set(trained_on[0], node, split=trained_on[1], patients=known, limit=limit)
    own = (dataset, split) == trained_on
    wanted = None if dataset == trained_on[0] else prior.geometry
    try:
        reals = read_set(
            dataset, node, split="test" if own else split, limit=limit, geometry=wanted
        )
    except UserError:
        if not own:
            raise
        return training, training, None
    if (
        reals.geometry.angles_deg != prior.geometry.angles_deg
        or reals.geometry.rows != prior.geometry.rows
    ):
        raise UserError(
            f"got a set of {reals.geometry.views} views of "
            f"{reals.geometry.cols}×{reals.geometry.rows}",
            f"wanted the {prior.geometry.views} angles and the size of the prior's set",
            "make it with the same --views and --size",
        )
    unseen = None if reals.seen_before(prior.meta["identities"]) else reals
    return (training if own else reals), training, unseen


def side_of(
    images: Tensor,
    chosen: Mapping[str, Extractor],
    views: int,
    most: int,
    rng: Generator,
    device: Any,
) -> Side:
    """A set of patients [P, V, rows, cols] as one side of a comparison, in random order.

    ``views`` evenly spread views of each patient come first, then the others.
    """
    count = images.shape[1]
    first = torch.cat([i * count + spread_views(count, views, rng) for i in range(len(images))])
    rest = torch.ones(len(images) * count, dtype=torch.bool)
    rest[first] = False
    others = rest.nonzero()[:, 0]
    order = torch.cat(
        [
            first[torch.randperm(len(first), generator=rng)],
            others[torch.randperm(len(others), generator=rng)],
        ]
    )
    shown = images.flatten(0, 1)[order[:most]]
    return Side(
        {k: read(e, shown, device) for k, e in chosen.items()},
        shown[:SWD_MOST].float(),
        min(len(first), most),
    )


def compare(a: Side, b: Side, seed: int) -> dict[str, Any]:
    """Distances between two sets: of the features of every extractor, and sliced Wasserstein.

    The manifold of which precision tells the share is that of ``a``.
    """
    found: dict[str, Any] = {"features": {}}
    for name in a.features:
        x, y = a.features[name], b.features[name]
        near, far = x[: min(a.spread, NEIGHBOURS_MOST)], y[: min(b.spread, NEIGHBOURS_MOST)]
        kernel, deviation = kernel_distance(x, y, Generator().manual_seed(seed))
        enough = min(len(near), len(far)) > 3
        precision, recall = precision_recall(near, far) if enough else (None, None)
        found["features"][name] = {
            "frechet": frechet_distance(x, y),
            "kernel": kernel,
            "kernel_std": deviation,
            "precision": precision,
            "recall": recall,
            "n_features": x.shape[1],
            "n": [len(x), len(y)],
            "n_neighbours": [len(near), len(far)],
        }
    n = min(len(a.pictures), len(b.pictures), a.spread, b.spread)
    levels = sliced_wasserstein(
        a.pictures[:n, None], b.pictures[:n, None], Generator().manual_seed(seed)
    )
    return found | {"swd": levels.pop("swd"), "swd_levels": levels, "swd_n": n}


def consistency(prior: Prior, rng: Generator) -> dict[str, Any]:
    """Views of baked patients against the same patients marched ray by ray: PSNR in dB.

    Mean and least are over patients and views.
    """
    step = max(1, prior.geometry.views // CHECKED_VIEWS)
    angles = prior.geometry.angles_deg[::step][:CHECKED_VIEWS]
    codes = list(drawn_codes(prior, CHECKED_SCENES, rng))
    psnr_db = torch.cat(
        [
            image_metrics.psnr_db(baked_views(prior, c, angles), own_views(prior, c, angles))
            for c in codes
        ]
    )
    return {
        "psnr_db": float(psnr_db.mean()),
        "psnr_db_least": float(psnr_db.min()),
        "n_scenes": len(codes),
        "n_views": len(angles),
        "grid": fine_grid_size(prior.geometry.cols),
    }


def diversity(samples: Tensor, training: Tensor) -> dict[str, Any]:
    """How much one random patient differs from the next, beside real patients: RMSE and LPIPS.

    LPIPS is None where its weights are not at hand.
    """
    found: dict[str, Any] = {}
    for name, orbits in (("fakes", samples), ("reals", training[: len(samples)].float())):
        distances, reason = (
            perceptual.lpips_distance(orbits[:-1], orbits[1:])
            if len(orbits) > 1
            else (None, "LPIPS wants two orbits.")
        )
        found[f"rmse_{name}"] = (
            float((orbits[:-1] - orbits[1:]).square().mean((1, 2, 3)).sqrt().mean())
            if len(orbits) > 1
            else None
        )
        found[f"lpips_{name}"] = None if distances is None else float(distances.mean())
        found |= {"lpips_note": reason} if reason else {}
    return found


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is compared.

    Options:
        fakes: images of random patients.
        views: images of each random patient.
        reals: real images, at most.
        limit: the first so many patients of each set alone; all by default.
        samples: random patients that are looked up among the training patients.
    """

    fakes: int = 1000
    views: int = 8
    reals: int = 10_000
    limit: int | None = None
    samples: int = 32


def score(
    *,
    run: str = "bundled:chest",
    dataset: str | None = None,
    split: str | None = None,
    sizes: Sizes = Sizes(),
    truncation: float = 1.0,
    extractor: str | Mapping[str, Extractor] = "auto",
    weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a prior's random patients; returns what is in score.json.

    Writes score.json, sheets of images and a clip of mixed styles to ``out``, the folder score/
    of the run by default. ``dataset`` and ``split`` are those of the training unless given.
    ``truncation`` below 1 draws patients closer to the mean one.
    """
    started = time.perf_counter()
    chosen, missing = extractors(extractor, weights)
    prior = load_prior(run)
    prior.check_xray()
    place = select_device(device)
    prior.generator.to(place)
    beside = prior.path.parent if "bundled" not in str(run) else Path("out")
    folder = files.made_folder(out or beside / "score")
    dataset = dataset or str(prior.meta["dataset"])
    split = split or str(prior.meta["split"])
    sets = Sets(*real_sets(prior, dataset, split, sizes.limit))
    angles = prior.geometry.angles_deg
    views = min(sizes.views, len(angles))
    shown = min(ORBIT_VIEWS, len(angles))
    columns = [k * len(angles) // shown for k in range(shown)]
    drawn = draw(
        prior,
        chosen,
        count=sizes.fakes,
        views=views,
        keep=SWD_MOST,
        orbits=sizes.samples,
        orbit_deg=[angles[c] for c in columns],
        rng=Generator().manual_seed(seed),
        truncation=truncation,
    )

    def side(orbits: OrbitSet) -> Side:
        rng = Generator().manual_seed(seed)
        return side_of(orbits.images, chosen, views, sizes.reals, rng, place)

    real = side(sets.compared)
    result = {
        **distances(drawn, real, missing, seed),
        "extractors": {name: e.rule for name, e in chosen.items()},
        "floor": floor(sets, real, side, seed),
        "memorisation": copies(prior, drawn, sets, columns),
        "diversity": diversity(drawn.orbits, sets.training.images[:, columns]),
        "consistency": consistency(prior, Generator().manual_seed(seed)),
        "n_fakes": drawn.count,
        "n_scenes": drawn.patients,
        "views_per_scene": views,
        "n_reals": len(real.features["pyramid"]),
        "n_patients": len(sets.compared.patients),
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "truncation": truncation,
        "precision": prior.generator.precision,
        "image_px": prior.geometry.cols,
        "seconds": round(time.perf_counter() - started, 1),
        "conventions": CONVENTIONS,
        "note": DISCLAIMER,
    }
    files.write_json(folder / "score.json", result)
    write_sheets(folder, real, drawn, sets.training, columns, result["memorisation"]["nearest"])
    write_mixing(folder, prior, seed=seed, truncation=truncation)
    return result


def distances(drawn: RandomPatients, real: Side, missing: str | None, seed: int) -> dict[str, Any]:
    """What :func:`compare` finds, with InceptionV3's FID and KID by their own names.

    ``missing`` says why there are none.
    """
    found = compare(real, Side(drawn.features, drawn.pictures, drawn.count), seed)
    inception = found["features"].get("inception", {})
    return {
        "fid": inception.get("frechet"),
        "kid": inception.get("kernel"),
        "kid_std": inception.get("kernel_std"),
        "fid_note": None if inception else missing,
        **found,
    }


def floor(
    sets: Sets, real: Side, side: Callable[[OrbitSet], Side], seed: int
) -> dict[str, Any] | None:
    """Training patients against unseen ones: what a perfect generator would get.

    None where no patient is unseen.
    """
    if sets.unseen is None:
        return None
    training = real if sets.compared is sets.training else side(sets.training)
    unseen = real if sets.compared is sets.unseen else side(sets.unseen)
    return compare(training, unseen, seed)


def copies(
    prior: Prior, drawn: RandomPatients, sets: Sets, columns: Sequence[int]
) -> dict[str, Any]:
    """Which training patients the random ones repeat; a prior of unposed pictures at any turn."""
    posed = prior.meta["recipe"].get("task", {}).get("name", "prior") == "prior"
    return memorisation(
        drawn.orbits,
        sets.training.images,
        sets.training.patients,
        columns,
        turns=range(1 if posed else prior.geometry.views),
        unseen=None if sets.unseen is None else sets.unseen.images,
    )


def write_sheets(
    folder: Path,
    real: Side,
    drawn: RandomPatients,
    training: OrbitSet,
    columns: Sequence[int],
    nearest: Sequence[Mapping[str, Any]],
) -> None:
    """Write ``reals_fakes.png`` and ``memorisation.png``.

    The first shows random views of real and generated patients, the second the samples that are
    nearest to a patient, each above that patient.
    """
    n = min(16, len(real.pictures), len(drawn.pictures))
    sheet = torch.cat([real.pictures[:n], drawn.pictures[:: len(drawn.pictures) // n][:n]])
    figures.write_png8(
        folder / "reals_fakes.png", figures.strip(enlarged(sheet), 8, ["real"] * n + ["fake"] * n)
    )
    shown, angles = slice(None, None, max(1, len(columns) // 4)), training.geometry.angles_deg
    rows, labels = [], []
    for entry in sorted(nearest, key=lambda e: e["rmse"])[:4]:
        same = [(c + entry["turned_views"]) % len(angles) for c in columns[shown]]
        patient = training.images[training.patients.index(entry["patient"])].float()
        rows += [drawn.orbits[entry["sample"]][shown], patient[same]]
        ratio = "" if entry["ratio"] is None else f" ({entry['ratio']:.2f})"
        labels += [f"sample {entry['sample']}, {angles[c]:g}°" for c in columns[shown]]
        labels += [f"{entry['patient']}{ratio}, {angles[c]:g}°" for c in same]
    figures.write_png8(
        folder / "memorisation.png",
        figures.strip(enlarged(torch.cat(rows)), len(columns[shown]), labels),
    )
