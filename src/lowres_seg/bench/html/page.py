"""Suites and quantizations as HTML pages without scripts, fonts or requests. This is the home of Jinja."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lowres_seg import atomic
from lowres_seg.arguments import flag
from lowres_seg.arguments import path as as_path
from lowres_seg.bench.axes import WORKLOADS
from lowres_seg.bench.html import charts, plots, timelines
from lowres_seg.bench.html.axis import EDGES
from lowres_seg.bench.html.quantization import quantization
from lowres_seg.bench.suite import Suite
from lowres_seg.bundle.reports import QuantizeReport


def report(suite: Suite, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a suite as one self-contained HTML page.

    Raises
    ------
    InputError
        If the file exists and not `force`, or cannot be written.
    """
    _write(render(suite), as_path(path, "path to write"), force=flag(force, "force"))


def report_quantization(quantized: QuantizeReport, name: str, path: Path, *, force: bool = False) -> None:
    """Write the report of a quantization as one self-contained HTML page; errors as of `report`.

    Parameters
    ----------
    quantized : QuantizeReport
    name : str
        Name of its bundle, or of its file.
    path : pathlib.Path
    force : bool
        Replace a file that exists.
    """
    _write(render_quantization(quantized, name), path, force=force)


def render(suite: Suite) -> str:
    """HTML of a suite."""
    measured = [b for b in suite.benchmarks if b.status == "measured"]
    return _render(
        "suite.html.j2",
        suite=suite,
        measured=measured,
        pareto=plots.pareto(measured),
        speed=[*charts.speed(measured), *charts.by_isa(measured), *charts.cold(measured), *charts.roofline(measured)],
        memory=charts.memory(measured),
        timeline=timelines.timeline(measured),
        lines=charts.cores(measured),
        stacks=charts.stages(measured),
        cases=plots.cases_of_suite(measured),
        means=plots.means(measured),
        classes=plots.classes(measured),
        quantizations=[
            quantization(f"quantize-{n}", name, found) for n, (name, found) in enumerate(suite.quantized.items())
        ],
        pictures=[(key, list(group)) for key, group in groupby(suite.pictures, lambda p: (p.bundle, p.case))],
        told=plots.told(suite),
        workloads=WORKLOADS,
    )


def render_quantization(quantized: QuantizeReport, name: str) -> str:
    """HTML of the report of a quantization."""
    return _render("quantization.html.j2", one=quantization("quantize", name, quantized))


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("lowres_seg.bench.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(seconds=charts.seconds, mib=charts.mib, edges=EDGES)
    return environment.get_template(template).render(**values)


def _write(text: str, path: Path, *, force: bool) -> None:
    with atomic.file(path, force=force) as staged:
        staged.write_text(text, encoding="utf-8")
