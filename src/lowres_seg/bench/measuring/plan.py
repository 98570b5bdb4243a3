"""What to measure: bundles, and the axes along which each is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lowres_seg.bench.axes import Backend, Isa, What
from lowres_seg.bundle.manifest import first_problem
from lowres_seg.errors import BenchmarkError
from lowres_seg.export import toml_file
from lowres_seg.metrics.agreement import Definition


class Contestant(BaseModel):
    """A bundle that is measured.

    `name` is what it is called in results; the name of its folder if not given. `recipe` and `weights` are what it
    was exported from: torch's own run of the same weights is measured through them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
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


class Plan(BaseModel):
    """What to measure, and how often.

    In each of `passes`, every measurement gets a process of its own, which starts, warms up, and then takes a value
    in each of `rounds`, or several short ones, in turn with all others.

    Attributes
    ----------
    bundles : tuple of Contestant
    backends, cores, isa, what : tuple
        Every combination is measured. No `cores` means as many as this process may use.
    cases : path or None
        Table of labelled cases, for Dice and HD95; the first one's scan is what is timed.
    scan : dict of channel to path, or None
        Scan to time where there are no cases; the bundle's reference case if there is neither.
    hd95 : str
        Definition of HD95; see `lowres_seg.metrics`.
    warm_up : int
        Runs before the first value.
    turn_s : float
        How long a turn lasts at least: a process whose values are shorter takes several in each turn.
    pictures : bool
        Whether to keep pictures of the first case for the report.
    timeout_s : float
        After which a process that gives no answer is ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bundles: tuple[Contestant, ...] = Field(min_length=1)
    backends: tuple[Backend, ...] = Field(default=("openvino",), min_length=1)
    cores: tuple[Annotated[int, Field(ge=1)], ...] = ()
    isa: tuple[Isa, ...] = Field(default=("native",), min_length=1)
    what: tuple[What, ...] = Field(default=("network", "end-to-end"), min_length=1)
    cases: Path | None = None
    scan: dict[str, Path] | None = None
    hd95: Definition = "max-directed"
    passes: int = Field(default=3, ge=1, le=100)
    rounds: int = Field(default=10, ge=1, le=10_000)
    warm_up: int = Field(default=2, ge=0, le=100)
    turn_s: float = Field(default=0.25, ge=0, le=60)
    seed: int = 0
    pictures: bool = True
    timeout_s: float = Field(default=900, gt=0)

    @field_validator("backends", "cores", "isa", "what")
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
            If they are not a valid plan; the message begins with `where`.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BenchmarkError(f"{where}: {first_problem(error)}") from error

    @classmethod
    def read(cls, path: Path, bundles: list[dict[str, Any]] | None = None) -> Plan:
        """Read a plan file; its paths are relative to it.

        Parameters
        ----------
        path : pathlib.Path
            TOML.
        bundles : list of dict, optional
            What is measured instead of the bundles of the file, which then need not name any.

        Raises
        ------
        BenchmarkError
            If it cannot be read, or is no valid plan.
        """
        content = toml_file.read(path, BenchmarkError)
        here = path.parent
        for bundle in content.get("bundles", []):
            bundle |= {key: here / bundle[key] for key in ("path", "recipe", "weights") if key in bundle}
        if "cases" in content:
            content["cases"] = here / content["cases"]
        if isinstance(content.get("scan"), dict):
            content["scan"] = {channel: here / file for channel, file in content["scan"].items()}
        if bundles:
            content["bundles"] = bundles
        return cls.build(str(path), content)


@dataclass(frozen=True)
class Cell:
    """One combination of a plan: what a process measures."""

    bundle: Contestant
    backend: Backend
    isa: Isa
    cores: int
    what: What

    @property
    def key(self) -> tuple[str, Backend, Isa, int, What]:
        """As that of the benchmark that comes of it."""
        return (self.bundle.name, self.backend, self.isa, self.cores, self.what)

    def __str__(self) -> str:
        limited = "" if self.isa == "native" else f", limited to {self.isa}"
        return f"{self.bundle.name}, {self.backend}, {self.cores} cores{limited}, {self.what}"


def cells(plan: Plan, cores: tuple[int, ...]) -> Iterator[Cell]:
    """Every combination, with `cores` in place of the plan's."""
    for what in plan.what:
        for count in cores:
            for isa in plan.isa:
                for bundle in plan.bundles:
                    for backend in plan.backends:
                        yield Cell(bundle, backend, isa, count, what)
