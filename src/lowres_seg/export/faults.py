"""All faults of a recipe or a plan at once, in words, with what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from lowres_seg import wording
from lowres_seg.errors import Lines, one_line, shown

#: What a text must look like, by the pattern that it must match.
PATTERNS = {
    r"^[a-z0-9][a-z0-9_.-]*$": "lower-case letters, digits, '_', '.' and '-', with a letter or a digit first",
    r"^S[0-9]{2}[a-z]?$": "an id such as S02 or S21b",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits, as sha256sum prints them",
    r"^((\.\./)?[\w-]+\.py|[a-z]\w*):[A-Za-z_]\w*$": "FILE.py:FUNCTION, or a class such as monai:UNet",
    r"^(\.\./)?[\w-]+\.py:[A-Za-z_]\w*$": "FILE.py:FUNCTION",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!]*$": "NAME==VERSION",
}
#: The most keys that are listed where none is near to what was written.
_LISTED = 12
#: How alike two words are, from 0 to 1, if one may be meant by the other: license by lisence.
_ALIKE = 0.55
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """A place in a file: its names, where it stands there, its key, and the schemas above it and of it."""

    names: tuple[str, ...]
    order: tuple[int, ...]
    key: str | int
    above: Sequence[Schema]
    here: Sequence[Schema]


@dataclass(frozen=True)
class _Fault:
    """A fault at a place: what was found, and what was expected of it; or a sentence on it."""

    place: _Place
    found: str
    expected: tuple[str, ...] = ()
    hint: str = ""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        expected = f", expected {' or '.join(self.expected)}" if self.expected else ""
        where = f"{'.'.join((*self.place.names, *self.names))}: " if self.place.names else ""
        return f"{where}{self.found}{expected}{self.hint}"


def told(where: str, faults: Sequence[str]) -> str:
    """The message of an error: one line, or with several faults one line of head and one for each."""
    if len(faults) == 1:
        return f"{where}: {faults[0]}"
    return Lines.of([f"{where}: {len(faults)} faults", *(f"  {fault}" for fault in faults)])


def near(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` with the known word that is nearest to `word`; empty if none is near."""
    lower = {one.lower(): one for one in known}
    found = get_close_matches(word.lower(), lower, 1, _ALIKE)
    return f"; did you mean {lower[found[0]]}?" if found else ""


