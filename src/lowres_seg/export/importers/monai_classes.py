"""Classes of MONAI by name, and networks built from them. This is the home of monai."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch

from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.faults import near
from lowres_seg.export.frameworks.slices import takes_slices
from lowres_seg.export.importers.monai_values import is_disabled
from lowres_seg.extras import require

NETS = "monai.networks.nets"
#: Arguments that MONAI took under another name before.
_RENAMED = {"dimensions": "spatial_dims", "pos_embed": "proj_type"}
#: Arguments that MONAI no longer takes, and that never changed what a network computes.
_DROPPED = {"SwinUNETR": ("img_size",)}
#: Arguments that only matter to training, with the value that leaves the network as it is at inference: memory is not
#: saved, and weights that are replaced anyway are not downloaded.
_TRAINING = {"use_checkpoint": False, "pretrained": False}
#: Packages whose layers a network may be given.
_LAYERS = ("monai.networks.", "torch.nn.")
_ARRAYS = ("numpy.array", "torch.tensor")
Finder = Callable[[str, str], Callable[..., Any]]


def is_network(target: str) -> bool:
    """Tell whether a target may be a class of `NETS`: by its short name, or by its full name."""
    return re.fullmatch(rf"(?:{re.escape(NETS)}\.(?:\w+\.)*)?\w+", target) is not None


def constant(name: str) -> str | None:
    """Value of a constant such as ``monai.utils.CommonKeys.IMAGE`` or ``monai.networks.layers.Norm.BATCH``, or None."""
    layer = re.fullmatch(r"monai\.networks\.layers\.(?:factories\.)?(\w+)\.([A-Z]\w*)", name)
    if layer is not None:
        with _quiet():
            from monai.networks.layers import factories

            kinds = getattr(factories, layer[1], None)
        return layer[2] if isinstance(kinds, factories.LayerFactory) and layer[2] in kinds.names else None
    match = re.fullmatch(r"monai\.utils\.(?:enums\.)?(\w+)\.([A-Za-z]\w*)", name)
    if match is None:
        return None
    with _quiet():
        from monai.utils import enums

        kind = getattr(enums, match[1], None)
        members = kind.__members__ if isinstance(kind, type) and hasattr(kind, "__members__") else {}
    return str(members[match[2]].value) if match[2] in members else None


def arguments_taken(name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Arguments that the installed MONAI takes, and a note on each other one.

    Parameters
    ----------
    name : str
        Class of `NETS`.
    arguments : mapping
        As the bundle gives them, which an older MONAI took.

    Raises
    ------
    MissingExtraError
        If MONAI is not installed.
    ExportError
        If there is no such network, or it takes other arguments.
    """
    kind = _network_class(name)
    taken = inspect.signature(kind).parameters
    given, notes = dict(arguments), []
    for old, new in _deprecated(kind):
        if old in given:
            value = given.pop(old)
            notes.append(f"network: MONAI has deprecated {old} of {name} (it was {value}); it was left out")
            if new is not None and new in taken:
                given.setdefault(new, value)
                notes[-1] = f"network: MONAI has deprecated {old} of {name}; its value was given as {new}"
    for old, new in _RENAMED.items():
        if old in given and old not in taken and new in taken and new not in given:
            given[new] = given.pop(old)
            notes.append(f"network: {name} of the installed MONAI calls {old} {new}")
    dropped = [old for old in _DROPPED.get(name, ()) if old in given and old not in taken]
    notes += [f"network: {name} of the installed MONAI takes no {old} (it was {given.pop(old)})" for old in dropped]
    for argument, value in _TRAINING.items():
        if argument in given and argument in taken:
            given[argument] = value
    strange = [key for key in given if key not in taken]
    if strange:
        raise ExportError(
            f"network_def: {name} of the installed MONAI takes no {strange[0]}{near(strange[0], taken)}; "
            "install the version that metadata.json names, or save the network as models/model.ts"
        )
    _check_layers(given, "")
    return given, notes


def arguments_needed(name: str) -> list[str]:
    """Arguments of a network without which it cannot be built.

    Raises
    ------
    MissingExtraError
        If MONAI is not installed.
    ExportError
        If there is no such network.
    """
    taken = inspect.signature(_network_class(name)).parameters.values()
    named = [one for one in taken if one.kind is not one.VAR_POSITIONAL and one.kind is not one.VAR_KEYWORD]
    return [one.name for one in named if one.default is one.empty]


