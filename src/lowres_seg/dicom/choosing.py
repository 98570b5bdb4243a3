"""Which series of a folder is meant: by UID, number or description, or because there is no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from lowres_seg.dicom.series import Series
from lowres_seg.errors import InputError
from lowres_seg.wording import counted

#: Characters of a description that are shown.
_SHOWN = 40
#: Parts of a series that are listed one by one.
_FEW_PARTS = 4


def chosen(series: Sequence[Series], wanted: str | None = None, *, option: str = "--series SERIES") -> Series:
    """The series that is meant.

    Parameters
    ----------
    series : sequence of Series
        As of `found`.
    wanted : str, optional
        Its UID, number or description, or a part of the description that no other has. Without it the only series that
        makes a volume is taken, and the others become doubts of it.
    option : str
        What a user types to name one.

    Raises
    ------
    InputError
        If none or several are meant; the message lists them. Or if the one that is meant makes no volume.
    """
    path = series[0].path
    meant = list(series) if wanted is None else matching(series, wanted)
    if not meant:
        raise InputError(f"{path}: no series is called {wanted!r}; it holds {listing(series)}; name one with {option}")
    volumes = [one for one in meant if not one.problem]
    if not volumes:
        raise InputError(f"{path}: {_refused(meant)}")
    if wanted is None:
        volumes = [one for one in volumes if not one.aside] or volumes
    if len(volumes) > 1:
        noun = "volumes of one series" if len({one.uid for one in volumes}) == 1 else "series"
        patients = len({one.first.patient for one in volumes})
        noun += f" of {patients} patients" if patients > 1 else ""
        said = "holds" if wanted is None else f"has for {wanted!r}"
        raise InputError(
            f"{path}: {said} {len(volumes)} {noun}, expected one: {listing(volumes, series)}; name one with {option}"
        )
    taken = volumes[0]
    left = [one for one in meant if one is not taken]
    doubts = list(taken.doubts)
    if left:
        doubts.append(f"was taken, and not {listing(left, series)}")
    if taken.aside:
        doubts.append(f"is {taken.aside}")
    return replace(taken, doubts=tuple(doubts))


def matching(series: Sequence[Series], wanted: str) -> list[Series]:
    """The series that a word means: its number, its UID, its description, or a part of the description."""
    said = wanted.strip().casefold()
    ways = (
        lambda one: one.number == said or f"{one.uid}.{one.part}" == said,
        lambda one: said in (one.uid, one.first.series_number),
        lambda one: one.description.casefold() == said,
        lambda one: bool(said) and said in one.description.casefold(),
    )
    return next((meant for way in ways if (meant := [one for one in series if way(one)])), [])


def listing(series: Sequence[Series], among: Sequence[Series] | None = None) -> str:
    """What a user types for each series, its description, and its number of slices or its problem; in one line."""
    told = []
    for _, group in groupby(series, key=lambda one: one.uid):
        parts = list(group)
        aside = parts[0].aside
        if aside and len(parts) > 1:
            told.append(f'{parts[0].first.series_number} "{_description(parts[0])}" ({aside})')
        elif len(parts) > _FEW_PARTS and not any(part.problem for part in parts):
            words = [_word(part, among or series) for part in (parts[0], parts[-1])]
            told.append(f"{' to '.join(words)} {_told(parts[0], each=True)}")
        else:
            told += [f"{_word(part, among or series)} {_told(part)}" for part in parts]
    return ", ".join(told)


def _told(one: Series, *, each: bool = False) -> str:
    problem = one.problem.partition("; ")[0]  # without what to do
    about = [problem or counted(len(one.slices), "slice") + (" each" if each else "")]
    about += [] if each or not one.why else [one.why]
    about += [] if one.problem or not one.aside else [one.aside]
    return f'"{_description(one)}" ({", ".join(about)})'


def _description(one: Series) -> str:
    return one.description if len(one.description) <= _SHOWN else f"{one.description[: _SHOWN - 1]}…"


def _word(one: Series, among: Sequence[Series]) -> str:
    """Number of a series, or its UID where others have its number."""
    if one.number and sum(other.number == one.number for other in among) == 1:
        return one.number
    return f"{one.uid}.{one.part}" if one.part else one.uid


def _refused(meant: Sequence[Series]) -> str:
    if len(meant) == 1:
        return f"series {meant[0].number or meant[0].uid}: {meant[0].problem}"
    return f"no series makes a volume: {listing(meant)}"