def of(error: ValidationError, content: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """Describe every fault that pydantic found, one line each.

    Parameters
    ----------
    error : pydantic.ValidationError
    content : mapping
        What was validated.
    model : type
        The model that it was validated as.
    """
    schema = model.model_json_schema()
    faults: list[_Fault] = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"]:
            continue  # pydantic counts valid items only, and the others have faults of their own
        fault = _fault(problem, content, schema)
        same = next((one for one in faults if one.place.names == fault.place.names), None)
        if same is None:
            faults.append(fault)
        elif same.expected and fault.expected:  # what else the same value could have been
            both = tuple(dict.fromkeys((*same.expected, *fault.expected)))
            faults[faults.index(same)] = replace(same, expected=both, hint=same.hint or fault.hint)
    meant = {(*one.place.names[:-1], _meant(one.hint)) for one in faults if one.hint}
    told_once = [one for one in faults if not (one.found == _MISSING and one.place.names in meant)]
    return [str(one) for one in sorted(told_once, key=lambda one: one.place.order)]


_MISSING = "is missing"


def _meant(hint: str) -> str:
    """The key that a hint names."""
    found = re.search(r"did you mean ([\w-]+)\?", hint)
    return found[1] if found else ""


def _fault(problem: Mapping[str, Any], content: Mapping[str, Any], schema: Schema) -> _Fault:
    kind, context, value = problem["type"], problem.get("ctx", {}), problem.get("input")
    place = _place(problem["loc"], content, schema)
    match kind:
        case "missing" if isinstance(place.key, int):  # of a list of fixed length
            least = max((node.get("minItems", 0) for node in place.above), default=0)
            above = _place(problem["loc"][:-1], content, schema)
            return _Fault(above, f"has {len(value or ())} items", (f"{least} of them",))
        case "missing":
            return _Fault(place, _MISSING)
        case "extra_forbidden":
            return _Fault(place, "no such key", hint=_meant_key(place, schema))
        case "literal_error":
            words = re.findall(r"'([^']*)'|(?<![\w'])(-?\d+)", context["expected"])
            return _choice(place, f"is {shown(value)}", value, [text or number for text, number in words])
        case "union_tag_invalid" | "union_tag_not_found":
            tags = [tag for node in place.here for tag in node.get("discriminator", {}).get("mapping", ())]
            found = _MISSING if kind == "union_tag_not_found" else f"is {shown(context['tag'])}"
            fault = _choice(place, found, context.get("tag"), tags)
            return replace(fault, names=(str(context["discriminator"]).strip("'"),))
        case "string_pattern_mismatch":
            return _Fault(place, f"is {shown(value)}", (PATTERNS.get(context["pattern"], context["pattern"]),))
        case "too_short":
            return _Fault(place, f"has {context['actual_length']} items", (f"at least {context['min_length']}",))
        case "too_long":
            return _Fault(place, f"has {context['actual_length']} items", (f"at most {context['max_length']}",))
        case "value_error":
            return _Fault(place, one_line(ValueError(problem["msg"].removeprefix("Value error, ")), most=500))
    expected = wording.expected(kind, context)
    if expected:
        return _Fault(place, f"is {_plain(value)}", (_list_of(expected, place, schema),))
    return _Fault(place, f"{one_line(ValueError(problem['msg']), most=500)}, found {shown(value)}")


def _choice(place: _Place, found: str, value: object, words: Sequence[str]) -> _Fault:
    return _Fault(place, found, (_either(words),), near(str(value), words))


def _either(words: Sequence[str]) -> str:
    return " or ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]])


def _plain(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return shown(value)


def _list_of(expected: str, place: _Place, schema: Schema) -> str:
    """A list of tables, with how TOML writes it; anything else as it is."""
    items = [node["items"] for node in place.here if isinstance(node.get("items"), dict)]
    of_tables = any("properties" in one for item in items for one in _alternatives(item, schema))
    return f"a list of tables, each under [[{place.key}]]" if expected == "a list" and of_tables else expected


def _place(loc: Sequence[str | int], content: Any, schema: Schema) -> _Place:
    """The place of a problem, without the alternatives of unions that pydantic puts between its keys.

    An item of a list is named by its own name, if it has one.
    """
    place = _Place((), (), "", (), _alternatives(schema, schema))
    here: Any = content
    tagged = False
    for step, part in enumerate(loc):
        tags = [tag for node in place.here for tag in [_tag(node, part)] if tag is not None]
        if tags and not tagged:
            place, tagged = replace(place, here=_alternatives({"$ref": tags[0]}, schema)), True
            continue
        is_last = step == len(loc) - 1 and part != "[key]"
        if isinstance(here, dict) and part in here:
            name, order, here = str(part), list(here).index(part), here[part]
        elif isinstance(here, (list, tuple)) and isinstance(part, int) and part < len(here):
            own = here[part].get("name") if isinstance(here[part], dict) else None
            name, order, here = own if isinstance(own, str) and own else str(part), part, here[part]
        elif is_last and isinstance(here, (dict, list, tuple)):
            name, order, here = str(part), len(here), None
        else:
            continue
        shown_name = name if name.isprintable() else shown(name)
        below = _below(place.here, part, schema)
        place = _Place((*place.names, shown_name), (*place.order, order), part, place.here, below)
        tagged = False
    return place


def _tag(node: Schema, part: str | int) -> str | None:
    """Reference to the alternative of a union that a part of a place names; None if it names none."""
    found: str | None = node.get("discriminator", {}).get("mapping", {}).get(part)
    return found


def _meant_key(place: _Place, schema: Schema) -> str:
    """What an unknown key may have been meant as."""
    key = str(place.key)
    known = {name: below for node in place.above for name, below in node.get("properties", {}).items()}
    for name, below in known.items():
        if any(key in node.get("properties", {}) for node in _alternatives(below, schema)):
            return f"; did you mean {name}.{key}?"
    if len(place.names) > 1 and key in schema["properties"]:
        return f"; {key} belongs to the top of the file, before the first [table]"
    listed = f", expected some of {', '.join(known)}" if len(known) <= _LISTED else ""
    return near(key, known) or listed


def _below(nodes: Sequence[Schema], key: str | int, schema: Schema) -> list[Schema]:
    """Schemas that what stands under a key may have."""
    below: list[Schema] = []
    for node in nodes:
        named = [below for pattern, below in node.get("patternProperties", {}).items() if re.search(pattern, str(key))]
        found = node.get("properties", {}).get(key, named[0] if named else node.get("additionalProperties"))
        if isinstance(key, int):
            items = node.get("prefixItems", ())
            found = items[key] if key < len(items) else node.get("items")
        if isinstance(found, dict):
            below += _alternatives(found, schema)
    return below


def _alternatives(node: Schema, schema: Schema) -> list[Schema]:
    """A schema, or what it refers to, with each alternative of a union."""
    if "$ref" in node:
        return _alternatives(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    return [node, *(one for key in ("anyOf", "oneOf") for of in node.get(key, ()) for one in _alternatives(of, schema))]
