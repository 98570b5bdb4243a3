"""Networks in torch: loaded, run, traced, and written as ONNX. This is the home of torch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks import states, values, wraps
from lowres_seg.export.frameworks.causes import cause_of
from lowres_seg.export.frameworks.checkpoints import checkpoint, damage, kind_of, members
from lowres_seg.export.frameworks.decompositions import Decomposed
from lowres_seg.export.frameworks.dropout import Sampled
from lowres_seg.export.frameworks.outputs import Outputs
from lowres_seg.export.frameworks.parts import Parts
from lowres_seg.runtime.engine import ResidentEngine

#: Importers ask here for `checkpoint` and `kind_of` too, whose home is `checkpoints`.
__all__ = ["TorchNetwork", "checkpoint", "kind_of", "load_torchscript", "set_threads", "version", "with_state"]

Shape = tuple[int, ...]
#: Kinds of value that weights may have.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class TorchNetwork(ResidentEngine):
    """A network in eval mode, on the CPU, in float32.

    Attributes
    ----------
    module : torch.nn.Module
    running_norms : int
        Number of its instance norms with running statistics. At inference they are constant affine maps.
    outputs : Outputs
        Which of its outputs holds the scores.
    masks : tuple of DropoutMask
        Those that it takes behind its input, of dropout layers that are kept on.
    weights_key : str
        Key of the checkpoint under which its state was; empty if it was loaded as TorchScript.
    """

    module: Any
    running_norms: int
    outputs: Outputs = field(default_factory=Outputs)
    weights_key: str = ""
    masks: tuple[DropoutMask, ...] = ()

    def run(self, x: NDArray[np.float32], masks: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float32]:
        """Compute the scores (1, C, D, H, W) of one input. Without `masks` dropout is off.

        Raises
        ------
        ExportError
            If the network fails, or does not give one 5D tensor.
        """
        with torch.inference_mode():
            try:
                result = self.module(*map(torch.from_numpy, (np.ascontiguousarray(x), *masks)))
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot run the network on {x.shape} ({cause_of(error)})") from error
        if not isinstance(result, torch.Tensor) or result.ndim != 5:
            found = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ExportError(f"the network gives {found}, expected one tensor (1, C, D, H, W)")
        return np.asarray(result.numpy())

    def run_in_double(self, x: NDArray[np.float32], masks: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float64]:
        """Compute the scores of one input with weights and sums in float64.

        Raises
        ------
        ExportError
            If the network computes in float32 whatever its input is.
        """
        with torch.inference_mode():
            try:
                given = [torch.from_numpy(one).double() for one in (np.ascontiguousarray(x), *masks)]
                result = self.module.double()(*given)
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot run the network in float64 ({cause_of(error)})") from error
            finally:
                self.module.float()  # its weights were float32, so nothing is lost
        return np.asarray(result.numpy(), dtype=np.float64)

    def statistics(self) -> dict[str, NDArray[np.float32]]:
        """Running means and variances of its norms, by name."""
        return {
            name: buffer.numpy().copy()
            for name, buffer in self.module.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        }

    def adopt(self, statistics: Mapping[str, NDArray[np.float32]]) -> None:
        """Set running means and variances.

        Raises
        ------
        ExportError
            If their names or shapes are not those of the network's norms.
        """
        own = {name: buffer for name, buffer in self.module.named_buffers() if name in self.statistics()}
        if set(own) != set(statistics) or any(own[n].shape != a.shape for n, a in statistics.items()):
            raise ExportError("the statistics of norms are those of another network")
        for name, array in statistics.items():
            own[name].copy_(torch.from_numpy(array))

    def measure(self, inputs: Sequence[NDArray[np.float32]]) -> None:
        """Set running means and variances to the mean of those that the norms measure on some inputs."""
        norms = [m for m in self.module.modules() if getattr(m, "running_mean", None) is not None]
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
            norm.train()
        with torch.no_grad():
            for x in inputs:
                self.module(torch.from_numpy(x))
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()

    def compiled(self) -> TorchNetwork:
        """The network behind ``torch.compile``. Its first run compiles it."""
        return replace(self, module=torch.compile(self.module))

    def keeping(self, channels: Sequence[int]) -> TorchNetwork:
        """The network with some channels of its scores, in a row."""
        return self.within(lambda module: wraps.Kept(module, channels))

    def within(self, wrap: Callable[[Any], Any]) -> TorchNetwork:
        """The network within a further module."""
        return replace(self, module=wrap(self.module))

    def sampled(self, shape: Shape) -> TorchNetwork:
        """The network with its dropout layers kept on, for inputs of `shape`.

        Raises
        ------
        ExportError
            If it has no dropout layers, or other ones.
        """
        module = Sampled(self.module)
        return replace(self, module=module, masks=module.masks(shape))

    def _example(self, shape: Shape) -> tuple[torch.Tensor, ...]:
        """Tensors that it takes for an input of `shape`."""
        return torch.zeros(shape), *(torch.ones(mask.shape) for mask in self.masks)

    def given(self, parts: Parts | None) -> TorchNetwork:
        """The network on one tensor, whose channels are those of the `parts` that it takes.

        Raises
        ------
        ExportError
            If it takes another number of tensors.
        """
        wraps.taken(self.module).check(parts)
        return self if parts is None else self.within(lambda module: wraps.Split(module, parts))

    @property
    def traced(self) -> bool:
        """True if its TorchScript is a trace; false if it was loaded as TorchScript."""
        return not isinstance(wraps.innermost(self.module), torch.jit.ScriptModule)

    def script(self, shape: Shape, *, frozen: bool = False) -> Any:
        """TorchScript of the network for inputs of `shape`: traced, unless it was loaded as TorchScript.

        With `frozen` constants are inlined, so that OpenVINO knows the shapes that are computed from them.

        Raises
        ------
        ExportError
            If the network cannot be traced, or it does not follow which of its outputs holds the scores.
        """
        if isinstance(self.module, torch.jit.ScriptModule):
            return self.module
        with _quiet(), torch.no_grad():
            try:
                # Parity compares with the module itself, so torch need not trace it a second time to check. A trace of
                # TorchScript keeps its branches.
                with Decomposed():
                    traced = torch.jit.trace(self.module, self._example(shape), check_trace=False)
                frozen |= not self.traced
                return torch.jit.freeze(traced.eval(), optimize_numerics=False) if frozen else traced
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot trace the network ({cause_of(error)})") from error

    def check_values(self, shape: Shape) -> None:
        """Check that a trace of the network would serve every input of `shape`. TorchScript keeps its branches.

        Raises
        ------
        ExportError
            If its Python code reads values of its input, or it fails.
        """
        if not self.traced:
            self.run(np.zeros(shape, dtype=np.float32))
            return
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with _quiet():
            try:
                values.check(self.module, x, *self._example(shape)[1:])
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot trace the network ({cause_of(error)})") from error

    def program(self, shape: Shape) -> Any:
        """Program of torch.export of the network for inputs of `shape`.

        Raises
        ------
        ExportError
            If torch.export cannot express the network.
        """
        with _quiet(), torch.no_grad(), Decomposed():
            try:
                return torch.export.export(self.module, self._example(shape), strict=False)
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot export the network ({cause_of(error)})") from error

    def to_onnx(self, path: Path, shape: Shape) -> None:
        """Write as ONNX, for inputs of `shape`, weights inside.

        Raises
        ------
        ExportError
            If torch cannot express the network in ONNX.
        """
        script = not self.traced
        # torch.export reads Python and not TorchScript, so a TorchScript file needs the older exporter.
        options: dict[str, Any] = (
            {"dynamo": False, "opset_version": 18}
            if script
            else {"dynamo": True, "external_data": False, "verbose": False}
        )
        with _quiet():
            try:
                torch.onnx.export(
                    self.script(shape) if script else self.module,
                    self._example(shape),
                    str(path),
                    input_names=["input", *(f"mask_{place}" for place in range(len(self.masks)))],
                    output_names=["scores"],
                    **options,
                )
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"torch cannot write the network as ONNX ({cause_of(error)})") from error


def set_threads(threads: int) -> None:
    """Set the number of threads that torch computes with in this process."""
    torch.set_num_threads(threads)


def load_torchscript(path: Path, output: int | str | None = None) -> TorchNetwork:
    """Load a TorchScript archive.

    Parameters
    ----------
    path : pathlib.Path
    output : int or str, optional
        Which of its outputs holds the scores.

    Raises
    ------
    ExportError
        If the file is not a TorchScript archive, or is damaged.
    """
    members(path)  # says why an archive that is cut off cannot be read
    with _quiet():
        try:
            module = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            reason = damage(error) or cause_of(error)
            raise ExportError(f"{path}: cannot be read as TorchScript ({reason})") from error
    module = module.eval().float()
    running = sum(_is_running_norm(m) for m in module.modules())
    outputs = Outputs(output)
    if output is None and all(one.type.kind() == "TensorType" for one in module.forward.schema.returns):
        return TorchNetwork(module, running, outputs)
    return TorchNetwork(wraps.OneOutput(module, outputs), running, outputs)


def with_state(
    module: Any,
    content: Mapping[str, Any],
    key: str | None,
    path: Path,
    factory: str,
    output: int | str | None = None,
) -> TorchNetwork:
    """Give a module the state that a checkpoint holds for it. Names and shapes must be the module's own.

    Parameters
    ----------
    module : torch.nn.Module
    content : mapping
        The checkpoint.
    key : str or None
        Key of the state; None finds it.
    path : pathlib.Path
        The file, for messages.
    factory : str
        What gave `module`, for messages.
    output : int or str, optional
        Which of its outputs holds the scores.

    Raises
    ------
    ExportError
        If `module` is no torch.nn.Module, or not exactly one state of the checkpoint fits it.
    """
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"{factory}: gave {type(module).__name__}, expected a torch.nn.Module")
    module = module.eval().float()
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    state = states.find(content, {name: tuple(value.shape) for name, value in own.items()}, key, path, factory)
    given = {name: _as_tensor(value) for name, value in state.tensors.items()}
    for name, tensor in given.items():
        _check_kind(name, tensor, own[name], path, factory)
    module.load_state_dict({**module.state_dict(), **given})
    outputs = Outputs(output)
    module.register_forward_hook(lambda _, inputs, result: outputs.one(result, inputs[0].shape))
    return TorchNetwork(module, sum(_is_running_norm(m) for m in module.modules()), outputs, state.key)


def _as_tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))


def _check_kind(name: str, given: torch.Tensor, own: torch.Tensor, path: Path, factory: str) -> None:
    """Check that a tensor holds values of the network's kind. Any of `_FLOATS` becomes float32."""
    if own.is_floating_point():
        fits = given.dtype in _FLOATS
    elif name.endswith("num_batches_tracked"):
        fits = True  # means of states, such as EMA's, make it a float
    else:
        fits = (given.dtype == torch.bool) == (own.dtype == torch.bool) and (
            given.is_complex() == own.is_complex() and not given.is_floating_point()
        )
    if not fits:
        found, expected = (str(kind).removeprefix("torch.") for kind in (given.dtype, own.dtype))
        raise ExportError(
            f"{path}: {name} holds {found}, the network of {factory} expects {expected}; "
            "save the weights as they are before they are quantized or cast"
        )


def version() -> str:
    """Version of torch."""
    return str(torch.__version__)


def _is_running_norm(module: Any) -> bool:
    name = getattr(module, "original_name", type(module).__name__)
    return str(name).startswith("InstanceNorm") and "running_mean" in dict(module.named_buffers(recurse=False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch tells while it exports: warnings, logs and prints. What fails raises an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        unread = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
