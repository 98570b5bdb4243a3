"""The base of every part of a file that is written and read, and the types that such files share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from lowres_seg.errors import one_line, shown

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
LabelValue = Annotated[int, Field(ge=1, le=255)]
#: Longest key that a message has as it is: that of a file.
_LONGEST_KEY = 255
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


_BUILDING = threading.Lock()


class Part(BaseModel):
    """A part of a file. It is frozen, refuses unknown keys, and refuses NaN and infinity.

    A field whose Python name differs from its key in the file has the key as alias.

    Attributes
    ----------
    since
        Schema version of the manifest that brought this part.
    """

    since: ClassVar[int] = 1
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, defer_build=True
    )

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Read plain values, in any thread.

        pydantic builds a model at its first use, and some versions not rightly if two threads use it first together.

        Raises
        ------
        pydantic.ValidationError
            If they are not valid.
        """
        with _BUILDING:
            cls.model_rebuild()
        return super().model_validate(obj, **options)

    def brought_by(self) -> int:
        """Schema version that can say this part, apart from its single keys."""
        return self.since


def check_once(what: str, values: Iterable[object]) -> None:
    """Check that no value is there twice.

    Raises
    ------
    ValueError
        With the first one that is.
    """
    seen = set()
    for value in values:
        if value in seen:
            msg = f"{what} {value} is there twice"
            raise ValueError(msg)
        seen.add(value)


def first_problem(error: ValidationError) -> str:
    """Describe the first problem of a pydantic error in one line: where it is, what is wrong, what was found."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(_key(part) for part in problem["loc"])
    message = one_line(ValueError(problem["msg"].removeprefix("Value error, ")), most=500)
    if problem["type"] == "extra_forbidden":
        return f"{where}: this lowres-seg knows no such key; remove it, or install a newer lowres-seg"
    found = problem.get("input")
    if problem["type"] in ("missing", "value_error") or isinstance(found, (dict, list)):
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, found {shown(found)}"


def _key(part: str | int) -> str:
    """A key as it is, or as a literal if it is none that a manifest could have."""
    text = str(part)
    return text if text.isprintable() and len(text) <= _LONGEST_KEY else shown(text)
