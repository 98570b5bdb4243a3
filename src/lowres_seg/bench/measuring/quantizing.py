"""Networks that a backend quantizes itself: made once for a bundle, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowres_seg.bench.backends import Quantizing, Subject
from lowres_seg.bench.measuring.process import Child, ChildError
from lowres_seg.bench.spec import Spec

#: CPU features of which one is enough to multiply INT8 without saturation.
_VNNI = frozenset({"avx_vnni", "avx512_vnni"})


class Quantizer:
    """What backends quantized so far.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the measurement, where the networks are written.
    features : sequence of str
        CPU features of this host.
    start : callable
        Starts a child.
    notify : callable
        Called with a line of text as each bundle's turn comes.
    """

    def __init__(
        self,
        folder: Path,
        features: tuple[str, ...],
        start: Callable[[Spec], Child],
        notify: Callable[[str], None],
    ) -> None:
        self._folder, self._features, self._start, self._notify = folder, features, start, notify
        self._made: dict[tuple[str, str], dict[str, Any] | ChildError] = {}

    def networks(self, bundle: str, name: str, served_by: Quantizing, subject: Subject, threads: int) -> dict[str, Any]:
        """What a child process needs to load the networks of a bundle that a backend quantized.

        Parameters
        ----------
        bundle : str
            Name of the bundle in results.
        name : str
            Of the backend.
        served_by : Quantizing
        subject : Subject
        threads : int
            To quantize with.

        Raises
        ------
        ChildError
            If they cannot be made. It is raised again each time, and they are not tried again.
        """
        if (bundle, name) not in self._made:
            self._made[bundle, name] = self._make(bundle, name, served_by, subject, threads)
        made = self._made[bundle, name]
        if isinstance(made, ChildError):
            raise made
        return made

    def _make(
        self, bundle: str, name: str, served_by: Quantizing, subject: Subject, threads: int
    ) -> dict[str, Any] | ChildError:
        self._notify(f"quantizing {bundle} for {name}")
        folder = self._folder / f"quantized-{len(self._made)}"
        folder.mkdir()
        spec = Spec(
            "quantize",
            str(subject.bundle.path),
            name,
            threads=threads,
            folder=str(folder),
            networks=served_by.networks(subject),
            calibrate=[
                {"id": case.id, "scan": {channel: str(path) for channel, path in case.scan.items()}}
                for case in subject.calibrate
            ],
            has_vnni=not _VNNI.isdisjoint(self._features),
        )
        child = self._start(spec)
        try:
            made: dict[str, Any] = child.answer()["networks"]
        except ChildError as error:
            return ChildError(f"{name} could not quantize it: {error}")
        finally:
            child.kill()
        return made
