"""A plan: the bundles to measure, and the axes along which each is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from lowres_seg.arguments import path as as_path
from lowres_seg.bench.axes import ISA_LIMITS, Isa, Workload
from lowres_seg.bench.suite import BackendName
from lowres_seg.bundle.part import Part
from lowres_seg.errors import BenchmarkError
from lowres_seg.export import faults, toml_file
from lowres_seg.host import Host
from lowres_seg.metrics.agreement import Definition
from lowres_seg.wording import counted


class PlannedBundle(Part):
    """A bundle to measure.

    `name` is its name in results; by default the name of its folder. `recipe` and `weights` are what it was exported
    from: torch runs the same weights from them.
    """

    path: Path
    name: str = ""
    recipe: Path | None = None
    weights: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        if isinstance(content, dict) and "path" in content and not content.get("name"):
            content = {**content, "name": Path(content["path"]).resolve().name}
        return content


class Plan(Part):
    """What to measure, and how often.

    In each of `passes`, every measurement gets a process of its own. It starts, warms up, and gives one value, or
    several short ones, in each of `rounds`, in turn with all others.

    Attributes
    ----------
    bundles : tuple of PlannedBundle
    backends, cores, isa, workloads : tuple
        Every combination is measured. Without `cores` it is as many as this process may use. The key of `workloads` is
        ``what``.
    cases : path or None
        Table of labelled cases, for Dice and HD95. The scan of the first case is timed.
    calibrate : path or None
        Table of cases that a backend in INT8 takes its ranges from. No scan of it is one of `cases`.
    scan : dict of channel to path, or None
        Scan to time if there are no cases. Without either, the bundle's reference case is timed.
    hd95 : str
        Definition of HD95; see `lowres_seg.metrics`.
    ignore_labels : tuple of int
        Values of the cases' label maps whose voxels are left out of Dice and HD95.
    warm_up : int
        Number of runs before the first value.
    turn_s : float
        Shortest duration of a turn. A process whose values are shorter gives several in each turn.
    pictures : bool
        Whether to keep pictures of the first and the worst case for the report.
    timeout_s : float
        A process that gives no answer for so long is ended.
    """

    bundles: tuple[PlannedBundle, ...] = Field(min_length=1)
    backends: tuple[BackendName, ...] = Field(default=("openvino",), min_length=1)
    cores: tuple[Annotated[int, Field(ge=1)], ...] = ()
    isa: tuple[Isa, ...] = Field(default=("native",), min_length=1)
    workloads: tuple[Workload, ...] = Field(default=("network", "end-to-end"), min_length=1, alias="what")
    cases: Path | None = None
    calibrate: Path | None = None
    scan: dict[str, Path] | None = None
    hd95: Definition = "max-directed"
    ignore_labels: tuple[int, ...] = ()
    passes: int = Field(default=3, ge=1, le=100)
    rounds: int = Field(default=10, ge=1, le=10_000)
    warm_up: int = Field(default=2, ge=0, le=100)
    turn_s: float = Field(default=0.25, ge=0, le=60)
    seed: int = 0
    pictures: bool = True
    timeout_s: float = Field(default=900, gt=0)

    @field_validator("backends", "cores", "isa", "workloads")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            msg = f"{twice[0]} is there twice"
            raise ValueError(msg)
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> Plan:
        names = [bundle.name for bundle in self.bundles]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            msg = f"two bundles are called {twice[0]}; give each a name of its own, in a plan file"
            raise ValueError(msg)
        if self.cases is not None and self.scan is not None:
            msg = "both cases and a scan are given; the first case is what is timed"
            raise ValueError(msg)
        return self

    @classmethod
    def build(cls, where: str, content: dict[str, Any]) -> Plan:
        """Make a plan from plain values.

        Raises
        ------
        BenchmarkError
            If they are not a valid plan. The message begins with `where`, and has every fault.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BenchmarkError(faults.told(where, faults.of(error, content, cls))) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str], bundles: list[dict[str, Any]] | None = None) -> Plan:
        """Read a plan file. Its paths are relative to it.

        Parameters
        ----------
        path : path
            TOML.
        bundles : list of dict, optional
            Measured in place of the bundles of the file, which then need not name any.

        Raises
        ------
        BenchmarkError
            If it cannot be read, or is not a valid plan.
        """
        path = as_path(path, "plan")
        content = toml_file.read(path, BenchmarkError)
        here = path.parent
        for bundle in content.get("bundles", []):
            bundle |= {key: here / bundle[key] for key in ("path", "recipe", "weights") if key in bundle}
        content |= {key: here / content[key] for key in ("cases", "calibrate") if key in content}
        if isinstance(content.get("scan"), dict):
            content["scan"] = {channel: here / file for channel, file in content["scan"].items()}
        if bundles:
            content["bundles"] = bundles
        return cls.build(str(path), content)


@dataclass(frozen=True)
class Cell:
    """One combination of a plan: what one process measures."""

    bundle: PlannedBundle
    backend: str
    isa: Isa
    cores: int
    workload: Workload

    @property
    def key(self) -> tuple[str, str, Isa, int, Workload]:
        """Key of its benchmark."""
        return (self.bundle.name, self.backend, self.isa, self.cores, self.workload)

    def __str__(self) -> str:
        limited = "" if self.isa == "native" else f", limited to {self.isa}"
        return f"{self.bundle.name}, {self.backend}, {counted(self.cores, 'core')}{limited}, {self.workload}"


def cells(plan: Plan, cores: tuple[int, ...]) -> Iterator[Cell]:
    """Every combination of a plan, with `cores` in place of the plan's."""
    for workload in plan.workloads:
        for count in cores:
            for isa in plan.isa:
                for bundle in plan.bundles:
                    for name in plan.backends:
                        yield Cell(bundle, name, isa, count, workload)


def check_host(plan: Plan, cores: Sequence[int], machine: Host) -> None:
    """Check that this machine has what a plan asks for.

    Raises
    ------
    BenchmarkError
        If it has fewer cores, or lacks an instruction set.
    """
    many = [count for count in cores if count > machine.cores]
    if many:
        raise BenchmarkError(
            f"--cores {many[0]}: this process may use {machine.cores} (the machine has {machine.physical_cores}, "
            f"{machine.affinity} are granted, quota {machine.quota or 'none'}); ask for no more"
        )
    for isa in plan.isa:
        lacking = [flag for flag in ISA_LIMITS[isa][1] if flag not in machine.features]
        if lacking:
            raise BenchmarkError(f"--isa {isa}: this CPU has no {lacking[0]}, so there is nothing to limit it to")
