"""Names of channels and classes in the metadata of a MONAI bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.files import named
from lowres_seg.export.importers.monai_config import Config
from lowres_seg.export.importers.monai_values import short

_FORMAT = "network_data_format"


def data_format(metadata: Config, side: str, items: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Place and description of the network's ``inputs`` or ``outputs``: that of one of `items`, or the only one.

    Raises
    ------
    ExportError
        If there are several, and none of these names.
    """
    holder: Any = metadata.at(f"{_FORMAT}#{side}")
    given = {k: v for k, v in holder.items() if isinstance(v, dict)} if isinstance(holder, dict) else {}
    described = [item for item in items if item in given]
    if not described and len(given) > 1:
        raise ExportError(
            f"{metadata.path}: {_FORMAT}.{side}: describes {', '.join(given)}, and a bundle takes and gives one; "
            f"expected {items[0]}"
        )
    key = (described or [*given] or [*items])[0]
    return f"{metadata.path}: {_FORMAT}.{side}.{key}", given.get(key, {})


def names(metadata: Config, side: str, items: Sequence[str], known: int | None) -> tuple[str, ...]:
    """Names of the channels of the network's input or output.

    Parameters
    ----------
    metadata : Config
        Notes on names that were made up are added to it.
    side : str
        Such as ``inputs``.
    items : sequence of str
        Such as ``image``: the key that is described there, or several of which one is.
    known : int or None
        Number of channels that the network takes or gives; None if its arguments do not say it.

    Raises
    ------
    ExportError
        If nothing says how many there are, or more are named than there are.
    """
    where, entry = data_format(metadata, side, items)
    metadata.used(entry)
    texts = _texts(entry.get("channel_def"))
    told = entry.get("num_channels")
    if isinstance(told, str) and told.isdecimal():
        told = int(told)
    total = known if known is not None else told
    if total is None and texts:
        total = max(texts) + 1
    if not isinstance(total, int) or isinstance(total, bool) or not 0 < total <= 10_000:
        raise ExportError(f"{where}: num_channels is {short(told)}, expected the number of channels")
    extra = [text for channel, text in texts.items() if channel >= total]
    if extra:
        verb = "takes" if side == "inputs" else "gives"
        raise ExportError(f"{where}: channel_def names {extra[0]} beyond the {total} channels that the network {verb}")
    prefix = "channel" if side == "inputs" else "class"
    unnamed = [channel for channel in range(total) if not named(texts.get(channel, ""))]
    if unnamed and not (side == "inputs" and total == 1):
        called = f"{prefix}_{unnamed[0]}" + (f" to {prefix}_{unnamed[-1]}" if len(unnamed) > 1 else "")
        metadata.notes.append(
            f"{where}: channel_def names {total - len(unnamed)} of {total}; the others are called {called}"
        )
    found: list[str] = []
    for channel in range(total):
        name = named(texts.get(channel, "")) or (items[0] if side == "inputs" and total == 1 else f"{prefix}_{channel}")
        if name in found:
            free = next(one for n in count(channel) if (one := f"{name[:58]}_{n}") not in found)
            metadata.notes.append(f"{where}: two channels are called {name}; the second is called {free}")
            name = free
        found.append(name)
    return tuple(found)


def text(metadata: Config, key: str) -> str | None:
    """Text of a key of the metadata; None if it has none.

    Raises
    ------
    ExportError
        If it is an expression that cannot be read.
    """
    found = metadata.used(metadata.at(key))
    if isinstance(found, list):
        found = ", ".join(str(one) for one in found)
    return str(found) if found not in (None, "", {}) else None


def _texts(given: Any) -> dict[int, str]:
    """Texts by channel, of ``{"0": "background"}``, ``{"background": 0}`` or ``["background"]``."""
    if isinstance(given, list):
        return {channel: str(one) for channel, one in enumerate(given)}
    if not isinstance(given, Mapping):
        return {}
    texts: dict[int, str] = {}
    for key, value in given.items():
        if str(key).isdecimal():
            texts[int(str(key))] = str(value)
        elif str(value).isdecimal():
            texts[int(str(value))] = str(key)
    return texts
