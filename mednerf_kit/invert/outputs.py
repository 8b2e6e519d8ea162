"""What ``project``, ``render`` and ``sample`` put on disk: orbits, latents, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core import files
from ..core.errors import RunError, UserError
from ..gan.generator import Latent
from ..imaging.geometry import DEFAULTS, FRONTAL_DEG, LATERAL_DEG, Geometry
from ..prior.load import Prior
from ..recon.field_volume import at_distance
from ..viz import figures
from .members import Posterior


def made_folder(path: str | Path) -> Path:
    """Make the folder for results now: a failure must come before the work, not after it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"could not make folder '{path}' ({error.strerror})",
            "wanted a place for the results",
            "choose another folder",
        ) from None
    return path


def write_orbit(folder: Path, views: Tensor, geometry: Geometry, posterior: Posterior) -> None:
    """Write views [V, rows, cols] as 16-bit ``orbit/view_000.png`` … and their geometry.

    The geometry has its source at the fitted distance, and no scale where the X-rays had none. What
    is left of an older, longer orbit is removed.
    """
    home = folder / "orbit"
    geometry = at_distance(geometry, posterior.distance)
    if not posterior.has_scale:
        geometry = replace(geometry, line_integral_scale=None)
    for k, view in enumerate(views):
        figures.write_png16(home / f"view_{k:03d}.png", view)
    geometry.save(home / "geometry.json")
    for path in home.glob("view_[0-9][0-9][0-9].png"):
        if int(path.stem[-3:]) >= len(views):
            path.unlink()


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


def seeded_eps(prior: Prior, seed: int) -> Tensor:
    """The standard normal numbers [1, latent_dim] of a seed.

    They are the same patient in every command and on every device.
    """
    return torch.randn(1, prior.generator.latent_dim, generator=torch.Generator().manual_seed(seed))


def fingerprint(prior: Prior) -> str:
    """A digest of the generator's numbers, which tells two priors apart."""
    digest = blake2b(digest_size=8)
    for _, tensor in sorted(prior.generator.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_latent(path: Path, prior: Prior, posterior: Posterior) -> None:
    """Save what an X-ray became, for ``render --latent``.

    The file holds the codes of every member, gains, angles, and which prior they need.
    """
    latent = posterior.latent
    tensors = {
        "w": latent.w,
        "pose": latent.pose,
        "gains": posterior.gains,
        "angles_deg": posterior.angles_deg,
    }
    tensors |= {f"deltas.{k}": delta for k, delta in enumerate(latent.deltas or ())}
    meta = {
        "prior": fingerprint(prior),
        "prior_path": str(prior.path),
        "distance": posterior.distance,
        "has_scale": posterior.has_scale,
        "held_out_mse": posterior.held_out_mse,
        "seconds": posterior.seconds,
        "note": DISCLAIMER,
    }
    files.save_tensors(path, tensors, meta)


def load_latent(path: str | Path, prior: Prior) -> Posterior:
    """Read what :func:`save_latent` wrote; a latent of another prior is refused by name."""
    tensors, meta = files.load_tensors(path)
    if not {"w", "pose", "gains", "angles_deg"} <= set(tensors) or "prior" not in meta:
        raise UserError(
            f"got '{path}', which holds no latent",
            "wanted the latent.safetensors of a projection",
            "check the path",
        )
    if meta["prior"] != fingerprint(prior):
        raise UserError(
            f"got '{path}', a latent of another prior than '{prior.path}'",
            "wanted the prior it was made with",
            f"add --run {meta['prior_path']}",
        )
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
    # latents of 0.1 came from line integrals
    return replace(found, has_scale=meta.get("has_scale", True))


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
