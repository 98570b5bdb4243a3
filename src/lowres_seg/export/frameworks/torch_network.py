"""Networks in torch: loaded, run, traced, and written as ONNX. This is the home of torch."""

from __future__ import annotations

import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowres_seg.errors import ExportError, last_line
from lowres_seg.runtime.engine import ResidentEngine

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TorchNetwork(ResidentEngine):
    """A network in eval mode, on the CPU, in float32.

    Attributes
    ----------
    module : torch.nn.Module
    running_norms : int
        Number of its instance norms with running statistics. At inference they are constant affine maps.
    """

    module: Any
    running_norms: int

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the scores (1, C, D, H, W) of one input.

        Raises
        ------
        ExportError
            If the network fails, or does not give one 5D tensor.
        """
        with torch.inference_mode():
            try:
                result = self.module(torch.from_numpy(np.ascontiguousarray(x)))
            except (RuntimeError, TypeError, ValueError) as error:
                raise ExportError(f"torch cannot run the network on {x.shape} ({last_line(error)})") from error
        if not isinstance(result, torch.Tensor) or result.ndim != 5:
            found = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ExportError(f"the network gives {found}, expected one tensor (1, C, D, H, W); prune other heads")
        return np.asarray(result.numpy())

    def run_in_double(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Compute the scores of one input with weights and sums in float64.

        Raises
        ------
        ExportError
            If the network computes in float32 whatever its input is.
        """
        with torch.inference_mode():
            try:
                result = self.module.double()(torch.from_numpy(np.ascontiguousarray(x)).double())
            except (RuntimeError, TypeError, ValueError) as error:
                raise ExportError(f"torch cannot run the network in float64 ({last_line(error)})") from error
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
        return TorchNetwork(torch.compile(self.module), self.running_norms)

    @property
    def traced(self) -> bool:
        """True if its TorchScript is a trace; false if it was loaded as TorchScript."""
        return not isinstance(self.module, torch.jit.ScriptModule)

    def script(self, shape: Shape, *, frozen: bool = False) -> Any:
        """TorchScript of the network for inputs of `shape`: traced, unless it was loaded as TorchScript.

        With `frozen` constants are inlined, so that OpenVINO knows the shapes that are computed from them.

        Raises
        ------
        ExportError
            If the network cannot be traced.
        """
        if not self.traced:
            return self.module
        with _quiet(), torch.no_grad():
            try:
                # Parity compares with the module itself, so torch need not trace it a second time to check.
                traced = torch.jit.trace(self.module, torch.zeros(shape), check_trace=False)
                return torch.jit.freeze(traced.eval(), optimize_numerics=False) if frozen else traced
            except (RuntimeError, TypeError, ValueError) as error:
                raise ExportError(f"torch cannot trace the network ({last_line(error)})") from error

    def to_onnx(self, path: Path, shape: Shape) -> None:
        """Write as ONNX, for inputs of `shape`, weights inside.

        Raises
        ------
        ExportError
            If torch cannot express the network in ONNX.
        """
        script = isinstance(self.module, torch.jit.ScriptModule)
        # torch.export reads Python and not TorchScript, so a TorchScript file needs the older exporter.
        options: dict[str, Any] = (
            {"dynamo": False, "opset_version": 18}
            if script
            else {"dynamo": True, "external_data": False, "verbose": False}
        )
        with _quiet():
            try:
                torch.onnx.export(
                    self.module,
                    (torch.zeros(shape),),
                    str(path),
                    input_names=["input"],
                    output_names=["scores"],
                    **options,
                )
            except Exception as error:
                raise ExportError(f"torch cannot write the network as ONNX ({last_line(error)})") from error


def set_threads(threads: int) -> None:
    """Set the number of threads that torch computes with in this process."""
    torch.set_num_threads(threads)


def load_torchscript(path: Path) -> TorchNetwork:
    """Load a TorchScript archive.

    Raises
    ------
    ExportError
        If the file is not a TorchScript archive, or is damaged.
    """
    with _quiet():
        try:
            module = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            raise ExportError(f"{path}: cannot be read as TorchScript ({last_line(error)})") from error
    module = module.eval().float()
    return TorchNetwork(module, sum(_is_running_norm(m) for m in module.modules()))


def with_state(module: Any, state: Mapping[str, Any], path: Path, factory: str) -> TorchNetwork:
    """Give a module the state of a checkpoint. Names and shapes must be the module's own.

    Raises
    ------
    ExportError
        If `module`, which `factory` gave, is no torch.nn.Module, or the state at `path` does not fit it.
    """
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"{factory}: gave {type(module).__name__}, expected a torch.nn.Module")
    own = module.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        raise ExportError(
            f"{path}: does not fit the network of {factory}: {_some(missing, 'missing')}, {_some(unknown, 'unknown')}"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ExportError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, "
                f"the network of {factory} expects {tuple(tensor.shape)}"
            )
    module.load_state_dict(state)
    module = module.eval().float()
    return TorchNetwork(module, sum(_is_running_norm(m) for m in module.modules()))


def kind_of(path: Path) -> str:
    """Kind of a file of weights: ``torchscript`` for an archive that holds code, else ``checkpoint``.

    Raises
    ------
    ExportError
        If the file is missing.
    """
    if not path.is_file():
        raise ExportError(f"{path}: {'is a folder' if path.is_dir() else 'does not exist'}, expected a file of weights")
    if not zipfile.is_zipfile(path):
        return "checkpoint"
    with zipfile.ZipFile(path) as archive:
        parts = [name.split("/") for name in archive.namelist()]
    return "torchscript" if any(len(p) > 1 and p[1] in ("code", "constants.pkl") for p in parts) else "checkpoint"


def version() -> str:
    """Version of torch."""
    return str(torch.__version__)


def _is_running_norm(module: Any) -> bool:
    name = getattr(module, "original_name", type(module).__name__)
    return str(name).startswith("InstanceNorm") and "running_mean" in dict(module.named_buffers(recurse=False))


def checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint: tensors, plain containers and numpy's scalars; or the arrays of an ``.npz``. No code runs.

    Raises
    ------
    ExportError
        If it is damaged, or holds anything else.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        with _quiet(), torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path}: holds more than weights, or is no checkpoint; nothing of it was run. Save its state_dict alone"
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        IndexError,
        ValueError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise ExportError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__} {last_line(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise ExportError(f"{path}: holds {type(content).__name__}, expected a mapping of names to values")
    return content


def _numpy_scalars() -> list[Any]:
    """Names that the pickle of a numpy scalar uses. nnU-Net's checkpoints log losses as such scalars."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    # numpy 1 has the same function under another name.
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *kinds, *((scalar, name) for name in names)]


def state_of(path: Path, key: str | None) -> Mapping[str, Any]:
    """Weights of a checkpoint, by name: under `key`, or at the top if that is None.

    Raises
    ------
    ExportError
        If the checkpoint is damaged, has no such key, or holds no tensors there.
    """
    content = checkpoint(path)
    if key is not None:
        if key not in content:
            found = ", ".join(map(str, content))
            raise ExportError(f"{path}: has no {key!r}, where the recipe expects the weights; found {found[:200]}")
        content = content[key]
    if not all(isinstance(value, (torch.Tensor, np.ndarray)) for value in content.values()):
        raise ExportError(f"{path}: {key or 'it'} is no mapping of names to tensors; name the right checkpoint_key")
    return content


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} keys {what}" + (f" ({shown})" if names else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's warnings about its own deprecations and optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
