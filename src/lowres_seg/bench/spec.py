"""What the parent tells a child process, and nothing heavy: the child's start is part of what is measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Feed:
    """One call of a network: of which stage, and the file of the array that it takes."""

    step: str
    network: str
    file: str


@dataclass(frozen=True)
class Spec:
    """One child process.

    Attributes
    ----------
    task : str
        ``measure``, ``reference`` (the fixed piece of work), ``prepare`` (write what the networks take), ``judge``
        (Dice and HD95 of one case) or ``peak`` (fastest convolutions).
    bundle, backend, what : str
    threads : int
    warm_up : int
    turn_s : float
        How long a turn lasts at least.
    scan : dict of channel to path
        Empty for the bundle's reference case.
    feeds : list of Feed
        For networks by themselves.
    folder : str
        For what the child writes.
    precisions : dict of network to str
        What each network computes in, f32 or bf16.
    xml, onnx : dict of network to path
    recipe : str
    weights : dict of network to path
        Of torch's own run.
    case : dict
        For ``judge``: its id and the path of its label map; the definition of HD95; whether to draw pictures.
    """

    task: str
    bundle: str = ""
    backend: str = "openvino"
    what: str = "network"
    threads: int = 1
    warm_up: int = 0
    turn_s: float = 0.0
    scan: dict[str, str] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    folder: str = ""
    precisions: dict[str, str] = field(default_factory=dict)
    xml: dict[str, str] = field(default_factory=dict)
    onnx: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    case: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str) -> Spec:
        """Read what `write` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        content["feeds"] = [Feed(**feed) for feed in content["feeds"]]
        return cls(**content)
