"""Configuration files of MONAI bundles: JSON and YAML, merged as MONAI merges them. They are data, and stay data.

This is the home of yaml. What MONAI does to files before it resolves anything is done here too: keys such as
``network_def#in_channels`` and ``+handlers``, macros such as ``%network_def`` and relative ids such as ``@##keys``.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers.files import read_json
from lowres_seg.extras import require

SUFFIXES = (".json", ".yaml", ".yml")
#: Key of the metadata among a bundle's configurations.
META = "_meta_"
#: Bounds on a configuration. Files that are small can name far more through aliases and macros.
DEEPEST, MOST_VALUES = 50, 100_000
_MOST_BYTES = 4_000_000
#: Bound on the length of a key and its reference, macro or expression together.
_LONGEST = 10_000
_RELATIVE = re.compile("[@%](?:::)+")
_OF_A_FILE = re.compile(r"(.*\.(?:json|ya?ml))(?:::(.+))?", re.IGNORECASE)


def parts(key: str) -> list[str]:
    """Steps of a key such as ``network_def#in_channels`` or ``network_def::in_channels``."""
    return key.replace("#", "::").split("::")


def step(holder: Any, part: str) -> Any:
    """Value one step below an object or a list.

    Raises
    ------
    LookupError
        If there is none.
    """
    if isinstance(holder, list):
        return holder[int(part) if part.isdecimal() else len(holder)]
    if not isinstance(holder, dict):
        raise KeyError(part)
    if part in holder:
        return holder[part]
    return {str(key): value for key, value in holder.items()}[part]  # YAML has keys that are numbers


def inside(folder: Path, path: Path) -> bool:
    """Tell whether a path lies in a folder, also where it goes through links."""
    return path.resolve().is_relative_to(folder.resolve())


def chosen(folder: Path, names: Sequence[str]) -> list[Path]:
    """Configuration files of a bundle: those of some names, relative to it or to its configs; else that of inference.

    Raises
    ------
    ExportError
        If there is no such file.
    """
    configs = folder / "configs"
    for name in names:
        if not any((place / name).is_file() for place in (folder, configs)):
            there = ", ".join(sorted(file.name for file in configs.glob("*.*") if file.suffix in SUFFIXES))
            raise ExportError(f"{folder}: has no configuration {name}; configs has {there or 'none'}")
    if names:
        return [next(p / name for p in (folder, configs) if (p / name).is_file()) for name in names]
    usual = [configs / f"inference{suffix}" for suffix in SUFFIXES]
    return [next((file for file in usual if file.is_file()), usual[0])]


def read(path: Path) -> dict[str, Any]:
    """Read the object of a JSON or YAML file.

    Raises
    ------
    ExportError
        If it is missing, too large or nested too deeply, names a type of Python, or holds anything but an object.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ExportError(f"{path}: is no configuration; expected a name that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ExportError(f"{path}: is missing; expected the folder of a MONAI bundle")
    if path.stat().st_size > _MOST_BYTES:
        raise ExportError(f"{path}: has {path.stat().st_size} bytes, expected a configuration of at most {_MOST_BYTES}")
    content: Any = read_json(path) if path.suffix.lower() == ".json" else _yaml(path)
    if not isinstance(content, dict):
        raise ExportError(f"{path}: is {type(content).__name__}, expected an object of keys and values")
    check_size(content, str(path))
    return content


def merged(files: Sequence[Path], metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Merge configuration files; later ones replace what earlier ones say, or add to it with ``+``.

    Returns
    -------
    content : dict
        The metadata are under ``_meta_``.
    origins : dict of str to path
        File that last set each key at the top.

    Raises
    ------
    ExportError
        If a file cannot be read, or a key leads nowhere.
    """
    content: dict[str, Any] = {META: metadata}
    origins: dict[str, Path] = {}
    for path in files:
        for key, value in read(path).items():
            _merge(content, str(key), value, path)
            origins[parts(str(key).removeprefix("+"))[0]] = path
    return content, origins


def resolve_macros(content: dict[str, Any], folder: Path, path: Path) -> None:
    """Put what macros name in their places, and make relative ids absolute. `content` is changed.

    Parameters
    ----------
    content : dict
    folder : pathlib.Path
        The bundle. Files of macros lie in it, or in its configs.
    path : pathlib.Path
        A file of the configuration, for messages.

    Raises
    ------
    ExportError
        If a macro leads nowhere or out of the bundle, or the result is too large.
    """
    pasted = 0
    files: dict[Path, dict[str, Any]] = {}

    def resolved(value: Any, key: str) -> Any:
        nonlocal pasted
        if isinstance(value, (dict, list)):
            pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
            for name, one in list(pairs):
                value[name] = resolved(one, f"{key}::{name}" if key else str(name))
        if not (isinstance(value, str) and value.startswith(("@", "%", "$"))):
            return value
        if len(key) + len(value) > _LONGEST:
            return value  # no reference or expression is that long, and neither can be resolved
        value = _absolute(value, key, path)
        if not value.startswith("%"):
            return value
        found = copy.deepcopy(_named_by(value, content, folder, files, f"{path}: {key.replace('::', '#')}"))
        pasted += check_size(found, f"{path}: {value}")
        if pasted > MOST_VALUES:
            raise ExportError(f"{path}: its macros name more than {MOST_VALUES} values; write a smaller configuration")
        return found

    resolved(content, "")
    check_size(content, str(path))


