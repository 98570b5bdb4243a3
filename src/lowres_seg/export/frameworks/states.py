"""The network's state in a checkpoint, whatever it is wrapped in.

A checkpoint is looked at as one flat table: names of nested mappings are joined by dots. A state fits where every name
of the network stands behind one prefix, such as ``state_dict.model.`` of Lightning or ``module.`` of DataParallel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError

#: Parts that wrappers put between the names of a network. They are left out where the network has none.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Name of the top of a checkpoint, where a choice needs one.
TOP = "."
#: Norms count their batches. Nothing at inference depends on it, and old checkpoints do not have it.
_COUNTER = "num_batches_tracked"
_WANTED = "expected the network that was trained, built with the same arguments"
_DEEPEST, _LONGEST = 6, 64
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Value:
    """A tensor, and the mapping of the checkpoint that it lies in."""

    home: tuple[str, ...]
    tensor: Any


@dataclass(frozen=True)
class State:
    """Tensors by the names that the network has for them, and the key of the checkpoint that they lie under."""

    key: str
    tensors: dict[str, Any]


def find(content: Mapping[str, Any], own: Shapes, key: str | None, path: Path, factory: str) -> State:
    """Find the state that fits a network.

    Parameters
    ----------
    content : mapping
        The checkpoint.
    own : mapping of str to shape
        Names of the network's state, and their shapes.
    key : str or None
        Where to look; None looks everywhere.
    path : pathlib.Path
        The file, for messages.
    factory : str
        What built the network, for messages.

    Raises
    ------
    ExportError
        If none fits, or several different ones do.
    """
    table = dict(_flat(content))
    empty = key is not None and content.get(key) == {}
    if key is not None and key != TOP and not empty and not any(_under(name, key) for name in table):
        raise ExportError(_no_such_key(content, table, own, key, path))
    fits: list[State] = []
    misfit = ""
    least = sum(not name.endswith(_COUNTER) for name in own)
    for names in (table, _unwrapped(table, own)):
        for cut in _cuts(own):
            for prefix in _prefixes(names, own, cut, least):
                state = _state(names, prefix, own, cut)
                if not _chosen(state.key, key) or _differences(names, prefix, own, cut) != ([], []):
                    continue
                wrong = [name for name, tensor in state.tensors.items() if tuple(tensor.shape) != own[name]]
                if not wrong:
                    fits.append(state)
                elif not misfit:
                    found, others = tuple(state.tensors[wrong[0]].shape), len(wrong) - 1
                    misfit = f"{wrong[0]} has shape {found}, the network of {factory} expects {own[wrong[0]]}"
                    misfit += f" ({others + 1} shapes differ)" if others else ""
            if fits:
                return _only(fits, key, path, factory)
    if misfit:
        raise ExportError(f"{path}: {misfit}; {_WANTED}")
    raise ExportError(f"{path}: does not fit the network of {factory}: {_mismatch(table, own, key)}; {_WANTED}")


def plain(content: Mapping[str, Any], key: str | None, path: Path) -> Mapping[str, Any]:
    """Tensors by name as they stand under `key`, or at the top if that is None: what a recipe's `convert` takes.

    Raises
    ------
    ExportError
        If there is no such key, or it holds no tensors.
    """
    if key is not None and key != TOP:
        if key not in content:
            raise ExportError(_no_key(content, key, path))
        content = content[key]
    found: Any = content
    if not isinstance(found, Mapping) or not all(_is_tensor(value) for value in found.values()):
        raise ExportError(_no_tensors(key, path))
    return found


def _flat(content: Any, home: tuple[str, ...] = ()) -> Iterator[tuple[str, _Value]]:
    if len(home) > _DEEPEST:
        return
    listed = isinstance(content, (list, tuple)) and len(content) <= _LONGEST
    pairs = enumerate(content) if listed else content.items() if isinstance(content, Mapping) else ()
    for name, value in pairs:
        if _is_tensor(value):
            yield ".".join((*home, str(name))), _Value(home, value)
        elif isinstance(value, (Mapping, list, tuple)):
            yield from _flat(value, (*home, str(name)))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")


def _unwrapped(table: Mapping[str, _Value], own: Shapes) -> dict[str, _Value]:
    """The table without the parts of wrappers; empty if that makes two names one."""
    strange = WRAPPERS - {part for name in own for part in name.split(".")}
    short = {".".join(part for part in name.split(".") if part not in strange): name for name in table}
    return {new: table[old] for new, old in short.items()} if len(short) == len(table) else {}


def _cuts(own: Shapes) -> list[str]:
    """Prefixes of the network's own names that a checkpoint may lack: those that all names have."""
    cuts, names = [""], list(own)
    while names and all("." in name for name in names) and len({name.partition(".")[0] for name in names}) == 1:
        cuts.append(f"{cuts[-1]}{names[0].partition('.')[0]}.")
        names = [name.partition(".")[2] for name in names]
    return cuts


