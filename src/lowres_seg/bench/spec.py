"""What the parent tells a child process. It imports nothing heavy, because the child's start is measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Feed:
    """One run of a network: the step that it belongs to, and the file of its input."""

    step: str
    network: str
    file: str


@dataclass(frozen=True)
class Spec:
    """The task of one child process.

    Attributes
    ----------
    task : str
        ``measure``, ``fixed`` (the fixed workload), ``prepare`` (write the inputs of the networks), ``quantize`` (write
        networks that the backend quantizes), ``judge`` (Dice and HD95 of one case) or ``peak`` (fastest convolutions).
    bundle, backend, workload : str
    threads : int
    warm_up : int
        Number of runs before the first value.
    turn_s : float
        Shortest duration of a turn.
    scan : dict of channel to path
        Empty for the bundle's reference case.
    feeds : list of Feed
        Runs of the networks by themselves.
    folder : str
        Folder for the files that the child writes.
    networks : dict
        What the backend needs to load the networks, by name.
    in_flight : int
        Number of volumes at a time, for throughput.
    case : dict
        For ``judge``: the case's id and the path of its label map (null if it has none), the definition of HD95, the
        values to leave out, whether to draw pictures.
    calibrate : list of dict
        For ``quantize``: id and scan (path by channel) of each case.
    has_vnni : bool
        For ``quantize``: whether the CPU has VNNI.
    """

    task: str
    bundle: str = ""
    backend: str = "openvino"
    workload: str = "network"
    threads: int = 1
    warm_up: int = 0
    turn_s: float = 0.0
    scan: dict[str, str] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    folder: str = ""
    networks: dict[str, Any] = field(default_factory=dict)
    in_flight: int = 1
    case: dict[str, Any] = field(default_factory=dict)
    calibrate: list[dict[str, Any]] = field(default_factory=list)
    has_vnni: bool = False

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str) -> Spec:
        """Read what `write` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        content["feeds"] = [Feed(**feed) for feed in content["feeds"]]
        return cls(**content)
