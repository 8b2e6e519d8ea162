"""What ``project``, ``render`` and ``sample`` put on disk: orbits, latents, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError
from ..gan.generator import Latent
from ..imaging.geometry import DEFAULTS, FRONTAL_DEG, LATERAL_DEG, Geometry
from ..imaging.view_frames import Frames
from ..prior.draws import DEFAULT_DRAW, Draw
from ..prior.load import Prior
from ..recon.field_volume import FieldVolume, at_distance
from ..viz import figures
from .members import Posterior

#: What a latent keeps of a finished projection, in voxels.
PARTS = ("volume", "spread", "share", "null_space")


@dataclass(frozen=True)
class Kept:
    """The finished voxels of a projection, which codes alone would not give again."""

    parts: dict[str, FieldVolume]  # by their names in PARTS
    distance: float  # fitted source distance, field units
    has_scale: bool  # whether an X-ray told what line integral an image value stands for


def write_orbit(
    folder: Path,
    views: Tensor,
    geometry: Geometry,
    scene: Posterior | Kept,
    spread: Tensor | None = None,
) -> None:
    """Write views [V, rows, cols] as 16-bit ``orbit/view_000.png`` … and their geometry.

    The geometry has its source at the fitted distance, and no scale where the scene has none. The
    ``spread`` of the views, where there is one, goes to ``orbit_spread/``.
    """
    geometry = at_distance(geometry, scene.distance)
    if not scene.has_scale:
        geometry = replace(geometry, line_integral_scale=None)
    figures.write_views(folder / "orbit", views)
    geometry.save(folder / "orbit" / "geometry.json")
    if spread is not None:
        figures.write_views(folder / "orbit_spread", spread)


def unit_of(prior: Prior, has_scale: bool = True) -> str:
    """What the voxels of a prior's volumes mean, in words.

    ``has_scale``: what led to them had a scale; a film prepared for display has none.
    """
    if not prior.is_line_integral:
        return "density per half field width (of emission and absorption: no attenuation)"
    return (
        "HU"
        if prior.scale is not None and has_scale
        else "image value per half field width (relative attenuation)"
    )


def one_patient(prior: Prior, eps: Tensor) -> Posterior:
    """The scene of standard normal numbers [1, latent_dim], as if an X-ray had led to it."""
    latent = prior.generator.latent(eps.to(prior.device))
    return _posterior(
        prior,
        latent,
        torch.ones(1, 1),
        torch.tensor([FRONTAL_DEG]),
        prior.distance,
        float("nan"),
        0.0,
    )


def seeded_eps(prior: Prior, seed: int, draw: Draw = DEFAULT_DRAW) -> Tensor:
    """The numbers [1, latent_dim] of the random patient of a seed.

    They are the same patient in every command and on every device; of a ``draw`` that compares
    pictures, wherever these round alike.
    """
    return prior.numbers(1, torch.Generator().manual_seed(seed), draw)


def fingerprint(prior: Prior) -> str:
    """A digest of the generator's numbers, which tells two priors apart."""
    digest = blake2b(digest_size=8)
    for _, tensor in sorted(prior.generator.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_latent(
    path: Path,
    prior: Prior,
    posterior: Posterior,
    parts: Mapping[str, FieldVolume] | None = None,
    exposure: float = 1.0,
) -> None:
    """Save what an X-ray became, for ``render --latent``.

    The file holds the codes of every member, gains, angles, and which prior they need; and of a
    finished projection its ``parts`` (:data:`PARTS`) in fp16, with their unit, their scale and the
    ``exposure`` that they were divided by.
    """
    latent = posterior.latent
    tensors = {
        "w": latent.w,
        "pose": latent.pose,
        "gains": posterior.gains,
        "angles_deg": posterior.angles_deg,
    }
    if posterior.view_frames:
        tensors["view_frames"] = torch.stack(Frames.of(posterior.view_frames), 1)
    tensors |= {f"deltas.{k}": delta for k, delta in enumerate(latent.deltas or ())}
    tensors |= {name: part.values.half() for name, part in (parts or {}).items()}
    meta = {
        "prior": fingerprint(prior),
        "prior_path": str(prior.path),
        "distance": posterior.distance,
        "has_scale": posterior.has_scale,
        "held_out_mse": posterior.held_out_mse,
        "seconds": posterior.seconds,
        "note": DISCLAIMER,
    }
    if parts:
        volume = parts["volume"]
        meta |= {"unit_mm": volume.unit_mm, "scale": volume.scale, "exposure": exposure}
        meta |= seen_with(prior)
    files.save_tensors(path, tensors, meta)


def seen_with(prior: Prior) -> dict[str, Any]:
    """All that voxels need of a prior to be seen as it sees them, in plain values for JSON."""
    return {
        "geometry": prior.geometry.to_json(),
        "log_gain_profile": prior.meta.get("log_gain_profile"),
        "view_peak": prior.meta.get("view_peak"),
    }


def load_kept(path: str | Path, prior: Prior) -> Kept | None:
    """Read the finished voxels that :func:`save_latent` kept; None of a latent without them.

    They need no generator. A prior that sees with another geometry is refused by name.
    """
    tensors, meta = _read_latent(path)
    if "volume" not in tensors:
        return None
    if any(meta.get(key) != value for key, value in seen_with(prior).items()):
        raise _of_another_prior(path, prior, meta)
    parts = {
        name: FieldVolume(tensors[name].float(), meta["unit_mm"], meta["scale"])
        for name in PARTS
        if name in tensors
    }
    return Kept(parts, meta["distance"], meta["has_scale"])


def load_latent(path: str | Path, prior: Prior) -> Posterior:
    """Read the codes that :func:`save_latent` wrote; those of another prior are refused by name."""
    tensors, meta = _read_latent(path)
    if meta["prior"] != fingerprint(prior):
        raise _of_another_prior(path, prior, meta)
    device = prior.device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    deltas = tuple(
        tensors[f"deltas.{k}"] for k in range(sum(name.startswith("deltas.") for name in tensors))
    )
    found = _posterior(
        prior,
        Latent(tensors["w"], tensors["pose"], deltas or None),
        tensors["gains"],
        tensors["angles_deg"],
        meta["distance"],
        meta["held_out_mse"],
        meta["seconds"],
    )
    frames = tensors.get("view_frames", torch.zeros(0, 4, 3)).cpu().double()
    # latents of 0.1 came from line integrals
    return replace(
        found,
        has_scale=meta.get("has_scale", True),
        view_frames=tuple(Frames(*frames.unbind(1)).to_list()),
    )


def _read_latent(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, meta = files.load_tensors(path)
    if not {"w", "pose", "gains", "angles_deg"} <= set(tensors) or "prior" not in meta:
        raise UserError(
            f"got '{path}', which holds no latent",
            "wanted the latent.safetensors of a projection",
            "check the path",
        )
    return tensors, meta


def _of_another_prior(path: str | Path, prior: Prior, meta: Mapping[str, Any]) -> UserError:
    return UserError(
        f"got '{path}', a latent of another prior than '{prior.path}'",
        "wanted the prior it was made with",
        f"add --run {meta['prior_path']}",
    )


def _posterior(
    prior: Prior,
    latent: Latent,
    gains: Tensor,
    angles_deg: Tensor,
    distance: float,
    held_out_mse: float,
    seconds: float,
) -> Posterior:
    with torch.no_grad():
        return Posterior(
            latent,
            prior.generator.weights(latent),
            gains,
            angles_deg,
            distance,
            held_out_mse,
            seconds,
        )


def provenance(prior: Prior) -> dict[str, Any]:
    """Where a prior comes from, in plain values for JSON and the report."""
    meta = prior.meta
    count, dataset = len(meta.get("patients", ())), str(meta.get("dataset", "unknown"))
    phantoms = f"{count} procedural phantoms ({dataset}), no real patient"
    patients = f"{count} patients of '{dataset}', split {meta.get('split', 'unknown')}"
    return {
        "prior": str(prior.path.name),
        "run": prior.path.parent.name,
        "fingerprint": fingerprint(prior),
        "trained_on": phantoms if dataset in DEFAULTS else patients,
        "step": meta.get("step"),
        "training_seed": meta.get("seed"),
        "made_with_version": meta.get("version"),
        "precision": prior.generator.precision,
    }


def angle_labels(angles_deg: Sequence[float]) -> list[str]:
    """View angles for people.

    >>> angle_labels([270.0, 0.0, 45.0])
    ['270° PA', '0° lateral', '45°']
    """
    names = {FRONTAL_DEG: " PA", LATERAL_DEG: " lateral"}
    return [f"{a:g}°{names.get(a, '')}" for a in angles_deg]
