"""Whether a stage decodes every channel of the scores that its network gives."""

from __future__ import annotations

from collections.abc import Sequence

from lowres_seg.bundle.stage import Argmax, Classes, Decode, Regions
from lowres_seg.errors import ExportError


def check_channels(decode: Decode, channels: int) -> None:
    """Check that no channel would be dropped in silence, and that none is missing.

    Regions need not name channel 0: it is the background of a network whose scores are shares of one.

    Raises
    ------
    ExportError
        With the channels that the decode does not name, or that the network does not give.
    """
    named = _named(decode)
    unused = sorted(set(range(channels)) - named - ({0} if isinstance(decode, Regions) else set()))
    lacking = sorted(named - set(range(channels)))
    if not unused and not lacking:
        return
    what = _PLACES[decode.kind]
    if lacking:
        raise ExportError(
            f"the network gives {channels} channels of scores, the recipe's {what} names channel "
            f"{_listed(lacking)} too; expected only what it gives, from channel 0 on"
        )
    raise ExportError(
        f"the network gives {channels} channels of scores, and the recipe's {what} does not name channel "
        f"{_listed(unused)}; expected all of them: add what it means, or choose another output"
    )


def check_numbers(decode: Decode, output: Sequence[int]) -> None:
    """Check that a network gives one number a class where classes are decoded, and voxels where voxels are.

    Raises
    ------
    ExportError
        If it gives the other of both.
    """
    sides = list(output[2:])
    if isinstance(decode, Classes) and sides != [1, 1, 1]:
        raise ExportError(
            f"the network gives scores of {sides}, and the recipe decodes classes; expected one number a class: pool "
            "them in the network, or decode regions or argmax"
        )
    if not isinstance(decode, Classes) and sides == [1, 1, 1]:
        raise ExportError(
            f"the network gives one number for each of {output[1]} channels, and the recipe decodes {decode.kind}; "
            'expected scores of voxels: decode = { kind = "classes", names = [...] } takes one number a class'
        )


#: Field of each decode that names channels.
_PLACES = {"regions": "decode.regions", "argmax": "decode.labels", "classes": "decode.names"}


def _named(decode: Decode) -> set[int]:
    match decode:
        case Regions(regions=regions):
            return {region.channel for region in regions}
        case Argmax(labels=labels):
            return set(range(len(labels)))
        case Classes(names=names):
            return set(range(len(names)))


def _listed(channels: list[int], most: int = 8) -> str:
    return ", ".join(map(str, channels[:most])) + (", …" if len(channels) > most else "")
