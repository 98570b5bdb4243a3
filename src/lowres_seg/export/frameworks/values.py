"""Whether the Python code of a network reads values of its input. A trace would keep what it did on one input.

torch warns about some of these places while it traces, about arithmetic on shapes too, and about `torch.equal` or sizes
of `nonzero` not at all. So a run of the network is watched instead. A tensor holds values of the input if an operator
computed it from one that does. Reading a number out of such a tensor is what a trace cannot keep. Shapes, weights and
buffers are constants, whatever is done with them.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lowres_seg.errors import ExportError

_INSIDE_TORCH = str(Path(torch.__file__).parent)
#: Functions that read values without an operator.
_READERS = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.tensor)


def check(module: Any, x: Any, *others: Any) -> None:
    """Check that the Python code of a network reads no value of its input.

    Parameters
    ----------
    module : torch.nn.Module
    x : torch.Tensor
        An input to run it on.
    *others : torch.Tensor
        What it takes behind it.

    Raises
    ------
    ExportError
        If it branches on values, cuts by them, counts by them, or computes with them outside of torch.
    """
    watched = _Watched(x)
    with torch.no_grad(), watched, _Readers(watched):
        module(x, *others)
    if watched.place is not None:
        raise ExportError(
            "torch cannot trace the network: its code branches on values of its input or computes with them in Python, "
            f"at {watched.place}; a trace keeps what one input gives, so write it with torch.where, or save the "
            "network with torch.jit.script"
        )
    if watched.counts and not _same_traces(module, x, *others):
        raise ExportError(
            "torch cannot trace the network: its code branches, cuts or loops by the size of what nonzero, unique or a "
            "mask as an index finds in its input; a trace keeps what one input gives, so write it with torch.where"
        )


class _Watched(TorchDispatchMode):
    """A run in which the tensors that hold values of the input are known, by their storages.

    Attributes
    ----------
    place : str or None
        Where a value was first read.
    counts : bool
        Whether the shape of a tensor depended on values.
    """

    def __init__(self, x: Any) -> None:
        super().__init__()
        # A weak reference keeps the address of a storage from being used again, and not its memory.
        self._storages: dict[int, StorageWeakRef] = {}
        self.place: str | None = None
        self.counts = False
        self._add(x)

    def holds(self, values: Any) -> bool:
        """True if a tensor, or one in nested lists, holds values of the input."""
        return any(StorageWeakRef(tensor.untyped_storage()).cdata in self._storages for tensor in _tensors(values))

    def read(self) -> None:
        """Note that a value was read here."""
        self.place = self.place or _place()

    def _add(self, tensor: Any) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._storages[reference.cdata] = reference

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        holds = self.holds((*args, *kwargs.values()))
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not holds or name.endswith("_like") or name.startswith("new_"):
            return result
        found = list(_tensors(result))
        if not found and result is not None:
            self.read()
        if torch.Tag.dynamic_output_shape in func.tags:
            self.counts |= name != "index" or any(index.dtype == torch.bool for index in _tensors(args[1]))
        for tensor in found if result is not None else _tensors(args):
            self._add(tensor)
        return result


class _Readers(TorchFunctionMode):
    """Notes what reads values without an operator."""

    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched = watched

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READERS and self._watched.holds(args):
            self._watched.read()
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> Iterator[Any]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _place() -> str:
    """File, line and text of the code outside of torch that runs now."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith((_INSIDE_TORCH, __file__)):
        frame = frame.f_back
    if frame is None:
        return "an operator of torch"
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    return f"{Path(file).name}, line {line}" + (f" ({text[:80]})" if text else "")


def _same_traces(module: Any, x: Any, *others: Any) -> bool:
    """True if the network traces to one graph on inputs of different values."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator)
    inputs = [torch.zeros_like(x), x, noise, noise.abs() + 1, 1000 * noise.abs(), -1000 * noise.abs()]
    try:
        first, *rest = (
            _lines(torch.jit.trace(module, (one, *others), check_trace=False).inlined_graph) for one in inputs
        )
    except Exception:  # noqa: BLE001 - the network ran on one of them, so whether it runs depends on values
        return False
    return all(other == first for other in rest)


def _lines(graph: Any) -> list[Any]:
    """Operators of a graph with the numbers of their inputs, and constants; without the shapes of one run."""
    numbers: dict[str, int] = {}

    def number(value: Any) -> int:
        return numbers.setdefault(value.debugName(), len(numbers))

    def lines(block: Any) -> Iterator[Any]:
        for node in block.nodes():
            constant = node.output().toIValue() if node.kind() == "prim::Constant" else None
            text = constant.tolist() if isinstance(constant, torch.Tensor) else str(constant)
            yield node.kind(), [number(v) for v in node.inputs()], [number(v) for v in node.outputs()], text
            for inner in node.blocks():
                yield from lines(inner)

    return list(lines(graph))
