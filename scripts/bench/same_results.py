"""Proves that a change of the code changes no result: records, compares and times two checkouts.

    same_results.py record --checkout BEFORE --out A
    same_results.py record --checkout AFTER --out B
    same_results.py compare A B
    same_results.py speed --before BEFORE --after AFTER

A case is one command line of mednerf-kit, run in a process of its own with the checkout on
PYTHONPATH, on the CPU, with one thread, fixed seeds and a phantom cache that belongs to the
recording. Products are in fp32: the function with which a checkout chooses its precision is
replaced (`PRECISION_CHOICES`), and a case in which a product is nevertheless asked for in half
precision fails. Inputs are the sample films of the repository that this script lies in.

The same code gives the same bits, so a recording may be expected to equal another. Where a sum was
put in another order on purpose, training and inversion multiply the rounding a thousandfold; how
far, a recording of BEFORE with other vector units tells:

    same_results.py record --checkout BEFORE --out N --other-rounding
    same_results.py compare A B --rounding N

What is compared, and how, is said in `recordings.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import recordings

ROOT = Path(__file__).resolve().parents[2]

#: Functions of the package that choose the precision of products, whichever module holds them.
#: $SAME_RESULTS_PRECISION adds one. They answer torch.float32 here, whatever they are given.
PRECISION_CHOICES = ("fastest_dtype",)

TRAIN = (
    "--preset quick --seed 0 --device cpu --outdir {here}/runs "
    "--set steps={steps} --set snapshot_steps={steps}"
)
PHANTOMS = f"{TRAIN} --set dataset.train=8 --set dataset.val=2 --set dataset.test=2"
#: With these a field of a few steps is dense enough to have colours, masks and a picture.
DENSE = "--set task.learning_rate=0.1 --set fields.scene.faint=1e-6"
MASKS = "--set fields.scene.mask_threshold=1e-4"

#: {films} holds the sample films of this repository, {here} is the folder of the case, {all} that
#: of the recording, {steps} the length of a training.
CASES = {
    "project-chest": "project --xray {films}/chest_20000_PA.png --run bundled:phantom-chest",
    "project-knee": "project --xray {films}/knee_20000_PA.png --run bundled:phantom-knee",
    "train-chest": f"train --dataset chest --config chest {PHANTOMS} --set calibration_patients=1",
    "train-hypernerfgan": f"train --dataset chest --config chest_hypernerfgan {PHANTOMS}",
    "train-mednerf": f"train --dataset chest --config chest_mednerf {PHANTOMS}",
    "train-tensorf": f"train --dataset blocks --config lego_tensorf {TRAIN} {DENSE} {MASKS}",
    "train-neus": f"train --dataset blocks --config lego_neus {TRAIN}",
    "project-tuned": "project --xray {films}/chest_20000_PA.png "
    "--run {all}/train-mednerf/runs/00000",
    "evaluate-scene": "evaluate --run {all}/train-neus/runs/00000 --limit 2 --json",
    "evaluate-chest": "evaluate --run bundled:phantom-chest --limit 2 --json",
    "tomography": "tomography --dataset chest --views 18 --size 48 --prior bundled:phantom-chest "
    "--method fdk --method sart --method sart_tv --method prior",
    "drr-knee": "drr --ct phantom:knee:20000 --size 64 --float-arrays",
}
STEPS = 30
#: The first steps alone, before training multiplies what rounding did: they show small faults.
CASES |= {
    name.replace("train", "start"): words.replace("{steps}", "4")
    for name, words in CASES.items()
    if name.startswith("train")
}
CASES["start-chest"] += " --set task.gan_start=0 --set task.gan_interval=1"

#: Optimiser steps in a turn of `speed`. 32 are 16 steps of two players: all lazy terms once.
TURN = {"train-tensorf": 8, "train-neus": 16}
TIMED = [c for c in CASES if c in ("project-chest", "project-knee") or c.startswith("train")]

#: Vector units of half the width add in another order: their results differ by rounding alone.
OTHER_ROUNDING = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def command_of(case: str, out: Path, steps: int) -> list[str]:
    """The arguments of mednerf-kit for a case of a recording in ``out``."""
    words = [
        word.format(films=ROOT / "data" / "samples", here=out / case, all=out, steps=steps)
        for word in CASES[case].split()
    ]
    if words[0] != "train":
        words += ["--out", str(out / case / "out")]
        words += ["--device", "cpu"] * (words[0] in ("project", "evaluate"))
    return words


def process_of(
    case: str,
    checkout: Path,
    out: Path,
    python: str,
    *,
    steps: int = STEPS,
    turns: str = "",
    **options: Any,
) -> subprocess.Popen[str]:
    """A case, started in a process that finds the package in ``checkout``."""
    (out / case).mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    environment |= {"MEDNERF_KIT_CACHE": str(out / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [python, __file__, "run", "--checkout", str(checkout), "--turns", turns, "--"]
    words += command_of(case, out, steps)
    return subprocess.Popen(words, env=environment, cwd=out, text=True, **options)


# What runs in the process of a case.


def run(args: argparse.Namespace) -> None:
    """One command line of mednerf-kit in fp32, guarded, or in turns with another process."""
    import mednerf_kit

    package = Path(mednerf_kit.__file__).resolve().parent
    if package != args.checkout / "mednerf_kit":
        sys.exit(f"Error: got the package of '{package}'; wanted that of '{args.checkout}'.")
    force_fp32(package)
    sys.argv = ["mednerf-kit", *args.command]
    with Turns(args.turns) if args.turns else fp32_products():
        runpy.run_module("mednerf_kit", run_name="__main__", alter_sys=True)


def force_fp32(package: Path) -> None:
    """Let every function that chooses a precision answer fp32, wherever it was imported to."""
    import torch

    names = [*PRECISION_CHOICES, *os.environ.get("SAME_RESULTS_PRECISION", "").split()]
    definition = re.compile(rf"^def ({'|'.join(names)})\(", re.MULTILINE)
    found = 0
    for path in sorted(package.rglob("*.py")):
        for name in definition.findall(path.read_text(encoding="utf-8")):
            dotted = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            chooser = getattr(importlib.import_module(dotted.removesuffix(".__init__")), name)
            for module in [m for n, m in sys.modules.items() if n.startswith("mednerf_kit")]:
                for key in [k for k, value in vars(module).items() if value is chooser]:
                    setattr(module, key, lambda *_, **__: torch.float32)
                    found += 1
    if not found:
        sys.exit(
            f"Error: got no function {' or '.join(names)} in '{package}'; wanted the one that "
            "chooses the precision: name it in PRECISION_CHOICES or $SAME_RESULTS_PRECISION."
        )


def fp32_products() -> Any:
    """A context in which a matrix product or convolution in half precision is an error."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Fp32Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if "mm" in name or "conv" in name:
                for tensor in args:
                    half = (torch.bfloat16, torch.float16)
                    if isinstance(tensor, torch.Tensor) and tensor.dtype in half:
                        raise RuntimeError(f"{name} in {tensor.dtype}: precision was not forced")
            return func(*args, **(kwargs or {}))

    return Fp32Products()


