"""Arguments of MONAI's components that have a counterpart in a manifest, and what is told of the others."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.monai_values import first_refused, short

#: Example of a choice of labels that is understood, for messages.
EXAMPLE = "$lambda x: torch.where(x[[1]] > 0, 2, torch.where(x[[0]] > 0, 1, 0))"


class Arguments(BaseModel):
    """Arguments of a component that have a counterpart. Those in `ignored` do not change the result."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    ignored: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, given: dict[str, Any]) -> dict[str, Any]:
        names = {"allow_missing_keys", *cls.ignored.split()}
        return {key: value for key, value in given.items() if key not in names}


_Kind = TypeVar("_Kind", bound=Arguments)


def validated(kind: type[_Kind], given: Mapping[str, Any], where: str) -> _Kind:
    """Validate arguments as a `kind`.

    Raises
    ------
    ExportError
        If an argument, or its value, has no counterpart or cannot be read.
    """
    unread = set(kind.ignored.split())
    if kind.model_config.get("extra") == "allow":
        unread |= set(given) - set(kind.model_fields)
    refused = first_refused({name: value for name, value in given.items() if name not in unread})
    if refused is not None:
        raise ExportError(refused.message)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ExportError(f"{where}: {problem(error)}") from error


def problem(error: ValueError) -> str:
    """Reason in one line why arguments have no counterpart."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    argument, found = first["loc"][0] if first["loc"] else "arguments", first.get("input")
    if first["type"] == "extra_forbidden":
        return (
            f"its argument {argument} = {short(found)} has no exact counterpart in a bundle; docs/importing.md lists "
            "the arguments that have one"
        )
    if first["type"] == "missing":
        return f"has no {argument}"
    if isinstance(found, str) and found.startswith("$"):
        return f"{argument} is the expression {short(found)}, and no code of a bundle is run; write its value"
    if isinstance(found, str) and found.startswith("@"):
        return f"{argument} refers to {found}, which leads to no value"
    message = first["msg"].removeprefix("Value error, ")
    return f"{argument} is {short(found)}, which has no exact counterpart in a bundle ({message})"


def label_choice(func: str) -> list[tuple[int, int]]:
    """Channels and labels in the order in which they are painted, from nested calls of torch.where.

    The code is parsed, and never run.

    Raises
    ------
    ValueError
        If the code is anything else.
    """
    try:
        node: ast.AST = ast.parse(func.removeprefix("$").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        node = ast.Pass()
    found: list[tuple[int, int]] = []
    if isinstance(node, ast.Lambda) and len(node.args.args) == 1:
        pattern = re.compile(rf"{re.escape(node.args.args[0].arg)}\[\[(\d+)\]\] > 0(?:\.0)?")
        node = node.body
        while isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.where" and len(node.args) == 3:
            where, label, rest = node.args
            match = pattern.fullmatch(ast.unparse(where))
            if match is None or not isinstance(label, ast.Constant) or not isinstance(label.value, int):
                break
            found.append((int(match[1]), label.value))
            node = rest
    once = all(len(set(part)) == len(part) for part in zip(*found, strict=True))
    background = isinstance(node, ast.Constant) and node.value == 0
    if not found or not once or not background or not all(0 < label <= 255 for _, label in found):
        raise ValueError(
            f"func is {short(func)}, and no code of a bundle is run; only a choice of labels such as "
            f"{EXAMPLE} can be read"
        )
    return found[::-1]
