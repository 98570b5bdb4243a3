"""The commands of a workstation: predict, verify, doctor."""

from __future__ import annotations

import importlib.metadata
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lowres_seg import __version__, atomic, extras, host
from lowres_seg.cli.options import (
    EXIT_ERROR,
    EXIT_GATE,
    AsJson,
    BundlePath,
    Force,
    MaxRam,
    Quiet,
    Threads,
    Verbose,
    app,
    debugging,
    ram_bytes,
)
from lowres_seg.cli.screen import err, followed, out, plain, print_json, steps

if TYPE_CHECKING:  # help needs neither OpenVINO nor nibabel
    from lowres_seg.cohort.jobs import Outcome


@app.command()
def predict(
    bundle: BundlePath,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Scans (.nii, .nii.gz); or CHANNEL=PATH for each channel of one scan."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Mask to write, .json if the bundle classifies; a folder for several scans."
        ),
    ],
    *,
    volume_table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write a table with the millilitres of each label.")
    ] = None,
    apply_mask: Annotated[
        bool,
        typer.Option("--apply-mask", help="Also write each scan with all outside the labels set to zero."),
    ] = False,
    threads: Threads = None,
    max_ram: MaxRam = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment scans: any orientation and spacing in, a mask on the scan's own grid out."""
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.cohort.jobs import list_jobs, run_jobs, write_table
    from lowres_seg.runtime.segmenter import Segmenter

    if volume_table is not None:
        atomic.check_target(volume_table, force=force)
    bound = ram_bytes(max_ram)
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    masks = bool(manifest.labels)
    jobs = list_jobs(inputs, output, manifest.channels, force=force, apply_mask=apply_mask, masks=masks)
    segmenter = Segmenter.load(opened, threads=threads, lean=len(jobs) == 1, max_ram_bytes=bound)
    outcomes = []
    for outcome in followed(run_jobs(segmenter, jobs, force=force), "segmenting", len(jobs), quiet=quiet):
        outcomes.append(outcome)
        if outcome.error is not None:
            if debugging():
                traceback.print_exception(outcome.error)
            err.print(f"[bold red]error:[/] {plain(str(outcome.error))}")
            continue
        for doubt in outcome.doubts:
            err.print(f"[yellow]note:[/] {plain(outcome.job.name)}: {plain(doubt)}")
        if not as_json and not quiet:
            found = [f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items()]
            found += [f"{name} {value:.4f}" for name, value in outcome.numbers.items()]
            out.print(plain(f"{outcome.job.output}: {', '.join(found)} ({sum(outcome.timings_s.values()):.2f} s)"))
            if verbose:
                out.print("  " + ", ".join(f"{step} {s:.3f} s" for step, s in outcome.timings_s.items()))
    if volume_table is not None:
        write_table(volume_table, outcomes, manifest.label_names, force=force)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "threads": segmenter.threads,
                "peak_rss_bytes": host.peak_rss_bytes(),
                "cases": [_case(outcome) for outcome in outcomes],
            }
        )
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(EXIT_ERROR)


@app.command()
def verify(
    bundle: BundlePath,
    *,
    threads: Threads = None,
    max_ram: MaxRam = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check every file of a bundle, and run its reference case on this machine."""
    from lowres_seg.runtime.segmenter import Segmenter

    bound_bytes = ram_bytes(max_ram)
    with steps(quiet=quiet) as notify:
        notify("checking files")
        segmenter = Segmenter.load(bundle, threads=threads, lean=True, max_ram_bytes=bound_bytes)
        notify("running the reference case")
        result = segmenter.self_test()
    bound = segmenter.manifest.reference
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "files": len(segmenter.manifest.files),
                "bound": bound.model_dump(),
                **asdict(result),
            }
        )
    elif not quiet or not result.passed:
        worst = max(result.max_abs_diff.values(), default=0.0)
        out.print(plain(f"{bundle}: {len(segmenter.manifest.files)} files unchanged"))
        out.print(
            f"reference case: scores differ by up to {worst:.2g} (allowed {bound.max_abs_diff:g}), "
            f"{100 * result.flipped:.4f}% of the voxels flip (allowed {100 * bound.max_flipped:g}%)"
        )
        out.print(
            "[green]passed[/]"
            if result.passed
            else "[bold red]failed[/]: this machine does not give what the bundle promises"
        )
    if not result.passed:
        raise typer.Exit(EXIT_GATE)


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Show cores, memory, instruction sets and versions of this machine, and the speed of each precision."""
    from lowres_seg.runtime.openvino_engine import version
    from lowres_seg.runtime.probe import convolution_seconds

    machine = host.inspect()
    seconds = convolution_seconds(threads=machine.threads)
    gains = {precision: seconds["f32"] / value for precision, value in seconds.items()}
    versions = {"lowres-seg": __version__, "openvino": version()}
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "nibabel")}
    missing = {extra: extras.missing(extra) for extra in extras.EXTRAS}
    if as_json:
        print_json(
            {
                **asdict(machine),
                "threads": machine.threads,
                "versions": versions,
                "gain_over_f32": gains,
                "missing": missing,
            }
        )
        return
    quota = "none" if machine.quota is None else f"{machine.quota:g} cores"
    rows = {
        "CPU": machine.cpu,
        "system": f"{machine.system}, Python {machine.python}",
        "cores": f"{machine.physical_cores} physical, {machine.logical_cores} logical, "
        f"{machine.affinity} granted; quota {quota}",
        "threads": f"{machine.threads} (what lowres-seg will use)",
        "memory": f"{machine.memory_limit_bytes / 2**30:.1f} of {machine.memory_bytes / 2**30:.1f} GiB granted",
        "instruction sets": " ".join(machine.features) or "unknown on this system",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "extras": ", ".join(
            f"{extra}: {'missing ' + ' '.join(names) if names else 'installed'}" for extra, names in missing.items()
        ),
    }
    rows |= {
        f"convolutions in {precision}": f"{gain:.1f}× the speed of f32" + _verdict(precision, gain)
        for precision, gain in gains.items()
        if precision != "f32"
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def _case(outcome: Outcome) -> dict[str, Any]:
    return {
        "scan": {channel: str(path) for channel, path in outcome.job.scan.items()},
        "mask": None if outcome.error is not None else str(outcome.job.output),
        "error": None if outcome.error is None else str(outcome.error),
        "voxels": outcome.voxels,
        "volumes_ml": outcome.volumes_ml,
        "numbers": outcome.numbers,
        "timings_s": outcome.timings_s,
        "doubts": list(outcome.doubts),
        "doubt_names": [getattr(doubt, "name", "header") for doubt in outcome.doubts],
    }


def _verdict(precision: str, gain: float) -> str:
    if gain < 1.1:
        return f": {precision} is no faster on this CPU"
    return f": {precision} is faster on this CPU"
