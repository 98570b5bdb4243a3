"""JSON that someone else wrote, read within bounds."""

from __future__ import annotations

import json
from typing import Any

from lowres_seg.bundle.bounds import DEPTH, ITEMS, TEXT, WHOLE
from lowres_seg.errors import shown


def parse(text: str | bytes, *, most_items: int = ITEMS) -> Any:
    """Read JSON: plain values in lists and objects, with no key twice, no NaN and no infinity.

    Parameters
    ----------
    text : str or bytes
    most_items : int
        Most items of one list or object.

    Raises
    ------
    ValueError
        If it is not JSON in UTF-8, or beyond the bounds on depth, counts, strings and numbers. The message goes on
        after the name of a file, in one line.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        content = json.loads(
            decoded, object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
        )
    except UnicodeDecodeError as error:
        msg = f"is not JSON in UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"is not JSON ({error})"
        raise ValueError(msg) from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check(content, most_items)
    return content


_TOO_DEEP = f"is nested too deeply, expected at most {DEPTH} lists and objects within each other"


def _check(content: Any, most_items: int) -> None:
    """Check depth, counts and strings, without recursion."""
    level = [content]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, (dict, list)):
                if len(value) > most_items:
                    msg = f"has {len(value)} items in one list or object, expected at most {most_items}"
                    raise ValueError(msg)
                below.extend(value.values() if isinstance(value, dict) else value)
        level = below
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _check_text(text: str) -> None:
    if len(text) > TEXT:
        msg = f"has a string of {len(text)} characters, expected at most {TEXT}"
        raise ValueError(msg)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        msg = f"has half of a surrogate pair in {shown(text)}, expected Unicode"
        raise ValueError(msg)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        msg = f"has the key {shown(twice)} twice in one object"
        raise ValueError(msg)
    for key in content:
        _check_text(key)
    return content


def _whole(digits: str) -> int:
    # Without a look at the length, Python computes thousands of digits first.
    if len(digits) > len(str(WHOLE)) + 1 or abs(value := int(digits)) > WHOLE:
        msg = f"has the number {shown(digits)}, expected at most 2^53"
        raise ValueError(msg)
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        msg = f"has the number {shown(digits)}, which no float64 holds"
        raise ValueError(msg)
    return value


def _no_number(name: str) -> float:
    msg = f"is not JSON (it has the value {name})"
    raise ValueError(msg)
