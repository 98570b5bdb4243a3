"""Codes of labels: what each label is to DICOM, in a terminology that a PACS and other tools know.

They stand in the bundle's manifest, or in a JSON file that the user gives: an object with an entry for each label's
name, of `category`, `type`, and if need be `modifier` and `region`. Each of these has a `value`, a `scheme` (SCT is
SNOMED CT) and a `meaning`. Entries of the file come before those of the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from lowres_seg.bundle import plain_json
from lowres_seg.bundle.part import first_problem
from lowres_seg.bundle.pipeline import Label, SegmentCodes
from lowres_seg.errors import InputError, shown

#: What a file of codes says of a label that is a part of the brain.
_EXAMPLE = (
    '{"LABEL": {"category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}, '
    '"type": {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}}}'
)
#: Most bytes of a file of codes: 255 labels have less than a tenth.
_MOST_BYTES = 2**20


def read(path: Path) -> dict[str, SegmentCodes]:
    """Read a file of codes, by the names of labels.

    Raises
    ------
    InputError
        If it cannot be read, is no JSON object, or has an entry that is none of codes.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a JSON file of codes") from error
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path}: has more than {_MOST_BYTES} bytes; expected a JSON file of codes of labels")
    try:
        content = plain_json.parse(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected codes such as {_EXAMPLE}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is {type(content).__name__}, expected an object such as {_EXAMPLE}")
    found = {}
    for name, entry in content.items():
        try:
            found[name] = SegmentCodes.model_validate(entry)
        except ValidationError as error:
            raise InputError(f"{path}: label {shown(name)}: {first_problem(error)}; such as {_EXAMPLE}") from error
    return found


def coded(labels: Sequence[Label], given: Mapping[str, SegmentCodes], *, where: str) -> tuple[Label, ...]:
    """Labels with their codes: those given, else those that each has.

    Parameters
    ----------
    labels : sequence of Label
    given : mapping of str to SegmentCodes
        By the names of labels.
    where : str
        The bundle, for messages.

    Raises
    ------
    InputError
        If a label has no codes, or codes that DICOM cannot write; or if `given` names none of the labels.
    """
    names = [label.name for label in labels]
    strange = next((name for name in given if name not in names), None)
    if strange is not None:
        raise InputError(f"--codes: has codes of {shown(strange)}; the labels of {where} are {', '.join(names)}")
    found = tuple(label.model_copy(update={"codes": given.get(label.name, label.codes)}) for label in labels)
    bare = [label.name for label in found if label.codes is None]
    if bare:
        more = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
        raise InputError(
            f"{where}: label {bare[0]}{more} has no codes, which a DICOM segmentation needs; write them into a file "
            f"and name it with --codes, such as {_EXAMPLE.replace('LABEL', bare[0])}"
        )
    for label in found:
        for text in _texts(label):
            if "\\" in text or not text.isprintable() or not text.strip():
                raise InputError(
                    f"{where}: label {label.name} has {shown(text)} in its codes; expected text, without \\"
                )
    return found


def _texts(label: Label) -> list[str]:
    """Every text of a label's codes."""
    parts = [] if label.codes is None else [getattr(label.codes, name) for name in type(label.codes).model_fields]
    return [text for code in parts if code is not None for text in (code.value, code.scheme, code.meaning)]
