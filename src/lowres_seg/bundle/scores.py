"""The channels of scores that a stage decodes, against those that its network gives."""

from __future__ import annotations

from collections.abc import Sequence

from lowres_seg.bundle.stage import Argmax, Classes, Decode, Regions
from lowres_seg.wording import counted


def channels_used(decode: Decode) -> list[int]:
    """Channels of the scores that are decoded, in ascending order."""
    match decode:
        case Regions(regions=regions):
            return sorted({region.channel for region in regions})
        case Argmax(labels=labels):
            return list(range(len(labels)))
        case Classes(names=names):
            return list(range(len(names)))


def unfit(decode: Decode, output: Sequence[int], given: Sequence[int]) -> str | None:
    """Say why scores cannot be decoded; None if they can.

    Regions may leave channels out. Argmax and classes without a channel would choose among the others in silence.

    Parameters
    ----------
    decode : Decode
    output, given : (1, C, D, H, W)
        Shapes of the scores and of the input.
    """
    used, channels = channels_used(decode), output[1]
    if used[-1] >= channels:
        return f"decodes channel {used[-1]}; expected less than {channels}"
    if not isinstance(decode, Regions) and len(used) < channels:
        return f"names {counted(len(used), 'channel')}; expected {channels}"
    spatial = [1, 1, 1] if isinstance(decode, Classes) else list(given[2:])
    if list(output[2:]) != spatial:
        return f"decodes scores of the shape {spatial}"
    return None