def check_size(content: Any, where: str) -> int:
    """Count the values of a configuration.

    Raises
    ------
    ExportError
        If they are more than `MOST_VALUES`, or nested deeper than `DEEPEST`.
    """
    count = 0
    for depth in _depths(content):
        count += 1
        if count > MOST_VALUES:
            raise ExportError(f"{where}: names more than {MOST_VALUES} values, expected a configuration")
        if depth > DEEPEST:
            raise ExportError(f"{where}: is nested deeper than {DEEPEST} levels, expected a configuration")
    return count


def _depths(content: Any) -> Iterator[int]:
    """Depth of every value; those that an alias names twice count twice."""
    stack = [(content, 0)]
    while stack:
        value, depth = stack.pop()
        yield depth
        if isinstance(value, (dict, list)):
            stack += [(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]


def _yaml(path: Path) -> Any:
    require("monai")
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, path)
        return loader.construct_document(node)
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError) as error:
        raise ExportError(f"{path}: cannot be read as YAML ({one_line(error)})") from error


def _check_nodes(top: Any, path: Path) -> None:
    """Check the size of a YAML document and its tags before anything is made of it."""
    stack, count = [(top, 0)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise ExportError(
                f"{path}: names more than {MOST_VALUES} values or is nested deeper than {DEEPEST} levels, "
                "expected a configuration"
            )
        if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")[:100]
            raise ExportError(f"{path}: has the tag {tag}, and no code of a bundle is run; write plain values")
        if isinstance(node.value, list):
            for one in node.value:
                stack += [(part, depth + 1) for part in (one if isinstance(one, tuple) else (one,))]


def _merge(content: dict[str, Any], key: str, value: Any, path: Path) -> None:
    *above, last = parts(key.removeprefix("+"))
    holder: Any = content
    try:
        for part in above:
            holder = step(holder, part)
        place: Any = int(last) if isinstance(holder, list) else last
        old = holder[place] if isinstance(holder, list) else holder.get(place)
    except (LookupError, ValueError, AttributeError) as error:
        raise ExportError(f"{path}: {key}: leads to no value of the files before it") from error
    if not key.startswith("+") or (isinstance(holder, dict) and last not in holder):
        holder[place] = value
    elif isinstance(old, dict) and isinstance(value, dict):
        old.update(value)
    elif isinstance(old, list) and isinstance(value, list):
        old.extend(value)
    else:
        raise ExportError(
            f"{path}: {key}: adds {type(value).__name__} to {type(old).__name__}, expected two lists or two objects"
        )


def _absolute(value: str, key: str, path: Path) -> str:
    """Reference, macro or expression with absolute ids: ``@#x`` is beside it, ``@##x`` one level above."""
    own = key.split("::")

    def above(match: re.Match[str]) -> str:
        levels = match[0].count("::")
        if levels > len(own):
            raise ExportError(f"{path}: {key.replace('::', '#')}: {value[:80]} leads above the configuration")
        return match[0][0] + "".join(f"{part}::" for part in own[:-levels])

    return _RELATIVE.sub(above, value.replace("#", "::"))


def _named_by(macro: str, content: dict[str, Any], folder: Path, files: dict[Path, dict[str, Any]], where: str) -> Any:
    """What a macro such as ``%network_def`` or ``%train.json::network_def`` names."""
    match = _OF_A_FILE.fullmatch(macro[1:])
    found: Any = content
    key = macro[1:] if match is None else match[2] or ""
    if match is not None:
        file = next((place / match[1] for place in (folder, folder / "configs") if (place / match[1]).is_file()), None)
        if file is None or not inside(folder, file):
            raise ExportError(f"{where}: the macro {macro[:80]} names no file of the bundle")
        if file not in files:
            files[file] = read(file)
        found = files[file]
    try:
        for part in parts(key) if key else ():
            found = step(found, part)
    except LookupError as error:
        raise ExportError(f"{where}: the macro {macro[:80]} leads to no value") from error
    return found


def whereabouts(folder: Path, file: Path) -> str:
    """What ``large_files.yml`` says about a file that is missing, as the end of a sentence."""
    name = os.path.relpath(file, folder).replace(os.sep, "/")
    listing = next(
        (folder / f"large_files.{end}" for end in ("yml", "yaml") if (folder / f"large_files.{end}").is_file()), None
    )
    if listing is None:
        return ""
    entries = read(listing).get("large_files")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and str(entry.get("path")) == name:
            return f"; {listing.name} says that it is at {str(entry.get('url'))[:200]}: fetch it"
    return f"; {listing.name} does not name it"
