"""Networks in torch, from an entry of a recipe and its file of weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.torch_network import TorchNetwork, load_torchscript, state_of, with_state
from lowres_seg.export.recipe import NetworkSource


def load_network(source: NetworkSource, weights: Path, folder: Path) -> TorchNetwork:
    """Load what a recipe in `folder` says, from its file of weights.

    Raises
    ------
    ExportError
        If it cannot be loaded, or the recipe's source is an ONNX file, which torch does not run.
    """
    if source.torchscript is not None:
        return load_torchscript(weights)
    if source.checkpoint is None:
        raise ExportError(f"{weights}: is an ONNX file, which torch does not run")
    module = _built(source.factory or "", folder, source.arguments)
    state = state_of(weights, source.checkpoint_key)
    if source.convert is not None:
        state = _function(folder, source.convert)(state)
    return with_state(module, state, weights, source.factory or "")


def _built(factory: str, folder: Path, arguments: Mapping[str, Any]) -> Any:
    """A network, from a factory in `folder` or of a library."""
    library, _, name = factory.partition(":")
    if library == "nnunet":
        from lowres_seg.export.importers import nnunet_network

        return nnunet_network.network(name, **arguments)
    if library == "monai":
        from lowres_seg.export.importers import monai_bundle

        return monai_bundle.network(name, arguments)
    return _function(folder, factory)(**arguments)


def _function(folder: Path, factory: str) -> Callable[..., Any]:
    file, _, function = factory.partition(":")
    path = folder / file
    spec = importlib.util.spec_from_file_location(f"lowres_seg_recipe_{folder.name}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExportError(f"{path}: not found; the recipe's factory is {factory}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ExportError(f"{path}: has no {function}; the recipe's factory is {factory}")
    found: Callable[..., Any] = getattr(module, function)
    return found
