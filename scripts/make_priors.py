#!/usr/bin/env python3
"""Trains the priors of the package; fp16 safetensors.

    python scripts/make_priors.py phantom-chest --minutes 12
    python scripts/make_priors.py chest --from CTS --minutes 34 --conditional-minutes 12
    python scripts/make_priors.py chest --recalibrate --calibration calibration.json
    python scripts/make_priors.py chest --from CTS --measure-detail

phantom-chest and phantom-knee learn from procedural phantoms alone: patients from seed 0 (train)
and from 10000 (val, for the calibration of the uncertainty). Others learn from all CTs of a folder,
and are calibrated on patients elsewhere: `cohort.py UNSEEN --run PRIOR --also CTS` in scripts/bench
writes the calibration.json that --calibration lays in. --recalibrate trains nothing: the prior of
the package gets that calibration, phantoms one by validation phantoms. Nor does --measure-detail:
the prior of the package gets the gains that a training measures at its end, from the pictures that
it learned from. Networks start from seed 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from mednerf_kit.core import files
from mednerf_kit.engine import snapshots
from mednerf_kit.engine.session import train
from mednerf_kit.gan.generator import HyperGenerator
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.invert.calibrate import calibrate
from mednerf_kit.prior.catalogue import BUNDLED, CONDITIONAL
from mednerf_kit.prior.conditional_setup import export
from mednerf_kit.prior.detail import PATIENTS, detail_gains
from mednerf_kit.prior.load import load_prior
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import TrainingVolumes

TRAINED_PX, SHOWN_PX = 64, 128
PHANTOMS = [
    "dataset.train=400",
    "dataset.val=12",
    "dataset.test=8",
    "task.batch=24",
    "task.points=512",
    "generator.code_dim=96",
    "generator.octaves=7",
]
CTS = [
    f"dataset.size={TRAINED_PX}",
    "dataset.volume_size=80",
    "dataset.variants=3",
    "calibration_patients=0",
    "generator.code_dim=96",
    "generator.width=96",
    "generator.octaves=7",
]
BOTH = ["steps=1000000", "snapshot_steps=4000", "task.ray_share=0.2"]


def trained(args: argparse.Namespace) -> Path:
    """The run folder of the prior's training, of which one may have been given."""
    if args.run:
        return args.run
    of_phantoms = args.name.startswith("phantom-")
    folder = train(
        dataset=args.name.removeprefix("phantom-") if of_phantoms else str(args.cts),
        config="knee" if "knee" in args.name else "chest",
        preset="quick",
        settings=[*BOTH, *(PHANTOMS if of_phantoms else CTS), *args.settings],
        split="train" if of_phantoms else "all",
        outdir=args.outdir,
        desc="bundled",
        max_minutes=args.minutes,
    )
    assert folder is not None
    return folder


def calibration(args: argparse.Namespace, prior: Path) -> dict[str, Any]:
    """What is known of a prior's spread: from a file, or from validation phantoms."""
    if args.calibration:
        return json.loads(args.calibration.read_text(encoding="utf-8"))
    if args.name.startswith("phantom-"):
        return calibrate(load_prior(prior), limit=12, views=("1", "2"))
    return {}


