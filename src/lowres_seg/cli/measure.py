"""The commands that measure and judge: bench, compare, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lowres_seg.bench.axes import ISA_LIMITS, WORKLOADS
from lowres_seg.bench.backends import BACKENDS
from lowres_seg.cli.options import AsJson, Debug, Force, IgnoreLabel, Quiet, app, one_of
from lowres_seg.cli.screen import err, importing, out, plain, print_json, steps
from lowres_seg.errors import BenchmarkError, RegressionError
from lowres_seg.wording import counted


@app.command()
def bench(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="BUNDLE...", help="Folders of the bundles.")] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Suite to write, as JSON.")],
    plan: Annotated[Path | None, typer.Option(help="Plan file (TOML); the options below replace what it says.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Table of cases to judge on: labelled, or with classes.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Table of other cases, to calibrate onnxruntime-int8 on.")
    ] = None,
    scan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Scan to time, without labels; CHANNEL=PATH, repeated, for several.",
            show_default="the first case, or the bundle's reference case",
        ),
    ] = None,
    cores: Annotated[
        str | None, typer.Option(metavar="N,...", help="Numbers of cores.", show_default="what this process may use")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help=f"{', '.join(BACKENDS)}."),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help=f"{', '.join(ISA_LIMITS)}: the CPU as it is, or limited."),
    ] = None,
    workloads: Annotated[
        str | None, typer.Option("--what", metavar="NAME,...", help=f"{', '.join(WORKLOADS)}.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="recipe.toml, its name, or folder that the bundles come from, for torch's own run."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of the recipe's weights.", show_default="the recipe's folder, else its package"),
    ] = None,
    hd95: Annotated[
        str | None, typer.Option(help="Definition: max-directed, monai, medpy, surface-distance or brats.")
    ] = None,
    ignore_label: IgnoreLabel = None,
    passes: Annotated[int | None, typer.Option(min=1, help="Processes for each measurement.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Values that each of them gives.")] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Keep no slices of cases for the report.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure latency, memory, Dice and HD95 of bundles.

    Backends, cores and instruction sets are taken in turn.
    """
    with importing():
        from lowres_seg import atomic
        from lowres_seg.bench import Plan
        from lowres_seg.bench import bench as run

    atomic.check_target(output, force=force)
    given: dict[str, Any] = {
        "cases": cases,
        "calibrate": calibrate,
        "cores": _listed("--cores", cores),
        "backends": _listed("--backend", backend),
        "isa": _listed("--isa", isa),
        "what": _listed("--what", workloads),
        "hd95": hd95,
        "ignore_labels": ignore_label or None,
        "passes": passes,
        "rounds": rounds,
        "pictures": False if no_pictures else None,
    }
    if recipe is not None:
        from lowres_seg.export import recipes

        recipe = recipes.chosen(recipe)
    named = [_planned(path, recipe, weights) for path in bundles or []]
    if recipe is not None and named and not any("recipe" in bundle for bundle in named):
        raise BenchmarkError(
            f"{recipe}: none of the bundles was exported from this recipe; name the one they come from, or export again"
        )
    given = {name: value for name, value in given.items() if value is not None}
    if plan is not None:
        chosen = Plan.read(plan, named)
    elif not named:
        raise typer.BadParameter("name a bundle, or a plan with --plan", param_hint="BUNDLE...")
    else:
        chosen = Plan.build("options", {"bundles": named})
    if scan is not None:
        from lowres_seg.bundle.bundle import manifest_of

        given["scan"] = _scan(scan, manifest_of(chosen.bundles[0].path).channels)
    if given:
        chosen = Plan.build("options", {**chosen.model_dump(), **given})
    if calibrate is not None:
        _check_calibrated(calibrate, chosen.backends)
    atomic.check_target(output, force=force, inputs=_inputs(chosen, plan))
    with steps(quiet=quiet, lines=True) as notify:
        suite = run(chosen, notify=notify, remark=notify.remark)
    suite.write(output, force=force)
    if as_json:
        print_json(suite.model_dump(mode="json"))
    elif not quiet:
        from lowres_seg.cli import suite_text

        for line in suite_text.lines(suite):
            out.print(plain(line))
        out.print(plain(f"{output}: written; see it with: lowres-seg report {output} -o report.html"))
    if suite.partial:
        for doubt in (*suite.doubts, *suite.benchmark_doubts()) if quiet or as_json else ():
            err.print(plain(f"doubt: {doubt}"))
        err.print(f"[bold red]error:[/] {plain(str(output))}: a part of the plan is missing; the doubts say why")
        raise typer.Exit(1)


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE.json", help="Suite from before.")],
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Suite from after.")],
    *,
    max_slowdown: Annotated[float, typer.Option(min=0, help="Allowed rise of latency, in percent.")] = 5.0,
    max_memory_rise: Annotated[float, typer.Option(min=0, help="Allowed rise of peak memory, in percent.")] = 10.0,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Allowed drop of the mean Dice of a region, of AUC, of accuracy.")
    ] = 0.005,
    max_hd95_rise: Annotated[float, typer.Option(min=0, help="Allowed rise of its mean HD95, in mm.")] = 1.0,
    max_probability_change: Annotated[
        float, typer.Option(min=0, help="Allowed change of the value of a class in any case.")
    ] = 0.02,
    max_flipped_decisions: Annotated[
        int, typer.Option(min=0, metavar="N", help="Number of cases that may get another decision.")
    ] = 0,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="time, memory, accuracy; accuracy alone also of two hosts.",
            show_default="all of them",
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, json or github.")] = "text",
    debug: Debug = False,
) -> None:
    """Say whether a suite is slower, fatter or worse than its base.

    The exit code is 3 if it is.
    """
    with importing():
        from lowres_seg.bench import Suite, Tolerances
        from lowres_seg.bench import compare as run
        from lowres_seg.bench.comparison import WHAT

    chosen = one_of("--format", form, ("text", "markdown", "json", "github"))
    tolerances = Tolerances(
        max_slowdown / 100,
        max_memory_rise / 100,
        max_drop,
        max_hd95_rise,
        max_probability_change,
        max_flipped_decisions,
    )
    asked = [one_of("--what", word, WHAT) for word in _listed("--what", what) or WHAT]
    comparison = run(Suite.read(base), Suite.read(new), tolerances, what=asked)
    out.print(plain(comparison.render(chosen)))
    if not comparison.met:
        raise RegressionError(f"{new}: {counted(len(comparison.regressions), 'regression')} against {base}")


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SUITE.json", help="What `bench` wrote; or a quantized bundle, or its reports/quantize.json."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Page to write (HTML).")],
    *,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a suite, or a quantization, as one page.

    The page opens without a network.
    """
    with importing():
        from lowres_seg import atomic
        from lowres_seg.bench.html import page
        from lowres_seg.bench.html.sources import Quantization, read
        from lowres_seg.extras import require

    require("bench")
    atomic.check_target(output, force=force, inputs=[source])
    found = read(source)
    if isinstance(found, Quantization):
        page.report_quantization(found.report, found.name, output, force=force)
    else:
        page.report(found, output, force=force)
    if not quiet:
        out.print(plain(f"{output}: written"))


def _listed(option: str, text: str | None) -> list[Any] | None:
    """Split the value of an option at its commas; numbers for --cores."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if option == "--cores":
        wrong = [word for word in words if not (word.isascii() and word.isdigit()) or int(word) < 1]
        if wrong:
            raise typer.BadParameter(f"{wrong[0]!r}, expected numbers such as 1,2,4", param_hint=option)
        return [int(word) for word in words]
    return words


