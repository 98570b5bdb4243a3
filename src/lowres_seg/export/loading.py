"""From what a user names to a recipe, and from an entry of a recipe to a network in torch."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lowres_seg import extras
from lowres_seg.errors import ExportError, LowresSegError, MissingExtraError
from lowres_seg.export import importers
from lowres_seg.export.frameworks import states, wraps
from lowres_seg.export.frameworks.causes import cause_of
from lowres_seg.export.frameworks.checkpoints import checkpoint, kind_of
from lowres_seg.export.frameworks.parts import Parts
from lowres_seg.export.frameworks.torch_network import TorchNetwork, load_torchscript, with_state
from lowres_seg.export.importers import Source
from lowres_seg.export.recipe import NetworkSource, with_source


def read_source(source: Path, described_by: Path | None, options: Mapping[str, Any]) -> Source:
    """Read what to export: a recipe, a framework's folder, or a file of weights with the recipe that describes it.

    Parameters
    ----------
    source : pathlib.Path
    described_by : pathlib.Path or None
        Recipe of a file of weights.
    options : mapping of str to value
        Options of the importer.

    Raises
    ------
    ExportError
        If the source cannot be read; if a file of weights comes without a recipe, or a recipe with another one.
    """
    of_weights = described_by is not None and source.is_file() and source.suffix != ".toml"
    if not of_weights and (source.is_dir() or importers.reads(source)):
        if described_by is not None:
            raise ExportError(f"{source}: says all that is needed itself; --recipe goes with a file of weights")
        return importers.read(source, options)
    kind = "onnx" if source.suffix == ".onnx" else kind_of(source)
    if described_by is None:
        raise ExportError(
            f"{source}: does not say which channels, grid and intensities its network expects; "
            "name a recipe.toml with --recipe"
        )
    found = importers.read(described_by, options)
    return replace(found, recipe=with_source(found.recipe, source, kind))


def load_network(
    source: NetworkSource, weights: Path, home: Path, parts: Parts | None = None, shape: tuple[int, ...] = ()
) -> TorchNetwork:
    """Load a network of a recipe from its file of weights.

    Parameters
    ----------
    source : NetworkSource
    weights : pathlib.Path
    home : pathlib.Path
        Folder of the recipe.
    parts : sequence of sequence of int, optional
        The tensors that it takes, as `Recipe.parts` gives them.
    shape : tuple of int
        Of its input, for a network whose dropout is kept on.

    Raises
    ------
    ExportError
        If it cannot be loaded, takes another number of tensors, or is an ONNX file, which torch does not run.
    """
    network = _with_all_channels(source, weights, home)
    network = (network.within(wraps.Flat) if source.slices else network).given(parts)
    kept = network if source.channels is None else network.keeping(source.channels)
    how = source.resize_scores
    resized = kept if how is None else kept.within(partial(wraps.Resized, how=how))
    return resized.sampled(shape) if source.dropout else resized


def _with_all_channels(source: NetworkSource, weights: Path, home: Path) -> TorchNetwork:
    if source.torchscript is not None:
        return load_torchscript(weights, source.output)
    if source.checkpoint is None:
        raise ExportError(f"{weights}: is an ONNX file, which torch does not run")
    factory = source.factory or ""
    owner, _, name = factory.partition(":")
    try:
        if owner.endswith(".py"):
            module = _function(home, factory)(**source.arguments)
        else:
            module = importers.importer(owner).network(name, source.arguments)
    except LowresSegError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(factory, error) from error
    except Exception as error:  # the recipe's own code may raise anything
        given = ", ".join(source.arguments) or "no arguments"
        raise ExportError(f"{factory}: cannot build the network from {given} ({cause_of(error)})") from error
    content, key = checkpoint(weights), source.checkpoint_key
    if source.convert is None:
        return with_state(module, content, key, weights, factory, source.output)
    convert = _function(home, source.convert)
    takes_network = len(inspect.signature(convert).parameters) > 1
    taken = content if takes_network and key is None else states.plain(content, key, weights)
    state = convert(taken, module) if takes_network else convert(taken)
    if state is taken:  # the network's own
        return with_state(module, content, key, weights, factory, source.output)
    return replace(with_state(module, state, states.TOP, weights, factory, source.output), weights_key=key or "")


def _missing(factory: str, error: ModuleNotFoundError) -> LowresSegError:
    """The error of code of a recipe that imports a package which is not installed."""
    package = (error.name or "").partition(".")[0]
    extra = extras.providing(package)
    if extra is None:
        return ExportError(f"{factory}: needs {package or error}, not installed here; install it beside lowres-seg")
    return MissingExtraError(f"{factory} needs {package}, not installed here: {extras.how_to_install(extra)}")


def _function(home: Path, factory: str) -> Callable[..., Any]:
    """Function ``file.py:function`` of a recipe's folder."""
    file, _, function = factory.partition(":")
    path = home / file
    spec = importlib.util.spec_from_file_location(f"lowres_seg_recipe_{home.name}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExportError(f"{path}: not found; the recipe's factory is {factory}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ExportError(f"{path}: has no {function}; the recipe's factory is {factory}")
    found: Callable[..., Any] = getattr(module, function)
    return found
