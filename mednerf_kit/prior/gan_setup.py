"""Recipes of the adversarial task: their keys, checks, cost, and how one is made ready to run.

``compat`` restores known defects of the published systems where a comparison needs them; everything
else is the system as its authors describe it, with the right geometry. What was restored is named
in the run's config and at the top of its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core import config
from ..core.errors import UserError
from ..core.memory import check_room
from ..data.unposed import read_photographs
from ..engine.loop import TASKS, Loop, PreparedRun, TaskType
from ..engine.recipe_checks import check_counts
from ..engine.run_folder import RunConfig
from ..gan.augment.parameters import Augment
from ..gan.augment.presets import AUGMENTATIONS
from ..gan.augment.probability import PROBABILITIES
from ..gan.discriminator import DISCRIMINATORS, Discriminator
from ..gan.generator import GENERATORS, PatientGenerator
from ..gan.losses import LOSSES
from ..gan.optimisers import OPTIMISERS
from ..imaging.geometry import DEFAULTS, Geometry
from ..metrics.perceptual import PERCEPTUAL
from ..rays.selectors.base import SELECTORS, PatchSelector
from ..viz.figures import strip, write_png8
from .gan import AdversarialTask, GanModules, Reals
from .load import INVERSIONS, load_prior
from .options import gan_options
from .rendering import Renderer, cameras_of, checked_levels, levels_of
from .sets import read_set, set_options
from .training_volumes import scaled_by_view

RECIPE_KEYS = frozenset(
    (
        "task",
        "dataset",
        "poses",
        "generator",
        "levels",
        "patch",
        "discriminator",
        "loss",
        "optimiser",
        "perceptual",
        "augment",
        "probability",
        "inversion",
        "compat",
        "steps",
        "snapshot_steps",
    )
)
PREVIEW_PX = 64
PREVIEW_AZIMUTHS_DEG = (270.0, 0.0, 90.0, 180.0)
PREVIEW_REALS = 16
# of cameras around photographs that nobody posed, as published
PHOTOGRAPH_FOV_DEG = 39.6
PHOTOGRAPH_VIEWS = 72
NO_ATTENUATION = (
    "trained on other physics than line integrals: its volume is a density, not an attenuation"
)


@dataclass(frozen=True, kw_only=True)
class Compat:
    """Known defects of the published systems, restored for comparisons: a recipe's ``compat`` node.

    Options:
        fov_deg: opening angle instead of the data's own: 39.6 (HyperNeRFGAN) or 10 (MedNeRF); null:
            the data's.
        depth_range: half-widths before and behind the isocentre that are sampled: 0.694 is ±1 at
            radius 4 and 39.6°; null: the support cylinder.
        elevation_deg: bounds of cameras above an orbit that has none: [5, 20] (MedNeRF); null: the
            recipe's poses.
        mirrored: learn from every picture with its columns reversed too (HyperNeRFGAN).
        batch_mean_hinge: take the hinge of the batch's mean logit (MedNeRF).
    """

    fov_deg: float | None = None
    depth_range: float | None = None
    elevation_deg: tuple | None = None
    mirrored: bool = False
    batch_mean_hinge: bool = False

    def named(self) -> list[str]:
        """What is restored, in words."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return [f"{name} {value}" for name, value in values.items() if value not in (None, False)]


