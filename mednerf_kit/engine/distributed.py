"""Several processes at one training (torchrun): who they are, whose rows of a batch are whose, and
how their gradients meet.

Whatever is random is drawn by every process for the whole batch, from one stream, and each keeps
its own rows (:class:`BatchShard`). So what is trained does not depend on the number of processes
beyond rounding, all go on drawing the same, and a run may be continued by any other number of them.
The price is the whole batch's random numbers in every process, a few per cent of a step. Gradient
accumulation is the same idea within one process: the parts of its share come one after the other.

Gradients are averaged in one flat all-reduce after ``backward``. ``DistributedDataParallel`` wraps
a module whose forward is the whole loss; a step here goes backward several times through different
parts, once through a gradient's gradient (R1), and trains tables of codes that belong to no module.
For models of a few megabytes nothing is lost by not overlapping the two.

A task takes part by a method ``set_distributed(ranks)``, by working on the parts that
:meth:`Ranks.parts` gives, and by :meth:`Ranks.average_gradients` before its optimiser's step;
everything else is the loop's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from ..core.errors import RunError, UserError
from ..core.types import Rays, Samples
from ..rays.render import Level
from ..rays.samplers.base import Previous, Sampler
from .device import select_device

# for the others in a step: a process that is gone is noticed at once, one that hangs is not
LONGEST_WAIT = timedelta(minutes=30)
T = TypeVar("T", Tensor, list)
R = TypeVar("R", Rays, Samples)


@dataclass(frozen=True)
class BatchShard:
    """Part ``index`` of ``of`` equal parts of a batch: rows that follow each other.

    >>> BatchShard(1, 2).take(torch.arange(6)).tolist()
    [3, 4, 5]
    """

    index: int = 0
    of: int = 1

    def rows(self, n: int) -> slice:
        """Which of the whole batch's n rows these are."""
        return slice(self.index * n // self.of, (self.index + 1) * n // self.of)

    def take(self, whole: T) -> T:
        """These rows of something drawn for the whole batch."""
        return whole[self.rows(len(whole))]

    def randn(self, shape: Sequence[int], rng: Generator) -> Tensor:
        """Standard normal numbers for these rows, [B, ...], on the generator's device."""
        whole = torch.randn((shape[0] * self.of, *shape[1:]), generator=rng, device=rng.device)
        return self.take(whole)

    def levels(self, levels: Sequence[Level]) -> Sequence[Level]:
        """The same passes along these rows' rays, with the jitter that the rows have in the whole
        batch.
        """
        return (
            levels
            if self.of == 1
            else [replace(level, sampler=ShardedSampler(level.sampler, self)) for level in levels]
        )


@dataclass(frozen=True)
class ShardedSampler(Sampler):
    """A sampler that chooses nodes for the whole batch and answers those of a share.

    Which numbers come out of a generator depends on how many are asked for, not on the rays: so the
    share's own rays stand in for everyone's. True of every sampler whose number of draws does not
    depend on what it sees.
    """

    sampler: Sampler
    share: BatchShard

    @property
    def n(self) -> int:  # type: ignore[override]
        return self.sampler.n

    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        before = (
            None if previous is None else (self._whole(previous[0]), self._repeated(previous[1]))
        )
        return self._mine(self.sampler(self._whole(rays), before, rng))

    def _repeated(self, tensor: Tensor) -> Tensor:
        return tensor.expand(self.share.of, *tensor.shape).flatten(0, 1)

    def _whole(self, record: R) -> R:
        return self._changed(record, self._repeated)

    def _mine(self, record: R) -> R:
        return self._changed(record, self.share.take)

    def _changed(self, record: R, change: Callable[[Tensor], Tensor]) -> R:
        values = {f.name: getattr(record, f.name) for f in fields(record)}
        return replace(
            record, **{name: change(value) for name, value in values.items() if value is not None}
        )


class RngSnapshot:
    """Random generators and modules' buffers (a spectral norm's, say) as they are now, to come back
    to.
    """

    def __init__(self, *sources: Any) -> None:
        self.kept: list[tuple[Any, Any]] = [
            (s, s.get_state() if isinstance(s, Generator) else [b.clone() for b in s.buffers()])
            for s in sources
        ]

    def restore(self) -> None:
        """Everything as it was."""
        for source, state in self.kept:
            if isinstance(source, Generator):
                source.set_state(state)
                continue
            for buffer, old in zip(source.buffers(), state, strict=True):
                buffer.copy_(old)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """As it was inside the block, as it is now after it."""
        now = RngSnapshot(*(source for source, _ in self.kept))
        self.restore()
        yield
        now.restore()


@dataclass(frozen=True)
class Ranks:
    """One of ``world`` processes that train together; alone it does nothing and costs nothing.

    >>> alone = Ranks()
    >>> alone.is_rank_zero, [share.rows(8) for share in alone.parts(2)]
    (True, [slice(0, 4, None), slice(4, 8, None)])
    """

    rank: int = 0
    world: int = 1
    local: int = 0  # among the processes of this machine
    local_world: int = 1
    store: Any = None  # torch's key-value store, the same in all of them

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the run folder and speaks for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device: the one of its number, where there are several."""
        device = select_device(name)
        if self.world == 1 or device.type == "cpu":
            return device
        if self.local_world > (there := torch.cuda.device_count()):
            raise UserError(
                f"got {self.local_world} processes and {there} CUDA device{'s' * (there > 1)}",
                "wanted a device for each",
                f"start {there} processes, or use --device cpu",
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def check(self, sizes: Mapping[str, int], accumulate: int = 1) -> None:
        """Refuse batches (by their names in the recipe) that cannot be dealt evenly."""
        parts = self.world * accumulate
        among = [f"{self.world} processes"] * (self.world > 1) + [f"accumulate {accumulate}"] * (
            accumulate > 1
        )
        for key, n in sizes.items():
            if n % parts:
                raise UserError(
                    f"got {key} {n} for {' with '.join(among)}",
                    f"wanted a multiple of {parts}",
                    f"set {key}={-(-n // parts) * parts}, or divide it by another number",
                )

    def parts(self, accumulate: int, *sources: Any) -> Iterator[BatchShard]:
        """The parts of this process's share one after the other, each with ``sources`` as the first
        found them.

        Sources are random generators, and modules that change their buffers in a forward pass.
        """
        before = RngSnapshot(*sources) if accumulate > 1 else None
        for part in range(accumulate):
            if before is not None and part:
                before.restore()
            yield BatchShard(self.rank * accumulate + part, self.world * accumulate)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes; one who has none has none in any
        of them.
        """
        if self.world == 1:
            return
        held = [p for p in parameters if p.grad is not None]
        flat = torch.cat([p.grad.reshape(-1) for p in held])  # type: ignore[union-attr]
        self._summed(flat).div_(self.world)
        for parameter, mean in zip(held, flat.split([p.numel() for p in held]), strict=True):
            parameter.grad = mean.view_as(parameter)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of the whole batch: [B / world, ...] -> [B, ...],
        without gradient.
        """
        rows = rows.detach()
        if self.world == 1:
            return rows
        mine = rows.cpu().contiguous()
        found = [torch.empty_like(mine) for _ in range(self.world)]
        with self._together() as dist:
            dist.all_gather(found, mine)
        return torch.cat(found).to(rows.device)

    def mean_metrics(
        self, numbers: dict[str, float], seconds: float, stop: bool
    ) -> tuple[dict[str, float], float, bool]:
        """What all make of one step: numbers and time are averaged; asked to stop is who hears one
        of them asked.
        """
        if self.world == 1:
            return numbers, seconds, stop
        values = (
            self._summed(
                torch.tensor([*numbers.values(), seconds, self.world * stop], dtype=torch.float64)
            )
            / self.world
        )
        *means, seconds, asked = values.tolist()
        return dict(zip(numbers, means, strict=True)), seconds, asked > 0

    def broadcast_text(self, text: str) -> str:
        """The first process's text."""
        return self._sent(text.encode()).decode()

    def broadcast_state(
        self, tensors: Mapping[str, Tensor], facts: Any
    ) -> tuple[dict[str, Tensor], Any]:
        """The first process's tensors and plain values, in host memory."""
        kinds = {
            name: [str(t.dtype).removeprefix("torch."), list(t.shape)]
            for name, t in tensors.items()
        }
        kinds, facts = json.loads(self.broadcast_text(json.dumps([kinds, facts])))
        whole = b"".join(raw(t) for t in tensors.values()) if self.is_rank_zero else b""
        flat = torch.frombuffer(bytearray(self._sent(whole)) or bytearray(1), dtype=torch.uint8)
        found, start = {}, 0
        for name, (kind, shape) in kinds.items():
            dtype = getattr(torch, kind)
            end = start + math.prod(shape) * dtype.itemsize
            found[name] = flat[start:end].clone().view(dtype).view(shape)
            start = end
        return found, facts

    @contextlib.contextmanager
    def rank_zero_first(self, what: str) -> Iterator[None]:
        """A block the first process goes through alone, so that the others find in the cache what
        it makes there.
        """
        if self.world == 1:
            yield
            return
        while not self.is_rank_zero and not self._done(what):
            time.sleep(0.05)
        try:
            yield
        except BaseException:
            if self.is_rank_zero:
                self.store.set(what, "failed")
            raise
        if self.is_rank_zero:
            self.store.set(what, "done")

    def leave(self) -> None:
        """The training is over: from here on every process is on its own."""
        if self.world > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def claims_report(self) -> bool:
        """Whether this process is the first with something to say about an end that all share."""
        try:
            return self.world == 1 or self.store.add("spoken", 1) == 1
        except RuntimeError:  # the store went with the process that kept it
            return True

    def _done(self, what: str) -> bool:
        """Whether the first process is through; raises when it has failed or gone."""
        with self._together():
            if not self.store.check([what]):
                return False
            if self.store.get(what) == b"failed":
                raise RuntimeError(what)
        return True

    def _summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        with self._together() as dist:
            dist.all_reduce(tensor)
        return tensor

    def _sent(self, data: bytes) -> bytes:
        """The first process's bytes."""
        if self.world == 1:
            return data
        with self._together() as dist:
            size = torch.tensor([len(data)])
            dist.broadcast(size, 0)
            flat = (
                torch.frombuffer(bytearray(data), dtype=torch.uint8)
                if self.is_rank_zero and data
                else torch.empty(int(size), dtype=torch.uint8)
            )
            dist.broadcast(flat, 0)
        return flat.numpy().tobytes()

    @contextlib.contextmanager
    def _together(self) -> Iterator[Any]:
        import torch.distributed as dist

        try:
            yield dist
        except RuntimeError as error:
            raise self._lost() from error

    def _lost(self) -> RunError:
        return RunError(
            f"got no answer from another of {self.world} processes, which was killed or has failed",
            "wanted all of them to the end",
            "start again with --resume: the last snapshot is whole",
        )


def raw(tensor: Tensor) -> bytes:
    """A tensor's values as they lie in memory."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone; an error that ends them all is said
    by one of them.
    """
    ranks = started(os.environ)
    try:
        yield ranks
    except (Exception, KeyboardInterrupt) as error:
        if not ranks.claims_report():
            raise SystemExit(
                130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
            ) from None
        if ranks.world > 1:
            # which `python -m mednerf_kit` closes for all but the first
            sys.stderr = sys.__stderr__
        raise


def started(environment: Mapping[str, str]) -> Ranks:
    """What torchrun says in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR …), and a
    connection to the others.

    Tensors in host memory travel through gloo, those of CUDA devices through NCCL.
    """
    world = number(environment, "WORLD_SIZE", "1")
    if world == 1:
        return Ranks()
    import torch.distributed as dist

    rank, port = number(environment, "RANK"), number(environment, "MASTER_PORT")
    kept_by_torchrun = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    place = dist.TCPStore(
        environment.get("MASTER_ADDR", "127.0.0.1"),
        port,
        is_master=rank == 0 and not kept_by_torchrun,
    )
    store = dist.PrefixStore(f"mednerf-kit/{attempt}", place)
    backend = (
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONGEST_WAIT)
    return Ranks(
        rank,
        world,
        number(environment, "LOCAL_RANK", str(rank)),
        number(environment, "LOCAL_WORLD_SIZE", str(world)),
        store,
    )


def number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    """A whole number that torchrun has set."""
    text = environment.get(name, default)
    if text is None or not text.isdecimal():
        raise UserError(
            f"got {name} {text!r} in the environment",
            "wanted what torchrun sets",
            "start with `torchrun --nproc-per-node N -m mednerf_kit train`",
        )
    return int(text)


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of numbers that were logged part by part.

    >>> mean_of([{"a": 1.0}, {"a": 3.0}])
    {'a': 2.0}
    """
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
