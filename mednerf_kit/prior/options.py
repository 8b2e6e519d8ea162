"""What the ``task`` node of a prior's recipe may say, with the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..core import config


@dataclass(frozen=True, kw_only=True)
class PosedOptions:
    """Options of :class:`~mednerf_kit.prior.posed.PriorTask`.

    Options:
        objective: which terms are learned from: ``posed`` (volume and rays), ``gan`` (the
            adversary) or ``hybrid`` (all three).
        image_model: how densities become a pixel.
        batch: patients per posed step.
        points: per patient in a step that learns from volumes.
        rays: per patient in a step that learns from rays.
        ray_share: the last share of the training, which learns from rays; before it, from volumes.
        learning_rate: the generator's, at its peak; it falls along a cosine.
        code_rate: the codes', at its peak.
        code_noise: standard deviation of the noise added to codes before they are mapped.
        code_penalty: weight of the codes' squared length.
        gan_start: share of the training from which ``hybrid`` is adversarial too: its phase.
        gan_rate: with what share of their peaks the learning rates begin again in the phase; they
            fall along a cosine before it and in it.
        gan_interval: ``hybrid`` takes every so many-th step an adversarial one as well.
        gan_lead: first steps of the phase in which the discriminator of ``hybrid`` learns alone:
            before it tells reals from fakes, its gradient is noise.
        gan_batch: patches per adversarial step, of reals and of fakes.
        gan_views: of them are views of one generated patient.
        gan_known: share of the generated patients that are known ones as the generator has them,
            beside the very DRRs they should be; the others are random.
        gan_weight: of the adversarial term in ``hybrid``, as a share of the posed term's gradient
            at the generator's last layer; ``gan`` has the adversary alone.
        d_rate: the discriminator's learning rate.
        r1_gamma: weight of the discriminator's gradient penalty R1, for pictures in [0, 1].
        r1_interval: adversarial steps between two penalties, each so many times heavier.
        ema_steps: half-life of the generator's running average, in steps.
        accumulate: parts of a batch that are computed one after the other, which takes so much
            less memory and changes nothing else.
    """

    objective: Literal["gan", "posed", "hybrid"] = "posed"
    image_model: str = "line_integral"
    batch: int = 16
    points: int = 768
    rays: int = 96
    ray_share: float = 0.25
    learning_rate: float = 2e-3
    code_rate: float = 1e-2
    code_noise: float = 0.05
    code_penalty: float = 1e-4
    gan_start: float = 0.96
    gan_rate: float = 0.25
    gan_interval: int = 1
    gan_lead: int = 90
    gan_batch: int = 16
    gan_views: int = 8
    gan_known: float = 0.5
    gan_weight: float = 0.7
    d_rate: float = 2e-3
    r1_gamma: float = 0.5
    r1_interval: int = 16
    ema_steps: float = 50.0
    accumulate: int = 1


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """Options of :class:`~mednerf_kit.prior.gan.AdversarialTask`.

    Options:
        image_model: how densities (and colours) become a pixel.
        background: grey value or colour where nothing absorbs, with ``emission_absorption``.
        batch: pictures per step.
        density_noise: standard deviation of the noise on densities in training, at first.
        density_noise_steps: steps over which it falls linearly to 0; null: it stays.
        r1_gamma: weight of the discriminator's gradient penalty R1 as published, for pictures in
            [−1, 1]; a quarter of it acts on ours, in [0, 1]. 0 leaves it out.
        r1_interval: steps between two penalties, each so many times heavier.
        ema_kimg: half-life of the generator's running average, in thousands of pictures.
        ema_ramp: at first the half-life is this share of the pictures seen so far; null: never.
        view_gain: orders of a gain that pictures have by their azimuth, learned too
            (:class:`~mednerf_kit.prior.cameras.ViewGain`).
        accumulate: parts of a batch that are computed one after the other, which takes so much
            less memory and changes nothing else.
    """

    image_model: Literal["line_integral", "transmission", "emission_absorption"] = "line_integral"
    background: float = 0.0
    batch: int = 4
    density_noise: float = 1.0
    density_noise_steps: int | None = None
    r1_gamma: float = 0.5
    r1_interval: int = 16
    ema_kimg: float = 20.0
    ema_ramp: float | None = 0.05
    view_gain: int = 0
    accumulate: int = 1


def posed_options(recipe: Mapping[str, Any]) -> PosedOptions:
    """The task node of a posed recipe."""
    return _bound(PosedOptions, recipe)


def gan_options(recipe: Mapping[str, Any]) -> GanOptions:
    """The task node of an adversarial recipe."""
    return _bound(GanOptions, recipe)


def _bound(record: type, recipe: Mapping[str, Any]) -> Any:
    node = dict(recipe["task"])
    name = node.pop("name")
    return config.bind(record, node, where=f"task '{name}'")


def image_model_name(recipe: Mapping[str, Any]) -> str:
    """The image model of a prior's recipe; the default of both tasks where it names none."""
    return recipe.get("task", {}).get("image_model", PosedOptions.image_model)
