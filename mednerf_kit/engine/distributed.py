"""Several processes at one training (torchrun): who each is, which rows of a batch are its own, and
how gradients are averaged. The verbs are torch.distributed's.

Whatever is random is drawn by every process for the whole batch, from one stream, and each keeps
its own rows (:class:`BatchShard`). So what is trained does not depend on the number of processes
beyond rounding, all go on drawing the same, and a run may be continued by any other number of them.
The price is the whole batch's random numbers in every process, a few per cent of a step. Gradient
accumulation is the same idea within one process: the shards of its rows are computed one after the
other.

Gradients are averaged in one flat all-reduce after ``backward``. ``DistributedDataParallel`` wraps
a module whose forward is the whole loss; a step here goes backward several times through different
parts, once through a gradient's gradient (R1), and trains tables of codes that belong to no module.
For models of a few megabytes nothing is lost by not overlapping the two.

Texts travel as their bytes, states as those of a safetensors file. torch's object collectives would
be shorter, but they unpickle whatever arrives, and here nothing is pickled.

A task takes part by a method ``set_distributed(ranks)``, by working on the shards that
:meth:`Ranks.shards` gives, and by :meth:`Ranks.average_gradients` before its optimiser's step;
everything else is the loop's.
"""

from __future__ import annotations

import contextlib
import json
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
POLL_SECONDS = 0.05  # between two looks at whether the first process has prepared the data
T = TypeVar("T", Tensor, list)
R = TypeVar("R", Rays, Samples)