def _prefixes(table: Mapping[str, _Value], own: Shapes, cut: str = "", least: int = 1) -> list[str]:
    """Prefixes behind which `least` names of the network stand; those with most names first."""
    wanted = {name.removeprefix(cut) for name in own}
    found: Counter[str] = Counter()
    for name in table:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in wanted:
                found["".join(f"{part}." for part in parts[:at])] += 1
    often = [prefix for prefix, times in found.items() if times >= least]
    return sorted(often, key=lambda prefix: -found[prefix])


def _state(table: Mapping[str, _Value], prefix: str, own: Shapes, cut: str) -> State:
    places = {name: prefix + name.removeprefix(cut) for name in own}
    tensors = {name: table[place].tensor for name, place in places.items() if place in table}
    return State(prefix.removesuffix(".") or TOP, tensors)


def _differences(table: Mapping[str, _Value], prefix: str, own: Shapes, cut: str = "") -> tuple[list[str], list[str]]:
    """Names that are missing behind a prefix, and names there that the network does not have.

    Names of other mappings, such as an optimizer's, do not count.
    """
    wanted = {prefix + name.removeprefix(cut) for name in own}
    homes = {table[place].home for place in wanted if place in table}
    missing = sorted(name.removeprefix(prefix) for name in wanted - set(table))
    beside = [name for name in table if name.startswith(prefix) and table[name].home in homes and name not in wanted]
    unexpected = sorted(name.removeprefix(prefix) for name in beside)
    return tuple([name for name in names if not name.endswith(_COUNTER)] for names in (missing, unexpected))  # type: ignore[return-value]


def _under(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _chosen(found: str, key: str | None) -> bool:
    return key is None or found == key or (key != TOP and _under(found, key))


def _only(fits: list[State], key: str | None, path: Path, factory: str) -> State:
    """The one state that fits. Equal ones are one, and a state that is named exactly is the one that is meant."""
    exact = [state for state in fits if state.key == key]
    different: list[State] = []
    for state in exact or fits:
        if not any(_equal(state, other) for other in different):
            different.append(state)
    if len(different) > 1:
        raise ExportError(
            f"{path}: {len(different)} different states fit the network of {factory}: "
            f"{', '.join(state.key for state in different)}; choose one with --weights-key KEY, or with the recipe's "
            "checkpoint_key"
        )
    return different[0]


def _equal(a: State, b: State) -> bool:
    return set(a.tensors) == set(b.tensors) and all(
        bool((a.tensors[name] == b.tensors[name]).all()) for name in a.tensors
    )


def _no_tensors(key: str | None, path: Path) -> str:
    return f"{path}: {key or 'it'} is no mapping of names to tensors; name the right checkpoint_key"


def _no_such_key(content: Mapping[str, Any], table: Mapping[str, _Value], own: Shapes, key: str, path: Path) -> str:
    if key in content:
        return _no_tensors(key, path)
    fitting = [
        prefix.removesuffix(".") or TOP
        for prefix in _prefixes(table, own)
        if _differences(table, prefix, own) == ([], [])
    ]
    instead = f"; the network fits {', '.join(fitting)}: name it with --weights-key" if fitting else ""
    return _no_key(content, key, path) + instead


def _no_key(content: Mapping[str, Any], key: str, path: Path) -> str:
    found = ", ".join(map(str, content))[:200]
    return f"{path}: has no {key!r}, where the weights are expected; found {found}"


def _mismatch(table: Mapping[str, _Value], own: Shapes, key: str | None) -> str:
    """First names that are missing and unexpected behind the likeliest prefix."""
    prefixes = [prefix for prefix in _prefixes(table, own) if _chosen(prefix.removesuffix(".") or TOP, key)]
    if prefixes:
        missing, unexpected = _differences(table, prefixes[0], own)
        behind = f"; the likely prefix of its names is {prefixes[0]!r}" if prefixes[0] else ""
        return f"{_some(missing, 'missing')}, {_some(unexpected, 'unexpected')}{behind}"
    names = [name for name in table if key is None or key == TOP or _under(name, key)]
    return f"{_some(sorted(own), 'missing')}, {_some(sorted(names), 'unexpected')}; none has a name of the network's"


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} keys {what}" + (f" ({shown})" if names else "")