def compat_options(recipe: Mapping[str, Any]) -> Compat:
    """The recipe's restored defects."""
    return config.bind(Compat, recipe["compat"], where="compat")


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse what nothing can work with, in one sentence, before any work starts."""
    for key in ("task", "dataset", "poses", "compat"):
        config.checked(recipe[key], dict, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "reals", "geometry", "seed", "device")
    check_counts(recipe, "batch", "r1_interval", "accumulate")
    checked_levels(recipe)
    compat = compat_options(recipe)
    Renderer.of(recipe)
    generator = GENERATORS.build(recipe["generator"])
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], channels=1)
    image_model, outputs = gan_options(recipe).image_model, generator.field_outputs
    if (image_model == "emission_absorption") != (outputs == 4):
        raise UserError(
            f"got image model '{image_model}' of a generator with {outputs} outputs",
            "wanted emission_absorption with 4 outputs, or another image model with 1",
            "set task.image_model or generator.outputs",
        )
    side = int(recipe["dataset"].get("size", discriminator.size))
    shape = {"size": discriminator.size, "views": 1, "rows": side, "cols": side}
    if not isinstance(SELECTORS.build(recipe["patch"], **shape), PatchSelector):
        raise UserError(
            f"got patch '{recipe['patch']['name']}'",
            "wanted a selector of patches, which a discriminator can judge",
            "set patch={name: patch}, strided_patch or annealed_patch",
        )
    loss = LOSSES.build(recipe["loss"])
    if compat.batch_mean_hinge and not hasattr(loss, "batch_mean"):
        raise UserError(
            f"got compat.batch_mean_hinge with loss '{recipe['loss']['name']}'",
            "wanted the hinge",
            "leave it out, or set loss={name: hinge}",
        )
    OPTIMISERS.check(recipe["optimiser"], "generator", "discriminator", "d_interval")
    INVERSIONS.check(recipe["inversion"])
    learned = (recipe["generator"]["name"], image_model)
    if recipe["inversion"]["name"] == "posterior" and learned != ("hyper", "line_integral"):
        raise UserError(
            f"got inversion 'posterior' of generator '{recipe['generator']['name']}' "
            f"and image model '{image_model}'",
            "wanted generator 'hyper' and line integrals",
            "set inversion={name: fine_tuning}",
        )
    PROBABILITIES.check(recipe["probability"])
    if getattr(discriminator, "decodes", False):
        PERCEPTUAL.build(recipe["perceptual"])
    check_data(recipe, AUGMENTATIONS.build(recipe["augment"]), compat)


def check_data(recipe: Mapping[str, Any], augment: Augment, compat: Compat) -> None:
    """What the data cannot give: colour to radiographs, angles to pictures that nobody posed."""
    photographs = recipe["dataset"].get("pictures", False)
    if not photographs and (augment.hue > 0 or augment.saturation > 0):
        raise UserError(
            f"got augmentation '{recipe['augment']['name']}' with hue or saturation "
            "on grey radiographs",
            "wanted none that needs colour",
            "add hue: 0 and saturation: 0, or choose 'xray'",
        )
    if recipe["discriminator"].get("condition_angle") and (photographs or compat.mirrored):
        raise UserError(
            "got discriminator.condition_angle for pictures without angles",
            "wanted posed radiographs, unmirrored",
            "set discriminator.condition_angle=false",
        )


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe would train: parameters, points per step, memory, and restored defects."""
    generator = GENERATORS.build(recipe["generator"])
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], channels=3)
    code = generator.weights(generator.latent(torch.zeros(1, generator.latent_dim)))
    per_point = sum(w.shape[2] for w, _ in code.layers) + code.layers[-1][0].shape[1]
    options = gan_options(recipe)
    points = options.batch * discriminator.size**2 * Renderer.of(recipe).nodes
    activations = points // options.accumulate * per_point
    g, d = (sum(p.numel() for p in m.parameters()) for m in (generator, discriminator))
    slots = 2 if recipe["optimiser"]["name"] == "adam" else 1
    return {
        "generator_parameters": g,
        "discriminator_parameters": d,
        "points_per_step": points,
        "multiply_adds_per_point": sum(w[0].numel() for w, _ in code.layers),
        "activations_mib": round(activations * 4 / 2**20),
        # each weight with its gradient and the optimiser's moments, and the running average
        "memory_mib": round(4 * (activations + (2 + slots) * (g + d) + g) / 2**20),
        "images_seen": options.batch * recipe["steps"],
        "restored_defects": compat_options(recipe).named(),
    }


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What the processes of a training share."""
    return {"task.batch": gan_options(recipe).batch}


def build_task(
    recipe: Mapping[str, Any],
    reals: Reals,
    geometry: Geometry,
    *,
    seed: int,
    device: str | torch.device,
) -> AdversarialTask:
    """Everything the recipe names, put together."""
    torch.manual_seed(seed)
    generator: PatientGenerator = GENERATORS.build(recipe["generator"]).to(device)
    channels = 3 if generator.field_outputs == 4 else 1
    discriminator: Discriminator = DISCRIMINATORS.build(
        recipe["discriminator"], rng=Generator().manual_seed(seed), channels=channels
    ).to(device)
    views, rows, cols = reals.images.shape[:3]
    patch = SELECTORS.build(
        recipe["patch"], size=discriminator.size, views=views, rows=rows, cols=cols
    )
    assert isinstance(patch, PatchSelector)
    restored = {"batch_mean": True} if compat_options(recipe).batch_mean_hinge else {}
    redraws = getattr(discriminator, "decodes", False)
    parts = GanModules(
        generator=generator,
        discriminator=discriminator,
        loss=LOSSES.build({**recipe["loss"], **restored}),
        optimisers=OPTIMISERS.build(
            recipe["optimiser"],
            generator=list(generator.parameters()),
            discriminator=list(discriminator.parameters()),
            d_interval=gan_options(recipe).r1_interval,
        ),
        patch=patch,
        augment=AUGMENTATIONS.build(recipe["augment"]),
        probability=PROBABILITIES.build(recipe["probability"]),
        perceptual=PERCEPTUAL.build(recipe["perceptual"] if redraws else "pyramid"),
        levels=levels_of(recipe),
        cameras=cameras_of(recipe),
    )
    task = TASKS.build(
        recipe["task"], parts=parts, reals=reals, geometry=geometry, seed=seed, device=str(device)
    )
    assert isinstance(task, AdversarialTask)
    return task


def prepare(run_config: RunConfig, device: str | torch.device) -> PreparedRun:
    """The prior of a set of pictures: read them, restore what compat says, build the task."""
    recipe = run_config.recipe
    batch, parts = gan_options(recipe).batch, gan_options(recipe).accumulate
    if torch.device(device).type == "cpu":
        check_room(
            f"a batch of {batch} pictures in {parts} parts",
            plan(recipe)["memory_mib"] * 2**20,
            "set a larger task.accumulate, or a smaller task.batch, discriminator.size or n of "
            "levels",
        )
    photographs = recipe["dataset"].get("pictures", False)
    reals, geometry, known = photographed(run_config) if photographs else radiographed(run_config)
    check_enough(len(reals.images), batch, "give more pictures")
    task = build_task(recipe, reals, geometry, seed=run_config.seed, device=device)
    restored = compat_options(recipe).named()
    meta = {
        "recipe": dict(recipe),
        "dataset": run_config.dataset,
        "geometry": geometry.to_json(),
        "split": run_config.split,
        "seed": run_config.seed,
        **known,
    }
    opening = (
        f"{len(reals.images)} pictures of {geometry.cols}², {recipe['generator']['name']} against "
        f"{recipe['discriminator']['name']}, device {device}",
        *([f"restored defects: {', '.join(restored)}"] if restored else []),
        f"perceptual distance: {recipe['perceptual']['name']}",
        *(f"note: {note}" for note in known["notes"]),
    )

    def finish(loop: Loop) -> dict[str, Any]:
        write_previews(loop, reals.images)
        return {"images_seen": loop.index * batch, "precision": task.parts.generator.precision}

    return PreparedRun(task, meta, opening, finish)


def radiographed(run_config: RunConfig) -> tuple[Reals, Geometry, dict[str, Any]]:
    """Orbits of DRRs as single pictures, their geometry, and what a snapshot says of them.

    ``dataset.limit`` is how many patients to learn from, where --limit says nothing.
    """
    recipe, node = run_config.recipe, run_config.recipe["dataset"]
    wanted, options = set_options(node), gan_options(recipe)
    limit = run_config.limit or wanted.limit
    counted = wanted.cohort.get(run_config.split)
    # phantoms are made on demand: refuse before that
    if run_config.dataset in DEFAULTS and counted is not None:
        pictures = min(counted, limit or counted) * wanted.views
        check_enough(pictures, options.batch, "more patients")
    orbits = read_set(run_config.dataset, node, split=run_config.split, limit=limit, checked=True)
    if orbits.geometry.view_frames:
        raise UserError(
            f"got '{run_config.dataset}', whose views each have a frame of their own",
            "wanted an orbit for a training that knows no poses",
            "choose a posed recipe such as --config chest",
        )
    compat = compat_options(recipe)
    angles = torch.tensor(orbits.geometry.angles_deg).repeat(len(orbits.patients))
    reals = Reals(orbits.images.flatten(0, 1)[..., None], angles)
    geometry = orbits.geometry
    if compat.fov_deg is not None:
        geometry = geometry.with_fov(compat.fov_deg)
    notes = list(orbits.notes)
    if options.image_model != "line_integral":
        notes.append(NO_ATTENUATION)
    known = {
        "anatomy": orbits.anatomy,
        "per_view_scale": scaled_by_view(orbits),
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
        "notes": notes,
    }
    geometry = replace(geometry, tilt_deg=cameras_of(recipe).tilt_deg)
    return reals.mirrored() if compat.mirrored else reals, geometry, known


def photographed(run_config: RunConfig) -> tuple[Reals, Geometry, dict[str, Any]]:
    """A folder of photographs that nobody posed, seen by the recipe's cameras.

    The half-width is one field unit, the field of view 39.6° unless ``compat`` says otherwise.
    """
    recipe, node = run_config.recipe, dict(run_config.recipe["dataset"])
    node.pop("pictures")
    images, notes = config.bind(
        read_photographs,
        node,
        where="dataset",
        root=run_config.dataset,
        background=gan_options(recipe).background,
        limit=run_config.limit,
    )
    compat = compat_options(recipe)
    side = images.shape[1]
    geometry = Geometry(
        source_to_isocentre_mm=1000,
        source_to_detector_mm=2000,
        rows=side,
        cols=side,
        pixel_mm=1.0,
        columns_flipped=False,
    ).with_fov(compat.fov_deg or PHOTOGRAPH_FOV_DEG)
    reals = Reals(images)
    known = {
        "anatomy": None,
        "per_view_scale": False,
        "patients": [],
        "identities": [],
        "notes": list(notes),
        "quantity": "colour",
    }
    geometry = replace(geometry.orbit(PHOTOGRAPH_VIEWS), tilt_deg=cameras_of(recipe).tilt_deg)
    return reals.mirrored() if compat.mirrored else reals, geometry, known


def check_enough(pictures: int, batch: int, more: str) -> None:
    """Refuse a batch that is larger than the set."""
    if pictures < batch:
        raise UserError(
            f"got {pictures} pictures and a batch of {batch}",
            "wanted at least one picture for each",
            f"set a smaller task.batch, or {more}",
        )


def write_previews(loop: Loop, images: Tensor) -> None:
    """Contact sheets: pictures that were learned from, and random patients seen from four sides."""
    prior = load_prior(loop.folder)
    small = prior.geometry.resized(min(PREVIEW_PX, prior.geometry.cols))
    code = prior.generator.weights(prior.generator.draw(4, Generator().manual_seed(0)))
    renderer = Renderer.of(prior.meta["recipe"])
    views = renderer.views(prior.generator.field, code, small.at(PREVIEW_AZIMUTHS_DEG))
    some = images[:: max(1, len(images) // PREVIEW_REALS)][:PREVIEW_REALS].float()
    for name, sheet in (("samples", views.flatten(0, 1)), ("reals", some)):
        shown = sheet if sheet.shape[-1] == 3 else sheet[..., 0]
        write_png8(loop.folder / "previews" / f"{name}.png", strip(shown, columns=4))


TASK_TYPE = TaskType(RECIPE_KEYS, check, prepare, plan, batches)
