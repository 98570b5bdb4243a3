"""A brain mask before another segmentation: what lies outside of the brain becomes zero in all channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from lowres_seg.errors import InputError
from lowres_seg.runtime.border import millimetres
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.runtime.scan_input import VolumeOrPath, by_channel, read_channels
from lowres_seg.runtime.scan_state import timed
from lowres_seg.runtime.segmentation import Segmentation
from lowres_seg.runtime.segmenter import Segmenter
from lowres_seg.runtime.watch import Progress
from lowres_seg.volumes.volume import Volume

#: Begin of the names of its steps and stages, and of its doubts.
_NAME = "brain-mask"


@dataclass(frozen=True, eq=False)
class BrainMasked:
    """A scan of which only the brain is left.

    Attributes
    ----------
    scan : dict of str to Volume
        By channel, on their own grid.
    mask : Segmentation
        The brain, with its border.
    """

    scan: dict[str, Volume]
    mask: Segmentation

    def recorded(self, result: Segmentation) -> Segmentation:
        """The result for the scan, with the seconds and the doubts of the brain mask before its own."""
        own = [doubt for doubt in self.mask.doubts if doubt not in result.doubts]
        told = tuple(Doubt(d.name, f"brain mask: {d}") if isinstance(d, Doubt) else d for d in own)
        timings = {f"{_NAME}.{step}": seconds for step, seconds in self.mask.timings_s.items()}
        return replace(result, timings_s=timings | result.timings_s, doubts=told + result.doubts)


class BrainMask:
    """Segments the brain with one bundle, and leaves nothing else of a scan for another.

    Parameters
    ----------
    segmenter : Segmenter
        Of a bundle whose labels together are the brain.
    border_mm : float
        By which the mask grows, as of `Segmentation.border`.

    Raises
    ------
    InputError
        If the bundle gives no mask, or the border is no finite number.

    Examples
    --------
    >>> brain = BrainMask(Segmenter.load("deepbet"), border_mm=2)  # doctest: +SKIP
    >>> masked = brain.apply({"t1": "t1.nii.gz", "flair": "flair.nii.gz"})  # doctest: +SKIP
    >>> result = masked.recorded(tumor.predict(masked.scan))  # doctest: +SKIP
    """

    def __init__(self, segmenter: Segmenter, border_mm: float = 0.0) -> None:
        if not segmenter.pipeline.labels:
            raise InputError(f"{_NAME}: the bundle gives no mask; name one that segments the brain")
        self.segmenter = segmenter
        self.border_mm = millimetres(border_mm, "border_mm")

    def channels(self, names: Sequence[str]) -> dict[str, str]:
        """Channel of a scan that each channel of the brain's bundle takes.

        That of the same name; else, for a bundle of one channel, the first.

        Parameters
        ----------
        names : sequence of str
            Channels of the scan.

        Raises
        ------
        InputError
            If the bundle takes several and the scan does not have them.
        """
        own = self.segmenter.pipeline.channels
        if len(own) == 1 and own[0] not in names:
            return {own[0]: names[0]}
        if missing := [name for name in own if name not in names]:
            raise InputError(
                f"{_NAME}: its bundle takes the channels {', '.join(own)}, and the scan has {', '.join(names)}, "
                f"without {missing[0]}; name a bundle of one channel"
            )
        return {name: name for name in own}

    def apply(
        self,
        scan: VolumeOrPath | Mapping[str, VolumeOrPath],
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], object] | None = None,
        deadline_s: float | None = None,
        then: Segmenter | None = None,
    ) -> BrainMasked:
        """Segment the brain, and set what lies outside of it to zero in all channels.

        Parameters
        ----------
        scan : Volume or path, or mapping of channel name to either
            All on one grid. A single one is the channel of the brain's bundle.
        progress, cancelled, deadline_s
            As of `Segmenter.predict`; a stage is called ``brain-mask.<stage>``.
        then : Segmenter, optional
            The one that gets what is left. A scan that it has no room for is refused here.

        Raises
        ------
        InputError
            As of `Segmenter.predict`; or if the mask is empty, or all volumes need more memory than a bound.
        """
        names = list(scan) if isinstance(scan, Mapping) else list(self.segmenter.pipeline.channels)
        taken = self.channels(names)
        volumes = dict(zip(names, read_channels(by_channel(scan, names), names, self.segmenter.read), strict=True))
        first = volumes[next(iter(taken.values()))]
        # Of all channels one copy is the scan's, and one has the brain alone.
        held = 2 * 4 * len(volumes) * prod(first.grid.shape)
        for one in (self.segmenter, then):
            if one is not None and one.bound is not None:
                one.bound.check(one.pipeline, first.grid, first.name, held_bytes=held)

        def moved(stage: str, done: int, total: int) -> None:
            if progress is not None:
                progress(f"{_NAME}.{stage}", done, total)

        found = self.segmenter.predict(
            {own: volumes[name] for own, name in taken.items()},
            progress=None if progress is None else moved,
            cancelled=cancelled,
            deadline_s=deadline_s,
        )
        timings = dict(found.timings_s)
        with timed(timings, "border"):
            mask = found.border(self.border_mm, threads=self.segmenter.threads)
        outside = mask.labels.data == 0
        if outside.all():
            raise InputError(
                f"{first.name}: its brain mask is empty, and nothing of the scan would be left; look at the scan, or "
                "leave --brain-mask out"
            )
        with timed(timings, "apply"):
            left = {name: _without(volume, outside) for name, volume in volumes.items()}
        doubts = mask.doubts
        if len(names) > 1 and (strange := [own for own, name in taken.items() if own != name]):
            told = f"its bundle takes the channel {strange[0]}, which the scan does not have; it was given {names[0]}"
            doubts += (Doubt("brain-channel", told),)
        return BrainMasked(left, replace(mask, timings_s=timings, doubts=doubts))


def _without(volume: Volume, outside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Volume:
    data = volume.data.copy(order="K")
    data[outside] = 0
    return replace(volume, data=data)
