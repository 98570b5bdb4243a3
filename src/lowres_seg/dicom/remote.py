"""Words of a command line that are addresses of studies, and the folders that they are fetched into."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lowres_seg.dicom.address import Address, is_address
from lowres_seg.errors import InputError
from lowres_seg.extras import require


def addresses(words: Sequence[str]) -> dict[str, Address]:
    """Addresses among the words of a command line, by the word; of ``CHANNEL=ADDRESS`` too.

    Raises
    ------
    InputError
        If one is none of a study or a series, or has a user or a password; or if they are of several studies.
    MissingExtraError
        If there is one, and packages that reach it are missing.
    """
    found = {word: Address.parse(_place(word)) for word in words if is_address(_place(word))}
    if found:
        require("dicom")
    studies = sorted({(one.service, one.study) for one in found.values()})
    if len(studies) > 1:
        raise InputError(f"inputs: are of {len(studies)} studies on servers, expected one; run the command for each")
    return found


@contextmanager
def fetched(words: Sequence[str], found: dict[str, Address]) -> Iterator[list[str]]:
    """Fetch what addresses name, and yield the words with folders in their place. These are removed at the end.

    Raises
    ------
    InputError
        As of `web.fetch`.
    """
    from lowres_seg.dicom import web

    with tempfile.TemporaryDirectory(prefix="lowres-seg-") as home:
        folders: dict[Address, Path] = {}
        for address in found.values():
            if address not in folders:
                folders[address] = Path(home) / (address.series or address.study)
                folders[address].mkdir()
                web.fetch(address, folders[address])
        yield [
            word if word not in found else word.removesuffix(_place(word)) + str(folders[found[word]]) for word in words
        ]


def _place(word: str) -> str:
    """What a word names, behind the channel that it may begin with."""
    channel, equals, place = word.partition("=")
    return place if equals and is_address(place) and "/" not in channel else word


def stored(file: Path, found: dict[str, Address]) -> str:
    """Store a segmentation in the study that the addresses are of, and give the address of the study.

    Raises
    ------
    InputError
        As of `web.store`.
    """
    from lowres_seg.dicom import web

    study = replace(next(iter(found.values())), series=None)
    web.store(study, file)
    return str(study)
