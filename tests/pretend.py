"""A pretend accelerator: ``device="cuda"`` on a machine that has none, with real values and with
CUDA's rules about devices.

Within :func:`pretend_device` a tensor "on cuda" is a :class:`Pretend`: to PyTorch's C++ side a
tensor without data (``meta``, so that autograd and all conversions take the way they take for a
second device), to Python one whose ``device`` is ``cuda:0``, and beside it the CPU tensor with its
values. Every operation is checked as CUDA would check it, then computed on the CPU:

- all operands are on one device; of two that are combined element by element one may be a 0-dim CPU
  tensor;
- CPU indices may look into a tensor on the device, indices on the device may not look into a CPU
  tensor;
- copies, and ``.to``, ``.cpu``, may go anywhere; ``.numpy()`` is for CPU tensors;
- under autocast, products are rounded as asked (their arguments, that is);
- random numbers are drawn on a device by a generator of that device, whose state has 16 bytes: a
  seed and how often it was used.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
Generator = torch.Generator
RUN_BACKWARD = torch.autograd._engine_run_backward

ANYWHERE = {aten.copy_.default, aten._to_copy.default}
INDEXED = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
# may be a 0-dim CPU tensor
ONE_VALUE = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.where.self}
ROUNDED = {  # by autocast
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.mm,
    torch.bmm,
    torch.baddbmm,
    torch.nn.functional.linear,
    torch.nn.functional.conv2d,
}
FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
ANSWERS = {
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "device_count": lambda: 1,
    "is_current_stream_capturing": lambda: False,
    "max_memory_allocated": lambda *_: 1 << 20,
    "get_device_name": lambda *_: "pretend",
}
SILENT = ("synchronize", "empty_cache", "reset_peak_memory_stats", "manual_seed_all", "set_device")


class Pretend(Tensor):
    """A tensor on the pretend device; ``held`` are its values."""

    held: Tensor
    # whether PyTorch's own Python code is running, which takes devices below those that this fakes
    seen_by_torch = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretend:
        self = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=META,
        )
        self.held = real
        return self

    device = property(lambda self: META if Pretend.seen_by_torch else CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy: Tensor.cpu() would "
            "copy it to host memory first"
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @property
    def data(self) -> Tensor:
        """The values without their history, as everywhere; set by ``nn.Module.to``."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, Pretend), f"got data on {other.device} for a tensor on {CUDA}"
        self.held = other.held

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        # of a parameter
        copied.__dict__.update(
            {name: value for name, value in self.__dict__.items() if name != "held"}
        )
        return memo.setdefault(id(self), copied)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, CPU)


class AnyGenerator(type(Generator)):
    """A generator is one, pretended or not."""

    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, Generator)


class PretendGenerator(Generator, metaclass=AnyGenerator):
    """Random numbers of the device: every draw has its own seed, so that seed and count are the
    whole state, as of Philox.
    """

    def __new__(cls, device: str | torch.device = "cpu") -> Any:
        return super().__new__(cls) if torch.device(device).type == "cuda" else Generator(device)

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.seed, self.count = 0, 0

    device = property(lambda self: CUDA)

    def manual_seed(self, seed: int) -> PretendGenerator:
        self.seed, self.count = seed, 0
        return self

    def initial_seed(self) -> int:
        return self.seed

    def get_state(self) -> Tensor:
        return torch.tensor([self.seed, self.count]).view(torch.uint8)

    def set_state(self, state: Tensor) -> PretendGenerator:
        if state.device.type != "cpu" or state.shape != (16,):
            raise RuntimeError("RNG state is wrong size")
        self.seed, self.count = state.clone().view(torch.int64).tolist()
        return self

    def drawn(self) -> Generator:
        """What draws the next numbers."""
        self.count += 1
        return Generator().manual_seed((self.seed * 1_000_003 + self.count) % 2**63)


def leaves(thing: Any) -> Iterator[Tensor]:
    """The tensors among arguments."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from leaves(part)


def mapped(thing: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments or results with something done to each of them."""
    if isinstance(thing, (list, tuple)) and not isinstance(thing, torch.Size):
        return type(thing)([mapped(part, change) for part in thing])
    return change(thing)


