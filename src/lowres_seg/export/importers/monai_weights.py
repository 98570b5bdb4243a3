"""The files of weights of a MONAI bundle's networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.monai_config import Config, Role
from lowres_seg.export.importers.monai_operations import WRAPPERS
from lowres_seg.export.importers.monai_values import UnreadableError, is_same, leaves, short

#: Keys under which MONAI saves the network's state. Without one of them, or with both, the state that fits is found.
CHECKPOINT_KEYS = ("model", "state_dict")
#: Files of the members of an ensemble, such as model_0.pt or model1.pt.
_NUMBERED = re.compile(r"(model[_-]?)(\d+)(\.(?:pt|pth|ts))")


def weights(config: Config, network: Role, place: int = 0, count: int = 1) -> tuple[Path, Sequence[str]]:
    """File of weights of a network, and keys under which the state may be.

    Parameters
    ----------
    config : Config
        A note is added to it where no loader says which file.
    network : Role
        Its entry is the network, without its wrappers.
    place, count : int
        Which member of an ensemble of how many networks it is.

    Raises
    ------
    ExportError
        If the path of a CheckpointLoader cannot be read or lies outside the bundle, or nothing says which of several
        files belongs to a member.
    """
    own, all_loaders = _loaders(config)
    if not all_loaders:
        _check_no_other_loads(config)
        return (
            config.folder / "models" / "model.pt" if count == 1 else _numbered(config, place, count)
        ), CHECKPOINT_KEYS
    loaders = own or all_loaders
    named = [(key, names) for key in loaders if (names := _names(config, key, network))]
    if not named and count > 1:
        named = [(key, names) for key in all_loaders if (names := _names(config, key, network))]
        for key in all_loaders:
            config.used(config.at(f"{key}#load_dict"))
    if not named and count > 1:
        raise ExportError(
            f"{config.where(network.key)}: is a network of the ensemble, and no CheckpointLoader has it in its "
            "load_dict; expected one for each network"
        )
    # The last one that runs gives the weights.
    key, names = named[-1] if named else (loaders[-1], [])
    path, where = config.used(config.at(f"{key}#load_path")), config.where(f"{key}#load_path")
    if not isinstance(path, str):
        raise ExportError(f"{where}: is {short(path)}, expected the path of a checkpoint")
    try:
        file = config.file(path)
    except UnreadableError as error:
        raise ExportError(f"{where}: {error}; put the file into models, and name it relative to the bundle") from error
    return file, names[:1] or CHECKPOINT_KEYS


def checkpoint_key(content: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The one of some keys under which a checkpoint has a state; None if it has none, or several."""
    found = [key for key in keys if isinstance(content.get(key), Mapping)]
    return found[0] if len(found) == 1 else None


def unwrapped(entry: Any) -> Any:
    """The network within wrappers that change nothing of its inference."""
    while isinstance(entry, dict) and entry.get("_target_") in WRAPPERS:
        inner = [entry[name] for name in ("module", "model") if name in entry]
        if not inner:
            break
        (entry, *_) = inner
    return entry


def _names(config: Config, loader: str, network: Role) -> list[str]:
    """Names under which a loader loads a network."""
    objects = config.at(f"{loader}#load_dict")
    if not isinstance(objects, dict):
        return []
    return [str(name) for name, one in objects.items() if is_same(unwrapped(one), network.entry)]


def _loaders(config: Config) -> tuple[list[str], list[str]]:
    """Keys of the loaders of the evaluator, and of all but those of training, in the order in which they run."""
    found = [key for key in config.components("CheckpointLoader") if not key.startswith("train")]
    own = [key for key in found if key.startswith(("handlers#", "evaluator#", "validate#", "val_handlers#"))]
    return own, found


def _check_no_other_loads(config: Config) -> None:
    """Check that no expression loads weights where no CheckpointLoader does. Raises ExportError if one does."""
    for place, text in leaves(config.content, ""):
        loads = ("load_state_dict", "CheckpointLoader(")
        if isinstance(text, str) and text.startswith("$") and any(load in text for load in loads):
            raise ExportError(
                f"{config.where(place.lstrip('#'))} loads weights by the expression {short(text)}, and no code of a "
                "bundle is run; expected a CheckpointLoader with their path"
            )


def _numbered(config: Config, place: int, count: int) -> Path:
    """File of a member among files that are numbered. Raises ExportError unless there is one such series."""
    folder = config.folder / "models"
    series: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for file in folder.glob("model*"):
        match = _NUMBERED.fullmatch(file.name)
        if match is not None:
            series.setdefault((match[1], match[3]), []).append((int(match[2]), file))
    ordered = [sorted(one) for one in series.values()]
    numbers = [[number for number, _ in one] for one in ordered]
    if len(ordered) != 1 or numbers[0] not in ([*range(count)], [*range(1, count + 1)]):
        there = ", ".join(sorted(file.name for file in folder.glob("*.*"))[:12]) or "nothing"
        raise ExportError(
            f"{config.path}: has no CheckpointLoader for {count} networks, and models has {there}; expected a "
            f"CheckpointLoader for each, or model_0.pt to model_{count - 1}.pt alone"
        )
    files = [file for _, file in ordered[0]]
    config.notes.append(
        f"{config.path}: has no CheckpointLoader, so models/{files[0].name} to {files[-1].name} are the weights of "
        "the networks in their order"
    )
    return files[place]