@dataclass(frozen=True)
class BatchShard:
    """Shard ``index`` of ``of`` equal shards of a batch: rows that follow each other.

    >>> BatchShard(1, 2).take(torch.arange(6)).tolist()
    [3, 4, 5]
    """

    index: int = 0
    of: int = 1

    def rows(self, n: int) -> slice:
        """Which of the whole batch's n rows these are."""
        return slice(self.index * n // self.of, (self.index + 1) * n // self.of)

    def take(self, whole: T) -> T:
        """These rows of something that was made for the whole batch."""
        return whole[self.rows(len(whole))]

    def randn(self, shape: Sequence[int], rng: Generator) -> Tensor:
        """Standard normal numbers for these rows, [B, ...], on the generator's device."""
        whole = torch.randn((shape[0] * self.of, *shape[1:]), generator=rng, device=rng.device)
        return self.take(whole)

    def levels(self, levels: Sequence[Level]) -> Sequence[Level]:
        """The same levels for these rows' rays, whose nodes are then those that the rows have in
        the whole batch.
        """
        if self.of == 1:
            return levels
        return [replace(level, sampler=ShardedSampler(level.sampler, self)) for level in levels]


@dataclass(frozen=True)
class ShardedSampler(Sampler):
    """A sampler that chooses nodes for the whole batch and returns those of a shard.

    Which numbers come out of a random generator depends on how many are drawn, not on the rays: so
    the shard's own rays stand in for all others. That holds for every sampler whose number of draws
    does not depend on what it sees.
    """

    sampler: Sampler
    shard: BatchShard

    @property
    def n(self) -> int:  # type: ignore[override]
        return self.sampler.n

    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        if previous is not None:
            samples, weight = previous
            previous = each_tensor(samples, self._repeated), self._repeated(weight)
        whole = self.sampler(each_tensor(rays, self._repeated), previous, rng)
        return each_tensor(whole, self.shard.take)

    def _repeated(self, tensor: Tensor) -> Tensor:
        return tensor.expand(self.shard.of, *tensor.shape).flatten(0, 1)


def each_tensor(record: R, change: Callable[[Tensor], Tensor]) -> R:
    """A record of tensors with every one of them changed; what is None stays None."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    changed = {name: change(value) for name, value in values.items() if value is not None}
    return replace(record, **changed)


class RngSnapshot:
    """The present state of random generators, and of modules whose forward changes their buffers (a
    spectral norm's, say), to return to.
    """

    def __init__(self, *sources: Any) -> None:
        self.kept: list[tuple[Any, Any]] = [
            (s, s.get_state() if isinstance(s, Generator) else [b.clone() for b in s.buffers()])
            for s in sources
        ]

    def restore(self) -> None:
        """Set everything back to the kept state."""
        for source, state in self.kept:
            if isinstance(source, Generator):
                source.set_state(state)
                continue
            for buffer, old in zip(source.buffers(), state, strict=True):
                buffer.copy_(old)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside the block everything is as it was kept, after it as it was before the block."""
        now = RngSnapshot(*(source for source, _ in self.kept))
        self.restore()
        yield
        now.restore()


@dataclass(frozen=True)
class Ranks:
    """One of ``world_size`` processes that train together; alone it does nothing and costs nothing.

    >>> alone = Ranks()
    >>> alone.is_rank_zero, [shard.rows(8) for shard in alone.shards(2)]
    (True, [slice(0, 4, None), slice(4, 8, None)])
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_world_size: int = 1
    store: Any = None  # torch's key-value store, the same in all of them

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the run folder and speaks for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device: of several, the one with its number on this machine.

        A :class:`UserError` where the machine has fewer CUDA devices than processes.
        """
        device = select_device(name)
        if self.world_size == 1 or device.type == "cpu":
            return device
        there = torch.cuda.device_count()
        if self.local_world_size > there:
            raise UserError(
                f"got {self.local_world_size} processes and {there} CUDA device{'s' * (there > 1)}",
                "wanted a device for each",
                f"start {there} processes, or use --device cpu",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def check_divisible(self, sizes: Mapping[str, int], accumulate: int = 1) -> None:
        """Refuse batch sizes (by their names in the recipe) that cannot be dealt evenly to all
        processes in ``accumulate`` shards each.
        """
        shards = self.world_size * accumulate
        among = [f"{self.world_size} processes"] if self.world_size > 1 else []
        among += [f"accumulate {accumulate}"] if accumulate > 1 else []
        for key, n in sizes.items():
            if n % shards:
                raise UserError(
                    f"got {key} {n} for {' with '.join(among)}",
                    f"wanted a multiple of {shards}",
                    f"set {key}={-(-n // shards) * shards}, or divide it by another number",
                )

    def shards(self, accumulate: int, *sources: Any) -> Iterator[BatchShard]:
        """This process's shards of a batch one after the other, each with ``sources`` in the state
        in which the first found them.

        Sources are random generators, and modules that change their buffers in a forward pass.
        """
        before = RngSnapshot(*sources) if accumulate > 1 else None
        for i in range(accumulate):
            if before is not None and i:
                before.restore()
            yield BatchShard(self.rank * accumulate + i, self.world_size * accumulate)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes.

        A parameter without a gradient has none in any of them.
        """
        held = [p for p in parameters if p.grad is not None]
        if self.world_size == 1 or not held:
            return
        flat = torch.cat([p.grad.reshape(-1) for p in held])  # type: ignore[union-attr]
        self._all_reduce(flat).div_(self.world_size)
        for parameter, mean in zip(held, flat.split([p.numel() for p in held]), strict=True):
            parameter.grad = mean.view_as(parameter)

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of the whole batch: [B / world_size, ...] ->
        [B, ...], without gradient.
        """
        rows = rows.detach()
        if self.world_size == 1:
            return rows
        mine = rows.cpu().contiguous()
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        with self._collective() as dist:
            dist.all_gather(found, mine)
        return torch.cat(found).to(rows.device)

    def mean_metrics(
        self, numbers: dict[str, float], seconds: float, stop: bool
    ) -> tuple[dict[str, float], float, bool]:
        """The mean over the processes of the numbers and the seconds of a step, and whether any of
        them was asked to stop.
        """
        if self.world_size == 1:
            return numbers, seconds, stop
        values = [*numbers.values(), seconds, self.world_size * stop]
        total = self._all_reduce(torch.tensor(values, dtype=torch.float64))
        *means, seconds, stopping = (total / self.world_size).tolist()
        return dict(zip(numbers, means, strict=True)), seconds, stopping > 0

    def broadcast_text(self, text: str) -> str:
        """The first process's text."""
        return self._broadcast(text.encode()).decode()

    def broadcast_state(
        self, tensors: Mapping[str, Tensor], facts: Any
    ) -> tuple[dict[str, Tensor], Any]:
        """The first process's tensors, in host memory, and its plain values (as JSON has them)."""
        from safetensors.torch import load, save

        facts = json.loads(self.broadcast_text(json.dumps(facts)))
        whole = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        return load(self._broadcast(save(whole) if self.is_rank_zero else b"")), facts

    @contextlib.contextmanager
    def rank_zero_first(self, what: str) -> Iterator[None]:
        """A block that the first process goes through alone, so that the others find in the cache
        what it makes there.

        The others look at the store instead of waiting in a collective, which would give up after
        :data:`LONGEST_WAIT`.
        """
        if self.world_size == 1:
            yield
            return
        while not self.is_rank_zero and not self._done(what):
            time.sleep(POLL_SECONDS)
        try:
            yield
        except BaseException:
            if self.is_rank_zero:
                self.store.set(what, "failed")
            raise
        if self.is_rank_zero:
            self.store.set(what, "done")

    def leave(self) -> None:
        """End the process group: from here on every process is on its own."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def claims_report(self) -> bool:
        """Whether this process is the first to report an end that all share."""
        try:
            return self.world_size == 1 or self.store.add("spoken", 1) == 1
        except RuntimeError:  # the store went with the process that kept it
            return True

    def _done(self, what: str) -> bool:
        """Whether the first process is through; raises when it has failed or gone."""
        with self._collective():
            if not self.store.check([what]):
                return False
            if self.store.get(what) == b"failed":
                raise RuntimeError(what)
        return True

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        with self._collective() as dist:
            dist.all_reduce(tensor)
        return tensor

    def _broadcast(self, data: bytes) -> bytes:
        """The first process's bytes."""
        if self.world_size == 1:
            return data
        with self._collective() as dist:
            size = torch.tensor([len(data)])
            dist.broadcast(size, 0)
            flat = torch.empty(int(size), dtype=torch.uint8)
            if self.is_rank_zero and data:
                flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(flat, 0)
        return flat.numpy().tobytes()

    @contextlib.contextmanager
    def _collective(self) -> Iterator[Any]:
        """torch.distributed, whose failure is said in one sentence."""
        import torch.distributed as dist

        try:
            yield dist
        except RuntimeError as error:
            raise RunError(
                f"got no answer from another of {self.world_size} processes, which was killed or "
                "has failed",
                "wanted all of them to the end",
                "start again with --resume: the last snapshot is whole",
            ) from error


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone; an error that ends all of them is
    reported by one.
    """
    ranks = init_process_group(os.environ)
    try:
        yield ranks
    except (Exception, KeyboardInterrupt) as error:
        if not ranks.claims_report():
            code = getattr(error, "exit_code", 1)
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else code) from None
        if ranks.world_size > 1:
            # which `python -m mednerf_kit` closes for all but the first
            sys.stderr = sys.__stderr__
        raise


def init_process_group(environment: Mapping[str, str]) -> Ranks:
    """Connect to the other processes as torchrun says in the environment (RANK, WORLD_SIZE,
    LOCAL_RANK, MASTER_ADDR …); alone where it says nothing.

    Tensors in host memory travel through gloo, those of CUDA devices through NCCL. A
    :class:`UserError` where the environment is incomplete.
    """
    world_size = environment_number(environment, "WORLD_SIZE", "1")
    if world_size == 1:
        return Ranks()
    import torch.distributed as dist

    rank = environment_number(environment, "RANK")
    port = environment_number(environment, "MASTER_PORT")
    kept_by_torchrun = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    place = dist.TCPStore(
        environment.get("MASTER_ADDR", "127.0.0.1"),
        port,
        is_master=rank == 0 and not kept_by_torchrun,
    )
    store = dist.PrefixStore(f"mednerf-kit/{attempt}", place)
    with_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if with_nccl else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=LONGEST_WAIT,
    )
    local_rank = environment_number(environment, "LOCAL_RANK", str(rank))
    local_world_size = environment_number(environment, "LOCAL_WORLD_SIZE", str(world_size))
    return Ranks(rank, world_size, local_rank, local_world_size, store)


def environment_number(
    environment: Mapping[str, str], name: str, default: str | None = None
) -> int:
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
    """The mean of numbers that were logged shard by shard.

    >>> mean_of([{"a": 1.0}, {"a": 3.0}])
    {'a': 2.0}
    """
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
