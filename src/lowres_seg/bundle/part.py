"""The base of every part of a file that is written and read, and the types that such files share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
LabelValue = Annotated[int, Field(ge=1, le=255)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of a file. It is frozen, refuses unknown keys, and refuses NaN and infinity.

    A field whose Python name differs from its key in the file has the key as alias.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)


def first_problem(error: ValidationError) -> str:
    """Describe the first problem of a pydantic error in one line: where it is, what is wrong, what was found."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    if problem["type"] in ("missing", "value_error") or isinstance(found, (dict, list)):
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, found {found!r}"
