"""A candidate: a change of precision, applied to the networks of a bundle.

One module and one entry of a table for each precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.bundle import Bundle, NetworkFiles
from lowres_seg.bundle.manifest import Network
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.errors import QuantizationError
from lowres_seg.extras import require
from lowres_seg.quantize.layer import LayerId, Reverted
from lowres_seg.quantize.search import Ranked
from lowres_seg.quantize.settings import Precision, Settings
from lowres_seg.runtime.segmenter import Segmenter
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]
Inputs = Mapping[str, Sequence[Array]]
#: Module of each change of precision, and the extra that it needs. Each module has a class `CANDIDATE`, made from a
#: `Request`.
CANDIDATES: dict[Precision, tuple[str, str | None]] = {
    "int8": ("int8_candidate", "quantize"),
    "bf16": ("bf16_candidate", None),
}
#: Largest number of inputs that a network is calibrated on. More change ranges little, and cost memory and time.
MAX_INPUTS = 8


@dataclass(frozen=True)
class WrittenNetworks:
    """Networks of a candidate that were written to a folder.

    Attributes
    ----------
    pipeline : Pipeline
        What runs them.
    networks : dict of str to Network
        Their entries in a manifest; paths are relative to the folder.
    """

    pipeline: Pipeline
    networks: dict[str, Network]

    def files(self, folder: Path) -> dict[str, NetworkFiles]:
        """Files of each network, by name."""
        return {
            name: NetworkFiles(folder / n.xml, folder / n.bin, dropout=n.dropout) for name, n in self.networks.items()
        }


@dataclass(frozen=True)
class LayerReport:
    """Precision of one layer without reverting, for the report.

    Attributes
    ----------
    layer : LayerId
    type : str
    precision : str
    why : str
        Reason of a layer that is not changed; empty for one that is.
    """

    layer: LayerId
    type: str
    precision: str
    why: str = ""


class Candidate(Protocol):
    """A change of precision of one bundle.

    Attributes
    ----------
    reference_bound : pair of float
        Least bounds of the reference case: of a score, and of the share of voxels with another label.
    """

    reference_bound: tuple[float, float]

    def needed_bytes(self) -> int:
        """Least memory that making it takes."""
        ...

    def write(self, folder: Path, reverted: Reverted) -> WrittenNetworks:
        """Write the networks below `folder`, with some layers in their old precision."""
        ...

    def stages(self) -> list[Reverted]:
        """Layers of each stage, the stage whose layers save least first; empty if there are not several stages."""
        ...

    def rank(self) -> list[Ranked]:
        """Rank every layer by the harm that it does; empty if no layer can be reverted."""
        ...

    def loss(self, reverted: Sequence[LayerId]) -> float:
        """Share of the foreground of windows that disagrees with fp32."""
        ...

    def layers(self) -> list[LayerReport]:
        """Precision of every layer, for the report."""
        ...

    def tools(self) -> dict[str, str]:
        """Versions of the tools that make it."""
        ...


@dataclass(frozen=True, eq=False)
class Request:
    """What a candidate is made from.

    Attributes
    ----------
    bundle : Bundle
        In fp32.
    settings : Settings
    inputs : callable
        Gives the inputs of each network for the calibration scans.
    threads : int
    max_ram_bytes : int
        Bound on the memory of the process while statistics are gathered.
    notify : callable
        Called with a line of text as each step begins.
    """

    bundle: Bundle
    settings: Settings
    inputs: Callable[[], Inputs]
    threads: int
    max_ram_bytes: int
    notify: Callable[[str], None]


def candidate(request: Request) -> Candidate:
    """Make the candidate of a request.

    Raises
    ------
    MissingExtraError, QuantizationError
        If a package that makes it is missing, or has another version than it needs.
    """
    name, extra = CANDIDATES[request.settings.precision]
    if extra is not None:
        require(extra)
    module: Any = import_module(f"lowres_seg.quantize.{name}")
    made: Candidate = module.CANDIDATE(request)
    return made


def prepared_inputs(
    bundle: Bundle, segmenter: Segmenter, scans: Sequence[Mapping[str, Volume]]
) -> dict[str, list[Array]]:
    """Inputs (1, C, D, H, W) that the runtime gives each network for some scans; of many windows an even choice.

    The input with the largest standard deviation comes first.

    Raises
    ------
    QuantizationError
        If a network gets no input.
    """
    manifest = bundle.manifest
    collected: dict[str, list[Array]] = {name: [] for name in manifest.networks}
    for scan in scans:
        _, recorders = segmenter.recorded(scan, most=max(1, MAX_INPUTS // len(scans)))
        for stage in manifest.stages:
            for name, recorder in zip(stage.networks, recorders[stage.name], strict=True):
                collected[name] += recorder.inputs
    empty = [name for name, arrays in collected.items() if not arrays]
    if empty:
        raise QuantizationError(
            f"network {empty[0]} saw nothing of the calibration scans: "
            "the stage before it found no foreground; use others"
        )
    for arrays in collected.values():
        arrays.sort(key=lambda x: -float(x.std()))
    return collected