def _planned(path: Path, recipe: Path | None, weights: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {"path": path, "weights": weights}
    if recipe is not None:
        from lowres_seg.bundle.bundle import manifest_of
        from lowres_seg.export.importers import digest

        # Several bundles may come from several recipes. torch runs those that come from this one.
        if digest(recipe) == manifest_of(path).lineage.recipe:
            found["recipe"] = recipe
    return found


def _check_calibrated(table: Path, names: Sequence[str]) -> None:
    from lowres_seg.bench import backends

    if not any(isinstance(backends.backend(name), backends.Quantizing) for name in names):
        raise BenchmarkError(
            f"{table}: no backend is calibrated, found {', '.join(names)}; add onnxruntime-int8 to --backend, or leave "
            "--calibrate out"
        )


def _inputs(plan: Any, file: Path | None) -> list[Path]:
    """Files and folders that a plan reads."""
    from lowres_seg.bundle.bundle import manifest_of
    from lowres_seg.cohort.cases import Cases, files_of

    found = [] if file is None else [file]
    found += [path for bundle in plan.bundles for path in (bundle.path, bundle.recipe) if path is not None]
    found += (plan.scan or {}).values()
    for table in (plan.cases, plan.calibrate):
        if table is not None:
            found += files_of(Cases.read(table, manifest_of(plan.bundles[0].path).channels))
    return found


def _scan(words: list[str], channels: tuple[str, ...]) -> dict[str, Path]:
    from lowres_seg.cohort.jobs import one_scan

    scan = one_scan(words)
    if isinstance(scan, dict):
        return scan
    if len(channels) != 1:
        raise typer.BadParameter("name the channel of each: CHANNEL=PATH", param_hint="--scan")
    return {channels[0]: scan}
