"""A suite: what was measured, in one JSON object in one file.

A **run** is the life of one process: its start, its warm-up, its values. A **benchmark** is the runs of one combination
of bundle, backend, precision, cores and instruction set. A **suite** is everything that one command measured on one
host.

The JSON Schema of this module is published as ``docs/suite.schema.json``; a test compares the two.

Schema versions
---------------
1   The first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from lowres_seg import atomic
from lowres_seg.arguments import flag
from lowres_seg.arguments import path as as_path
from lowres_seg.bench.axes import Isa, Workload
from lowres_seg.bench.backends import BACKENDS
from lowres_seg.bundle.part import Part, Sha256, first_problem
from lowres_seg.bundle.reports import QuantizeReport
from lowres_seg.errors import BenchmarkError, one_line
from lowres_seg.metrics.agreement import Definition
from lowres_seg.wording import counted

SCHEMA_VERSION = 1


def _known(name: str) -> str:
    if name not in BACKENDS:
        msg = f"expected one of {', '.join(BACKENDS)}, found {name!r}"
        raise ValueError(msg)
    return name


#: Name of a backend.
BackendName = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(BACKENDS), "type": "string"})]


class Latency(Part):
    """Seconds. `ci95` is a bootstrap interval of the median, over runs and then over their values."""

    p50: float
    p90: float
    p99: float
    min: float
    ci95: tuple[float, float]


class Run(Part):
    """One process.

    `reference_s` are the seconds that the fixed workload took in the same rounds, in a process of its own with as many
    cores. `peak_rss_bytes` is that of the process and all that it started.
    """

    cold_start_s: float = Field(description="from the start of the process to its first result")
    warm_up_s: tuple[float, ...]
    values_s: tuple[float, ...]
    reference_s: tuple[float, ...]
    stages_s: dict[str, tuple[float, ...]] = Field(description="of each value, by step of the bundle's stages")
    peak_rss_bytes: int
    memory: tuple[tuple[float, int], ...] = Field(
        default=(), description="until its warm-up ended: seconds since its start, and its resident set then, in bytes"
    )


class Accuracy(Part):
    """One region of one case against its label map."""

    case: str
    region: str
    dice: float
    hd95_mm: float


class Classified(Part):
    """One case of a bundle that classifies: the value of each class, the decision, and the truth if the table has it.

    `against` names the fp32 network that it was compared with, in torch if that was measured: `change` is the largest
    difference of a value, and `flipped` says whether the decision is another one. Without such a network they are null.
    """

    case: str
    truth: str | None = None
    values: dict[str, float]
    decision: str
    against: str = ""
    change: float | None = None
    flipped: bool | None = None


class Benchmark(Part):
    """The runs of one combination.

    If it was not measured, `status` and `reason` say so: ``unserved`` if the backend cannot run the bundle (no ONNX
    graph in it, for example), ``failed`` if a process ended too early.
    """

    bundle: str
    digest: Sha256
    backend: BackendName
    precision: Literal["fp32", "int8"]
    inference_precision: str
    isa: Isa
    cores: int
    workload: Workload = Field(alias="what")
    status: Literal["measured", "unserved", "failed"]
    reason: str = ""
    latency_s: Latency | None = Field(default=None, description="for throughput: seconds for each volume")
    throughput_per_s: float | None = None
    stages_s: dict[str, float] = Field(default={}, description="medians")
    peak_rss_bytes: int | None = None
    cold_start_s: float | None = None
    runs: tuple[Run, ...] = ()
    macs: int | None = Field(default=None, description="multiply-accumulates of the networks, once each")
    peak_share: float | None = Field(default=None, description="of the peak of convolutions in its precision")
    accuracy: tuple[Accuracy, ...] = ()
    classes: tuple[str, ...] = Field(default=(), description="among which a bundle that classifies decides")
    classified: tuple[Classified, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the benchmark across suites."""
        return (self.bundle, self.backend, self.isa, self.cores, self.workload)

    @property
    def title(self) -> str:
        """Name of the combination, for people."""
        limited = "" if self.isa == "native" else f", limited to {self.isa}"
        cores = counted(self.cores, "core")
        return f"{self.bundle}, {self.backend} {self.shown_precision}, {cores}{limited}, {self.workload}"

    @property
    def values_s(self) -> tuple[float, ...]:
        """Values of all runs."""
        return tuple(value for run in self.runs for value in run.values_s)

    @property
    def shown_precision(self) -> str:
        """``int8``, or else the precision that the CPU computes in."""
        return "int8" if self.precision == "int8" else self.inference_precision


class Peak(Part):
    """Fastest convolutions of this host: multiply-accumulates a second, by precision."""

    cores: int
    isa: Isa
    macs_per_s: dict[str, float]


class Picture(Part):
    """Slice of a scan with the outline of a mask (orange) and of the label map (blue), as PNG in base64."""

    bundle: str
    case: str
    plane: Literal["axial", "coronal", "sagittal"]
    png: str