def named(meta: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A snapshot's metadata without what only the training needed, and without its folders.

    A field has no pixels: what learned from small pictures of CTs is shown and asked at SHOWN_PX.
    """
    kept = {k: v for k, v in meta.items() if k != "task_state"} | {
        "made_by": "scripts/make_priors.py"
    }
    if args.cts:
        kept["anatomy"] = args.name
        kept["dataset"] = "CTs of public collections (docs/model_cards.md)"
        kept["geometry"] = Geometry.from_json(kept["geometry"]).resized(SHOWN_PX).to_json()
        dataset = kept["recipe"]["dataset"] | {"size": SHOWN_PX}
        kept["recipe"] = kept["recipe"] | {"dataset": dataset}
    return kept


def write_prior(folder: Path, args: argparse.Namespace) -> None:
    """The averaged generator and the codes of its patients, in half precision."""
    _, tensors, meta, _ = snapshots.newest_readable(folder)
    kept = {k: v.half() for k, v in tensors.items() if k.startswith("ema.") or k == "codes"}
    exact = ("ema.prior_factor", "ema.prior_mean")
    kept |= {k: tensors[k].float() for k in exact}
    known = {"calibration": calibration(args, folder)}
    files.save_tensors(BUNDLED / f"{args.name}.safetensors", kept, named(meta, args) | known)


def recalibrate(args: argparse.Namespace) -> None:
    """Lay another calibration into a prior of the package, which else stays as it is."""
    path = BUNDLED / f"{args.name}.safetensors"
    tensors, meta = files.load_tensors(path)
    known = calibration(args, path)
    if any(isinstance(one, dict) and one.get("factor") is None for one in known.values()):
        raise SystemExit(
            "Error: got too few patients for a factor; wanted nine or more: give --calibration."
        )
    files.save_tensors(path, tensors, meta | {"calibration": known})


def measure_detail(args: argparse.Namespace) -> None:
    """Lay the detail that its patients lack into a prior of the package, which else stays."""
    path = BUNDLED / f"{args.name}.safetensors"
    prior = load_prior(path)
    assert isinstance(prior.generator, HyperGenerator)
    dataset = str(args.cts or prior.meta["dataset"])
    node = prior.meta["recipe"]["dataset"] | {"size": TRAINED_PX}
    known = prior.meta["patients"][:PATIENTS]
    orbits = read_set(dataset, node, split=prior.meta["split"], patients=known)
    seen = set(prior.meta["identities"])
    if strangers := [name for name in known if not seen & set(orbits.fingerprints[name])]:
        raise SystemExit(f"Error: got another {strangers[0]}; wanted what the prior learned from.")
    gains = torch.zeros(len(known), orbits.geometry.views)
    far = torch.full((len(known),), prior.distance)
    training = TrainingVolumes(orbits.images, torch.zeros(0), gains, far, False)
    code = prior.generator.weights(prior.generator.coded(prior.codes[: len(known)]))
    found = detail_gains(prior.generator, code, training, orbits.geometry)
    print("detail:", [round(gain, 2) for gain in found])
    tensors, meta = files.load_tensors(path)
    files.save_tensors(path, tensors, meta | {"detail": found})


def write_conditional(args: argparse.Namespace) -> None:
    """A conditional generator of the same CTs, in half precision."""
    folder = args.conditional_run or train(
        dataset=str(args.cts),
        config="chest_conditional",
        settings=["steps=1000000"],
        split="all",
        outdir=args.outdir,
        desc="bundled",
        max_minutes=args.conditional_minutes,
    )
    path = BUNDLED / f"{args.name}_{CONDITIONAL}"
    export(folder, path)
    tensors, meta = files.load_tensors(path)
    files.save_tensors(path, tensors, named(meta, args))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["phantom-chest", "phantom-knee", "chest", "knee"])
    parser.add_argument("--from", dest="cts", type=Path, help="a folder of CTs, or their DRRs")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--conditional-minutes", type=float)
    parser.add_argument("--calibration", type=Path, help="a calibration.json of other patients")
    parser.add_argument("--recalibrate", action="store_true", help="train nothing")
    parser.add_argument("--measure-detail", action="store_true", help="train nothing")
    parser.add_argument("--outdir", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, help="export this run instead of training one")
    parser.add_argument("--conditional-run", type=Path, help="the same, of the generator")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    of_phantoms = args.name.startswith("phantom-")
    if args.recalibrate and not (of_phantoms or args.calibration):
        parser.error("--recalibrate needs the --calibration of chest or knee")
    if not args.recalibrate and (args.cts is None) != of_phantoms:
        parser.error("--from is for chest and knee, and they need it")
    torch.set_num_threads(args.threads)
    if args.recalibrate:
        recalibrate(args)
    elif args.measure_detail:
        measure_detail(args)
    else:
        write_prior(trained(args), args)
        if args.conditional_minutes or args.conditional_run:
            write_conditional(args)
    for path in sorted(BUNDLED.glob(f"{args.name}*.safetensors")):
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