class Turns:
    """Waits for its turn after every so many steps of any optimiser, and tells its CPU seconds."""

    def __init__(self, pipes: str) -> None:
        self.every, self.go, self.done = map(int, pipes.split(","))
        self.calls, self.started = 0, 0.0

    def __enter__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(self.stepped)
        self.wait()

    def wait(self) -> None:
        os.read(self.go, 1)
        self.started = time.process_time()

    def tell(self, end: str) -> None:
        os.write(self.done, f"{time.process_time() - self.started} {end}\n".encode())

    def stepped(self, *_: Any) -> None:
        self.calls += 1
        if self.calls % self.every == 0:
            self.tell("more")
            self.wait()

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        self.tell("end" if kind is SystemExit and not error.code else "failed")


# record


def record(args: argparse.Namespace) -> int:
    """Run the cases; what failed is shown and missing from ``recording.json``."""
    out, index = args.out.resolve(), args.out.resolve() / "recording.json"
    if out.exists() and any(out.iterdir()) and not index.is_file():
        sys.exit(f"Error: got '{out}', which is no recording; wanted a new or an empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    seconds = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    if args.only == list(CASES):
        shutil.rmtree(out / "cache", ignore_errors=True)  # every checkout makes its own phantoms
    failed = []
    for case in args.only:
        seconds.pop(case, None)
        shutil.rmtree(out / case, ignore_errors=True)
        started = time.perf_counter()
        os.environ.update(OTHER_ROUNDING if args.other_rounding else {})
        process = process_of(
            case, args.checkout, out, args.python, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        text, remarks = process.communicate()
        if process.returncode:
            failed.append(case)
            print(f"{case}: failed\n{remarks[-3000:]}", file=sys.stderr)
        else:
            seconds[case] = round(time.perf_counter() - started, 1)
            print(f"{case}: {seconds[case]:.0f} s", file=sys.stderr, flush=True)
        if "--json" in CASES[case]:
            (out / case / "stdout.json").write_text(text, encoding="utf-8")
        index.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
    print(out)
    return 1 if failed else 0


# speed


class Player:
    """A case of one checkout, which runs while it has the turn."""

    def __init__(self, case: str, checkout: Path, out: Path, args: argparse.Namespace) -> None:
        shutil.rmtree(out / case, ignore_errors=True)
        every, self.log = TURN.get(case, 32), out / f"{case}.log"
        wait, self.go = os.pipe()
        self.done, tell = os.pipe()
        out.mkdir(exist_ok=True)
        with self.log.open("w", encoding="utf-8") as log:
            self.process = process_of(
                case,
                checkout,
                out,
                args.python,
                steps=every * (args.rounds + 2),
                turns=f"{every},{wait},{tell}",
                pass_fds=(wait, tell),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        os.close(wait)
        os.close(tell)
        self.lines = os.fdopen(self.done, encoding="utf-8")
        self.seconds: list[float] = []

    def turn(self) -> bool:
        """Run until the turn is over; whether there is another one."""
        os.write(self.go, b".")
        seconds, _, end = self.lines.readline().strip().partition(" ")
        if end not in ("more", "end"):
            sys.exit(f"Error: got a case that failed:\n{self.log.read_text()[-3000:]}")
        self.seconds.append(float(seconds))
        return end == "more"

    def leave(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        os.close(self.go)
        self.lines.close()


def take_turns(case: str, args: argparse.Namespace, out: Path, rounds: int) -> list[list[float]]:
    """CPU seconds of every turn, before and after; each goes first half of the time."""
    sides = (args.before, args.after)
    players = [Player(case, s, out / n, args) for s, n in zip(sides, "ab", strict=True)]
    try:
        for i in range(rounds):
            more = [player.turn() for player in players[:: (-1) ** i]]
            if more[0] != more[1]:
                sys.exit(
                    f"Error: {case} has another number of optimiser steps; wanted the same work."
                )
            if not more[0]:
                break
    finally:
        for player in players:
            player.leave()
    return [player.seconds for player in players]


def speed(args: argparse.Namespace) -> int:
    """Print median CPU seconds before and after, their ratio, and the ratios of all pairs.

    A pair of processes takes turns, so that both meet the same load; several pairs are needed,
    because two processes of the same code already differ by some percent. 1 above ``--most``.
    """
    slow = 0
    print(f"{'case':20s} {'before':>10s} {'after':>10s} {'ratio':>7s}   pairs")
    for case in args.only:
        training = case.startswith("train")
        turns = 1 + args.rounds if training else 10**9  # a training's first one has the reading
        with tempfile.TemporaryDirectory() as folder:
            pairs = [take_turns(case, args, Path(folder), turns) for _ in range(args.repeats)]
        before, after = ([sum(pair[i][training:]) for pair in pairs] for i in (0, 1))
        ratio = statistics.median(after) / statistics.median(before)
        slow += ratio > args.most
        each = " ".join(f"{b / a:.3f}" for a, b in zip(before, after, strict=True))
        medians = f"{statistics.median(before):8.3f} s {statistics.median(after):8.3f} s"
        print(f"{case:20s} {medians} {ratio:7.3f}   {each}", flush=True)
    return 1 if slow else 0


def cases(text: str) -> list[str]:
    """Names of cases from ``a,b``."""
    names = text.split(",")
    for name in names:
        if name not in CASES:
            raise argparse.ArgumentTypeError(
                f"got case '{name}'; wanted some of {', '.join(CASES)}"
            )
    return names


def checkout(text: str) -> Path:
    """A folder that holds the package."""
    path = Path(text).resolve()
    if not (path / "mednerf_kit" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"got '{text}'; wanted a folder with mednerf_kit/ in it")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="record|compare|speed")
    parts = {name: verbs.add_parser(name) for name in ("record", "compare", "speed", "run")}
    for name, known in (("record", list(CASES)), ("compare", list(CASES)), ("speed", TIMED)):
        parts[name].add_argument("--only", type=cases, default=known, metavar="CASE,CASE")
    for name in ("record", "speed"):
        parts[name].add_argument("--python", default=sys.executable, help="that runs the cases")
    parts["record"].add_argument("--checkout", type=checkout, required=True)
    parts["record"].add_argument("--out", type=Path, required=True, help="of the recording")
    parts["record"].add_argument("--other-rounding", action="store_true", help="with AVX2 alone")
    parts["compare"].add_argument("a", type=Path)
    parts["compare"].add_argument("b", type=Path)
    parts["compare"].add_argument("--rtol", type=float, default=1e-5, help="what rounding may do")
    parts["compare"].add_argument("--rounding", type=Path, help="A, recorded with --other-rounding")
    parts["compare"].add_argument(
        "--renamed", action="append", default=[], metavar="OLD=NEW", help="part of a number's name"
    )
    parts["speed"].add_argument("--before", type=checkout, required=True)
    parts["speed"].add_argument("--after", type=checkout, required=True)
    parts["speed"].add_argument("--rounds", type=int, default=6, help="turns of a training")
    parts["speed"].add_argument("--repeats", type=int, default=5, help="pairs of processes")
    parts["speed"].add_argument("--most", type=float, default=1.03, help="ratio that is still well")
    parts["run"].add_argument("--checkout", type=Path)
    parts["run"].add_argument("--turns")
    parts["run"].add_argument("command", nargs="+")
    args = parser.parse_args()
    if args.verb == "run":
        run(args)
    if args.verb == "compare":
        chosen = [*args.only, *["phantoms"] * (args.only == list(CASES))]
        bad = recordings.compare(args.a, args.b, chosen, args.rtol, args.rounding, args.renamed)
        return 1 if bad else 0
    return record(args) if args.verb == "record" else speed(args)


if __name__ == "__main__":
    sys.exit(main())