class HostFacts(Part):
    """The machine. Two suites are of one host if `cpu`, `features` and `cores` agree."""

    cpu: str
    features: tuple[str, ...]
    cores: int = Field(description="that the process may use")
    physical_cores: int
    logical_cores: int
    quota: float | None
    memory_bytes: int
    memory_limit_bytes: int
    governor: str | None
    system: str
    versions: dict[str, str]
    thread_settings: dict[str, str]
    load_average: float

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must agree if two suites are to be compared."""
        return (self.cpu, self.features, self.cores)


class Suite(Part):
    """Everything that one command measured."""

    schema_version: Literal[1] = 1
    lowres_seg: str
    began: str = Field(description="date and time, UTC")
    partial: bool = Field(description="whether something of the plan is missing")
    host: HostFacts
    hd95: Definition
    ignore_labels: tuple[int, ...] = Field(
        default=(), description="values of the label maps that Dice and HD95 leave out"
    )
    empty_masks: str
    calibrated_on: tuple[str, ...] = Field(
        default=(), description="ids of the cases that backends which quantize took their ranges from"
    )
    timed: str = Field(description="what was segmented while the clock ran")
    passes: int
    rounds: int
    seed: int
    benchmarks: tuple[Benchmark, ...]
    peaks: tuple[Peak, ...] = ()
    pictures: tuple[Picture, ...] = ()
    quantized: dict[str, QuantizeReport] = Field(
        default={}, description="what quantization tried, by the name of the bundle that it made"
    )
    doubts: tuple[str, ...] = ()

    def gaps(self) -> list[str]:
        """Benchmarks that were not measured, with the reason; those with one reason in one line."""
        missing = [b for b in self.benchmarks if b.status != "measured"]
        alike = dict.fromkeys((b.bundle, b.backend, b.status, b.reason) for b in missing)
        lines = []
        for key in alike:
            ones = [b for b in missing if (b.bundle, b.backend, b.status, b.reason) == key]
            who = ones[0].title if len(ones) == 1 else f"{key[0]}, {key[1]} ({counted(len(ones), 'benchmark')})"
            lines.append(f"{who}: {key[2]}, {key[3]}")
        return lines

    def benchmark_doubts(self) -> list[str]:
        """Doubts about single benchmarks; those with one doubt in one line."""
        lines = []
        for doubt in dict.fromkeys(doubt for b in self.benchmarks for doubt in b.doubts):
            ones = [b for b in self.benchmarks if doubt in b.doubts]
            who = ones[0].title if len(ones) == 1 else f"{len(ones)} of {counted(len(self.benchmarks), 'benchmark')}"
            lines.append(f"{who}: {doubt}")
        return lines

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Suite:
        """Read a suite.

        Raises
        ------
        BenchmarkError
            If it cannot be read, or has another schema version.
        """
        return cls.parse(content_of(as_path(path, "suite")), where=str(path))

    @classmethod
    def parse(cls, content: Any, *, where: str) -> Suite:
        """Check plain values as a suite; errors as of `read`, which begin with `where`."""
        if not isinstance(content, dict) or "schema_version" not in content:
            raise BenchmarkError(f"{where}: is no suite, expected what `lowres-seg bench` wrote; name such a file")
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            raise BenchmarkError(
                f"{where}: has schema version {version!r}, this lowres-seg reads {SCHEMA_VERSION}; measure again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BenchmarkError(f"{where}: {first_problem(error)}") from error

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write it as JSON.

        Raises
        ------
        InputError
            If the file exists and not `force`, or cannot be written.
        """
        with atomic.file(as_path(path, "path to write"), force=flag(force, "force")) as staged:
            # A suite without one of these is written as before there were any.
            left: dict[str, Any] = {
                name: True for name in ("ignore_labels", "calibrated_on", "quantized") if not getattr(self, name)
            }
            if not any(run.memory for benchmark in self.benchmarks for run in benchmark.runs):
                left["benchmarks"] = {"__all__": {"runs": {"__all__": {"memory"}}}}
            if not any(benchmark.classified for benchmark in self.benchmarks):
                left.setdefault("benchmarks", {"__all__": {}})["__all__"] |= {"classes": True, "classified": True}
            staged.write_text(self.model_dump_json(indent=1, exclude=left) + "\n", encoding="utf-8")


def content_of(path: Path) -> Any:
    """Plain values of a JSON file.

    Raises
    ------
    BenchmarkError
        If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: is no text, expected the JSON that bench or quantize wrote") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(
            f"{path}: is not JSON ({one_line(error)}), expected what bench or quantize wrote"
        ) from error


def is_suite(content: Any) -> bool:
    """Tell whether plain values could be a suite, of whatever schema version."""
    return isinstance(content, dict) and "benchmarks" in content and "schema_version" in content


def json_schema() -> dict[str, Any]:
    """JSON Schema of `Suite`, as published under docs/."""
    schema = Suite.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"lowres-seg suite of benchmarks, schema version {SCHEMA_VERSION}"
    return schema
