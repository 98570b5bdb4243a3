"""Schema versions of a manifest: which version brought a key, a value of a key, or a rule.

Schema versions
---------------
1   The first. It is read as it stands, because version 2 only adds keys. It is no longer written.
2   Adds windows, views, mirroring, votes, cascades, classes, and evaluated regions.
3   Adds what other frameworks do before and after their networks: MONAI's grids, crops, paddings and clean-up; and
    limits and codes of labels, a number of threads, and the code that was trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lowres_seg.bundle.part import Part

#: The newest version, and the oldest that is written.
NEWEST, OLDEST_WRITTEN = 3, 2


@dataclass(frozen=True)
class Since:
    """The version that brought a key. It annotates the field of the key.

    A key at its default value needs no version: it is left out of an older file. With `values` the key is older, and
    the version brought the values for which `values` is true.
    """

    version: int
    values: Callable[[Any], bool] | None = None


def needed(part: Part, where: str = "") -> Iterator[tuple[int, str]]:
    """Yield what a part needs beyond version 1: a version, and the key that needs it."""
    if part.brought_by() > 1:
        yield part.brought_by(), where or type(part).__name__
    for field, key, since in _keys(part):
        value = getattr(part, field)
        place = f"{where}.{key}".lstrip(".")
        if since is not None and _is_used(part, field, since):
            yield since.version, place
        for inner, below in _parts(value, place):
            yield from needed(inner, below)


def written(part: Part, version: int) -> dict[str, Any]:
    """Content of a part in JSON, without the keys that `version` does not know. They are at their defaults."""
    content: dict[str, Any] = part.model_dump(mode="json")
    for field, key, since in _keys(part):
        if since is not None and since.values is None and since.version > version:
            del content[key]
        else:
            content[key] = _written(getattr(part, field), content[key], version)
    return content


def _written(value: Any, content: Any, version: int) -> Any:
    match value:
        case Part():
            return written(value, version)
        case tuple():
            return [_written(one, inner, version) for one, inner in zip(value, content, strict=True)]
        case dict():
            return {key: _written(one, content[key], version) for key, one in value.items()}
        case _:
            return content


def _keys(part: Part) -> Iterator[tuple[str, str, Since | None]]:
    """Yield each field, its key in the file, and what it says of its version."""
    for field, info in type(part).model_fields.items():
        since = next((one for one in info.metadata if isinstance(one, Since)), None)
        yield field, info.alias or field, since


def _is_used(part: Part, field: str, since: Since) -> bool:
    value, default = getattr(part, field), type(part).model_fields[field].default
    return since.values(value) if since.values is not None else bool(value != default)


def _parts(value: Any, where: str) -> Iterator[tuple[Part, str]]:
    """Yield the parts within a value, each with its place."""
    match value:
        case Part():
            yield value, where
        case tuple():
            for place, one in enumerate(value):
                yield from _parts(one, f"{where}.{place}")
        case dict():
            for key, one in value.items():
                yield from _parts(one, f"{where}.{key}")