def is_flat(name: str, arguments: Mapping[str, Any]) -> bool:
    """Tell whether a network takes slices, by its arguments or as its class is by default."""
    taken = inspect.signature(_network_class(name)).parameters
    usual = taken["spatial_dims"].default if "spatial_dims" in taken else 3
    return bool(arguments.get("spatial_dims", arguments.get("dimensions", usual)) == 2)


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a network of MONAI.

    A network of two dimensions takes and gives 5D arrays with one axis of length 1.

    Parameters
    ----------
    name : str
        Class of ``monai.networks.nets``.
    arguments : mapping
        Arguments of its constructor. A value with a ``_target_`` is a layer of MONAI or torch, or an array.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    MissingExtraError
        If MONAI is not installed.
    ExportError
        If there is no such network, or it takes other arguments.
    """
    given, _ = arguments_taken(name, arguments)
    kind = _network_class(name)
    parts = {key: built(value, key) for key, value in given.items()}
    built_network = _constructed(kind, parts, f"network_def: {name}")
    return takes_slices(built_network) if is_flat(name, given) else built_network


def built(value: Any, where: str, find: Finder | None = None) -> Any:
    """A value with the layers and arrays in it built. `find` gives the class of a target; by default `layer_class`.

    Raises
    ------
    ExportError
        If a target is no layer of MONAI or torch, and no array.
    """
    if isinstance(value, list):
        return [built(one, where, find) for one in value if not (isinstance(one, dict) and is_disabled(one))]
    if not isinstance(value, dict):
        return value
    target = value.get("_target_")
    parts = {key: built(one, f"{where}#{key}", find) for key, one in value.items() if not _is_about(key)}
    if target is None:
        return parts
    if target == "numpy.array":
        return np.array(parts["object"], dtype=parts["dtype"])
    if target == "torch.tensor":
        return torch.from_numpy(np.array(parts["object"], dtype=parts["dtype"]))
    return _constructed((find or layer_class)(str(target), where), parts, f"network_def#{where}: {target}")


def _check_layers(value: Any, where: str) -> None:
    """Check that every target in arguments is a layer or an array, before anything is built."""
    if isinstance(value, dict) and value.get("_mode_", "default") not in ("default", "debug"):
        raise ExportError(f"network_def#{where}: _mode_ is {str(value['_mode_'])[:40]}, expected default")
    if isinstance(value, dict) and value.get("_target_", "numpy.array") not in _ARRAYS:
        layer_class(str(value["_target_"]), where)
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _check_layers(one, f"{where}#{key}" if where else str(key))


def layer_class(target: str, where: str) -> type[torch.nn.Module]:
    """Class of a layer, by its full name, or by its short name if it is a network.

    Raises
    ------
    ExportError
        If it is anything else.
    """
    if "." not in target:
        return _network_class(target)
    module, _, name = target.rpartition(".")
    found = None
    if target.startswith(_LAYERS) and re.fullmatch(r"[\w.]+", target) and "__" not in target:
        with _quiet(), contextlib.suppress(ImportError):
            found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ExportError(
            f"network_def#{where}: is {target[:100]}, expected a layer of monai.networks or torch.nn; "
            "save the network as models/model.ts"
        )
    return found


def _deprecated(kind: type[torch.nn.Module]) -> list[tuple[str, str | None]]:
    """Arguments that MONAI marks with deprecated_arg, and the name that replaces each."""
    found, function = [], kind.__init__
    while hasattr(function, "__wrapped__"):
        told = inspect.getclosurevars(function).nonlocals
        if {"name", "is_removed", "argname"} <= set(told) and "old_default" not in told:
            found.append((str(told["name"]), told.get("new_name")))
        function = function.__wrapped__
    return found


def _network_class(name: str) -> type[torch.nn.Module]:
    require("monai")
    with _quiet():
        from monai.networks import nets
    modules = [module for module in vars(nets).values() if inspect.ismodule(module)]
    found = (getattr(home, name, None) for home in (nets, *modules))
    for kind in found:
        if isinstance(kind, type) and kind.__module__.startswith(NETS) and issubclass(kind, torch.nn.Module):
            return kind
    meant = near(name, [kind.__name__ for kind in vars(nets).values() if isinstance(kind, type)])
    raise ExportError(f"network: {name} is no network of {NETS}{meant or '; save it as models/model.ts'}")


def _constructed(kind: Callable[..., Any], arguments: Mapping[str, Any], what: str) -> Any:
    """A network or layer. JSON has no tuples, so where lists do not fit the same values are given as tuples."""
    with _quiet():
        try:
            return kind(**arguments)
        except Exception as error:  # noqa: BLE001 - MONAI's constructors raise anything
            try:
                return kind(**{key: _tuples(value) for key, value in arguments.items()})
            except Exception:  # noqa: BLE001 - the first error says what is wrong
                raise ExportError(f"{what} cannot be built from its arguments ({one_line(error)})") from error


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    return {key: _tuples(one) for key, one in value.items()} if isinstance(value, dict) else value


def _is_about(key: str) -> bool:
    return key.startswith("_") and key.endswith("_")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and prints of MONAI."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
