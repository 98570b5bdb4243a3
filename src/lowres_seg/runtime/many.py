"""Many scans with one segmenter, one result after the other in their order."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, get_args

from lowres_seg.arguments import described
from lowres_seg.errors import InputError, LowresSegError, shown
from lowres_seg.runtime.kept_scores import ScoreType
from lowres_seg.runtime.scan_input import VolumeOrPath
from lowres_seg.runtime.segmentation import Segmentation

#: Number of scans that are under way: one is read and prepared while the networks work on another.
_AHEAD = 2
Errors = Literal["raise", "yield"]


class PredictsMany(ABC):
    """What predicts one scan, and so many."""

    @abstractmethod
    def predict(
        self,
        scan: VolumeOrPath | Mapping[str, VolumeOrPath],
        *,
        cancelled: Callable[[], object] | None = None,
        deadline_s: float | None = None,
        scores: ScoreType | None = None,
    ) -> Segmentation:
        """Segment one scan."""

    def predict_many(
        self,
        scans: Iterable[VolumeOrPath | Mapping[str, VolumeOrPath]],
        *,
        progress: Callable[[int, int | None], object] | None = None,
        cancelled: Callable[[], object] | None = None,
        deadline_s: float | None = None,
        scores: ScoreType | None = None,
        errors: Errors = "raise",
    ) -> Iterator[Segmentation | LowresSegError]:
        """Segment many scans, and yield their results in the order of the scans.

        While the caller has one result the next scan is segmented, and the one after it is prepared; scans are taken as
        they are needed. An iterator that is closed ends what is under way.

        Parameters
        ----------
        scans : iterable
            Each as for `predict`.
        progress : callable, optional
            Called in the caller's thread with the number of scans that are done or have failed, and the number of all,
            None where `scans` has no length.
        cancelled, deadline_s, scores
            As of `predict`, for each scan.
        errors : {"raise", "yield"}
            Whether an error of this package ends all, or is yielded in the place of the result.

        Raises
        ------
        InputError
            If `scans` is one scan, or `errors` is another word.
        """
        if errors not in get_args(Errors):
            raise InputError(f"errors: found {shown(errors)}, expected raise or yield")
        if isinstance(scans, str | Mapping) or not isinstance(scans, Iterable):
            raise InputError(f"scans: found {described(scans)}, expected a list of scans; predict takes one")

        def one(scan: VolumeOrPath | Mapping[str, VolumeOrPath], ended: Callable[[], object]) -> Segmentation:
            return self.predict(scan, cancelled=ended, deadline_s=deadline_s, scores=scores)

        return _each(one, scans, progress, cancelled, errors)


def _each(
    predict: Callable[[VolumeOrPath | Mapping[str, VolumeOrPath], Callable[[], object]], Segmentation],
    scans: Iterable[VolumeOrPath | Mapping[str, VolumeOrPath]],
    progress: Callable[[int, int | None], object] | None,
    cancelled: Callable[[], object] | None,
    errors: Errors,
) -> Iterator[Segmentation | LowresSegError]:
    total = len(scans) if isinstance(scans, Sized) else None
    closed = threading.Event()
    under_way: deque[Future[Segmentation]] = deque()
    done = 0

    def ended() -> object:
        return closed.is_set() or (cancelled is not None and cancelled())

    def result() -> Segmentation | LowresSegError:
        nonlocal done
        found: Segmentation | LowresSegError
        try:
            found = under_way.popleft().result()
        except LowresSegError as error:
            if errors == "raise":
                raise
            found = error
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="lowres-seg") as pool:
        try:
            for scan in scans:
                under_way.append(pool.submit(predict, scan, ended))
                if len(under_way) > _AHEAD:
                    yield result()
            while under_way:
                yield result()
        finally:
            closed.set()
            for future in under_way:
                future.cancel()