def check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuse operands of a CPU and of the device, where CUDA does."""
    here = [isinstance(tensor, Pretend) for tensor in tensors]
    if func in ANYWHERE or all(here) or not any(here):
        return
    if func in INDEXED:
        if here[0]:  # indices may be on the CPU, values may not
            values = args[2] if len(args) > 2 else args[0]
            if isinstance(values, Pretend) or values.dim() == 0:
                return
        place = "cuda" if here[0] else "cpu"
        raise RuntimeError(
            f"{func}: indices should be on the cpu or, like values, on the indexed "
            f"tensor's device, {place}"
        )
    lenient = func in ONE_VALUE or (len(tensors) == 2 and torch.Tag.pointwise in func.tags)
    mutated = func._schema.is_mutable and not here[0]
    if (
        lenient
        and not mutated
        and all(on or not tensor.dim() for on, tensor in zip(here, tensors, strict=True))
    ):
        return
    places = ", ".join(
        f"{list(t.shape)} on {'cuda' if on else 'cpu'}" for t, on in zip(tensors, here, strict=True)
    )
    raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {places}")


def computed(func: Any, args: Any, kwargs: dict[str, Any], drawing_on: torch.device) -> Any:
    """An operation checked, computed on the CPU, and its result put where it belongs."""
    tensors = [*leaves(args), *leaves(tuple(kwargs.values()))]
    check(func, args, tensors)
    assert not any(tensor.is_meta for tensor in tensors), f"{func} got a tensor without values"
    there = any(isinstance(tensor, Pretend) for tensor in tensors)
    if (asked := kwargs.get("device")) is not None:
        there = torch.device(asked).type != "cpu"
        kwargs = {**kwargs, "device": CPU}
    if any(isinstance(value, Generator) for value in (*args, *kwargs.values())):
        target = "cuda" if there else "cpu"
        if drawing_on.type != target:
            raise RuntimeError(
                f"Expected a '{target}' device type for generator but found '{drawing_on.type}'"
            )
    if not there and asked is None:
        return func(*args, **kwargs)
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Pretend)}

    def real(thing: Any) -> Any:
        return thing.held if isinstance(thing, Pretend) else thing

    def put(thing: Any) -> Any:
        if not isinstance(thing, Tensor):
            return thing
        return known[id(thing)] if id(thing) in known else Pretend(thing)

    result = func(
        *mapped(args, real), **{name: mapped(value, real) for name, value in kwargs.items()}
    )
    if func is aten.copy_.default:
        return args[0]
    return mapped(result, put) if there else result


class Operations(TorchDispatchMode):
    """Every operation, after autograd has noted it."""

    drawing_on = CPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, self.drawing_on)


class Calls(TorchFunctionMode):
    """Every call from Python: what says "cuda" means ``meta`` below, and a generator of the device
    is replaced by its draw.
    """

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor:
            func, kwargs = (
                torch.tensor,
                {"dtype": args[0].dtype, "device": args[0].device, **kwargs},
            )
            args = args[1:]
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], META)
        # a list of numbers becomes a tensor without being dispatched
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (
                args[0],
                tuple(torch.tensor(i) if isinstance(i, list) else i for i in index),
                *args[2:],
            )
        if func in ROUNDED and torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            args = tuple(
                arg.to(dtype) if isinstance(arg, Pretend) and arg.is_floating_point() else arg
                for arg in args
            )
        drawing = []

        def below(thing: Any) -> Any:
            if isinstance(thing, (str, torch.device)):
                return META if str(thing).startswith("cuda") else thing
            if type(thing) is PretendGenerator:
                drawing.append(thing)
                return thing.drawn()
            return thing

        args = tuple(below(arg) for arg in args)
        kwargs = {name: below(value) for name, value in kwargs.items()}
        # made of Python's numbers, then moved
        where = kwargs.pop("device", None) if func in FROM_DATA else None
        kept = Pretend.seen_by_torch, self.operations.drawing_on
        Pretend.seen_by_torch, self.operations.drawing_on = True, CUDA if drawing else CPU
        try:
            made = func(*args, **kwargs)
            return made if where is None else made.to(where)
        finally:
            Pretend.seen_by_torch, self.operations.drawing_on = kept

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """The way back, which PyTorch calls from its own code, may ask the package's functions
        again.
        """
        kept, Pretend.seen_by_torch = Pretend.seen_by_torch, False
        try:
            with self:
                return RUN_BACKWARD(*args, **kwargs)
        finally:
            Pretend.seen_by_torch = kept


@contextlib.contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Within it there is one CUDA device; gives that."""
    with contextlib.ExitStack() as stack:
        for name, value in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name in SILENT:
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_: None))
        stack.enter_context(
            mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        )
        many = [*foreach._get_foreach_kernels_supported_devices(), "meta"]
        stack.enter_context(
            mock.patch.object(foreach, "_get_foreach_kernels_supported_devices", lambda: many)
        )
        for module in [
            module
            for name, module in sys.modules.items()
            if name.split(".")[0] in ("torch", "mednerf_kit")
        ]:
            if (
                module is not None
                and vars(module).get("Generator") is Generator
                and module is not torch._C
            ):
                stack.enter_context(mock.patch.object(module, "Generator", PretendGenerator))
        operations = stack.enter_context(Operations())
        calls = stack.enter_context(Calls(operations))
        stack.enter_context(
            mock.patch.object(torch.autograd, "_engine_run_backward", calls.backward)
        )
        yield torch.device("cuda")
