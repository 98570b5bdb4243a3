"""The commands of a workstation: predict, verify."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowres_seg import __version__, endings
from lowres_seg.cli.options import (
    EXIT_ERROR,
    EXIT_GATE,
    Align,
    AsJson,
    BundlePath,
    Codes,
    Debug,
    Force,
    MaxRam,
    NoCache,
    Quiet,
    Reference,
    RequireKey,
    SegmentationType,
    Series,
    Store,
    Threads,
    Verbose,
    app,
    debugging,
    one_of,
    ram_bytes,
)
from lowres_seg.cli.outcomes import case_content, own_text, summary_text
from lowres_seg.cli.screen import ScanBar, err, importing, out, plain, print_error, print_json, steps
from lowres_seg.errors import LowresSegError
from lowres_seg.wording import counted

if TYPE_CHECKING:  # help needs neither OpenVINO nor nibabel
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.cohort.jobs import Outcome
    from lowres_seg.runtime.compiled_cache import CompiledCache


@app.command()
def predict(
    context: typer.Context,
    bundle: BundlePath,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Scans: NIfTI files; folders, zips or files of DICOM; the DICOMweb address of a study or series; "
            "CHANNEL=PATH for each channel of one scan, or a DICOM folder and CHANNEL=SERIES for each; or a table of "
            "cases (.csv, .tsv).",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Mask to write (.nii.gz, .nii; .dcm of DICOM; .json if the bundle classifies), or a folder for "
            "several scans.",
        ),
    ],
    *,
    series: Series = None,
    reference: Reference = None,
    align: Align = None,
    codes: Codes = None,
    segmentation_type: SegmentationType = None,
    store: Store = False,
    volume_table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write a table with the millilitres of each label.")
    ] = None,
    class_table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write a table with each class's value and the decision.")
    ] = None,
    apply_mask: Annotated[
        bool,
        typer.Option("--apply-mask", help="Also write each scan with all outside the labels set to zero."),
    ] = False,
    spread_map: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Also write how far the samples of a bundle with dropout differ (.nii.gz)."),
    ] = None,
    provenance: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Write what an auditor needs: digests, versions, machine, options, doubts."),
    ] = None,
    anonymous: Annotated[
        bool,
        typer.Option("--anonymous", help="Leave paths and host out of ledger, tables, provenance and --json."),
    ] = False,
    threads: Threads = None,
    reproducible: Annotated[
        bool, typer.Option("--reproducible", help="Give the same mask with any number of threads.")
    ] = False,
    max_ram: MaxRam = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip the scans that the folder's ledger knows as done.")
    ] = False,
    require_key: RequireKey = None,
    no_cache: NoCache = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 if a result has a doubt.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Segment scans: any grid in, a mask on the same grid out.

    Orientation and spacing may be any.
    """
    with importing():
        from lowres_seg import atomic, host
        from lowres_seg.bundle.bundle import Bundle
        from lowres_seg.bundle.signature import required
        from lowres_seg.cohort import class_table as class_tables
        from lowres_seg.cohort import provenance as provenances
        from lowres_seg.cohort.cases import files_of
        from lowres_seg.cohort.jobs import is_table, list_jobs, run_jobs, write_table
        from lowres_seg.cohort.ledger import Ledger
        from lowres_seg.cohort.listing import MASKS, table_of, without_own
        from lowres_seg.cohort.naming import is_folder
        from lowres_seg.dicom.inputs import understood, with_sources
        from lowres_seg.dicom.output import as_segmentations, segments_of
        from lowres_seg.dicom.remote import addresses, fetched, stored
        from lowres_seg.runtime.alignment import aligned
        from lowres_seg.runtime.segmenter import Segmenter

    bound = ram_bytes(max_ram)
    kind = one_of("--segmentation-type", segmentation_type or "binary", ("binary", "labelmap"))
    by_header = align is not None and one_of("--align", align, ("header",)) == "header"
    opened = Bundle.open(bundle, require_key=require_key)
    manifest = opened.manifest
    if reference is not None and reference not in manifest.channels:
        raise typer.BadParameter(f"{reference!r}, expected {' or '.join(manifest.channels)}", param_hint="--reference")
    masks = bool(manifest.labels)
    if spread_map is not None and not any(stage.samples for stage in manifest.stages):
        raise typer.BadParameter("is for bundles whose networks keep dropout on", param_hint="--spread-map")
    _check_tables(manifest, volume_table, class_table)
    into_folder = is_folder(output, MASKS if masks else (".json",))
    if resume and force:
        raise typer.BadParameter("keeps what is done, and --force replaces it; choose one", param_hint="--resume")
    if resume and not into_folder:
        raise typer.BadParameter("goes with a folder, whose ledger knows what is done", param_hint="--resume")
    segments = segments_of(output, opened, codes=codes, kind=segmentation_type)
    servers = addresses(inputs)
    if store and not (servers and output.lower().endswith(".dcm")):
        raise typer.BadParameter("needs a DICOMweb address and an output such as mask.dcm", param_hint="--store")
    if servers:
        if not into_folder:
            atomic.check_target(Path(output), force=force)
        with steps(quiet=quiet) as notify:
            notify(f"fetching from {next(iter(servers.values())).host}")
            inputs = context.with_resource(fetched(inputs, servers))
    named, own = without_own(inputs, output)
    if own:
        err.print(f"[yellow]note:[/] {plain(own_text(own))}")
    reads = [bundle, *filter(None, [required(require_key)])]
    cases = table_of(named, manifest.channels)
    scans = [Path(word) for name in inputs for word in (name, name.partition("=")[2]) if word]
    scans += [] if cases is None else files_of(cases)
    replaces_table = force or (resume and volume_table is not None and is_table(volume_table))
    replaces_classes = force or (resume and class_table is not None and class_tables.is_written(class_table, manifest))
    replaces_provenance = force or (resume and provenance is not None and provenances.is_provenance(provenance))
    further = []
    files = (volume_table, replaces_table), (class_table, replaces_classes), (provenance, replaces_provenance)
    for file, replaced in files:
        if file is not None:
            atomic.check_target(file, force=replaced, inputs=[*reads, *scans])
            further.append(file)
    reads += further
    dicom = None if cases is not None else understood(named, manifest.channels)
    jobs = list_jobs(
        cases if cases is not None else named if dicom is None else dicom.scans,
        output,
        manifest.channels,
        force=force or resume,
        apply_mask=apply_mask,
        masks=masks,
        spread_map=spread_map,
        reads=reads,
    )
    jobs = with_sources(jobs, dicom, series)
    jobs = as_segmentations(jobs, opened, segments, reference=reference, kind=kind)
    options: dict[str, Any] = {"apply_mask": apply_mask, "reproducible": reproducible}
    where = None if anonymous or not servers else str(next(iter(servers.values())))
    further_words = {"reference": reference, "align": align, "segmentation_type": segmentation_type, "address": where}
    options |= {name: word for name, word in further_words.items() if word is not None}
    ledger = None
    if into_folder:
        labels = manifest.label_names.values()
        ledger = Ledger(Path(output), opened.digest, __version__, options, labels=labels, anonymous=anonymous)
    if further:  # they are none of the masks, and not the ledger
        own_files = [file for job in jobs for file in job.files] + ([] if ledger is None else [ledger.path])
        atomic.check_targets([*further, *own_files], force=True)
    cache = _cache(no_cache=no_cache, key=opened.signed_by)
    segmenter = Segmenter.load(
        opened,
        threads=threads,
        lean=len(jobs) == 1,
        max_ram_bytes=bound,
        reproducible=reproducible,
        cache=cache,
    )
    if threads is not None and segmenter.threads < threads:
        runs = f"{segmenter.threads} {'run' if segmenter.threads > 1 else 'runs'}"
        err.print(f"[yellow]note:[/] --threads {threads}: {runs}, one for each processor that this process may use")
    outcomes: list[Outcome] = []
    shown = not as_json and not quiet
    bar = ScanBar(len(jobs), [stage.name for stage in manifest.stages], quiet=quiet)
    results = run_jobs(
        segmenter,
        jobs,
        force=force,
        ledger=ledger,
        resume=resume,
        digests=provenance is not None,
        progress=bar.moves,
        align=partial(aligned, reference=reference, by_header=by_header),
    )
    whole = True
    with endings.put_off():
        try:
            for outcome in bar.follow(results):
                outcomes.append(outcome)
                _show(outcome, shown=shown, verbose=verbose)
        finally:  # also where the command is asked to end
            if volume_table is not None:
                table = partial(write_table, outcomes=outcomes, labels=manifest.label_names, anonymous=anonymous)
                whole = _written(table, volume_table, force=replaces_table, shown=shown)
            if class_table is not None:
                table = partial(class_tables.write, outcomes=outcomes, pipeline=manifest, anonymous=anonymous)
                whole &= _written(table, class_table, force=replaces_classes, shown=shown)
            if provenance is not None:
                content = provenances.written(
                    opened,
                    outcomes,
                    threads=segmenter.threads,
                    networks_from_cache=cache is not None and cache.was_used,
                    options={**options, "max_ram_bytes": bound},
                    tool=__version__,
                    anonymous=anonymous,
                )
                write = partial(provenances.write, content=content)
                whole &= _written(write, provenance, force=replaces_provenance, shown=shown)
            if len(jobs) > 1 and not as_json and (not quiet or len(outcomes) < len(jobs)):
                err.print(plain(summary_text(outcomes, len(jobs), [] if ledger is None else own)))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if store and not failed:
        with steps(quiet=quiet) as notify:
            notify("storing the segmentation")
            study = stored(Path(output), servers)
        if shown:
            out.print(plain(f"{output}: stored in {study}"))
    if as_json:
        statuses = [outcome.status for outcome in outcomes]
        print_json(
            {
                "bundle": manifest.name if anonymous else str(bundle),
                "threads": segmenter.threads,
                "peak_rss_bytes": host.peak_rss_bytes(),
                "summary": {status: statuses.count(status) for status in ("done", "failed", "skipped")},
                **({} if anonymous else {"own": own}),
                "cases": [
                    case_content(number, outcome, anonymous=anonymous)
                    for number, outcome in enumerate(outcomes, start=1)
                ],
            }
        )
    if failed or not whole:
        raise typer.Exit(EXIT_ERROR)
    doubted = sum(bool(outcome.doubts) for outcome in outcomes)
    if strict and doubted:
        have = "has a doubt" if len(outcomes) == 1 else "have doubts" if doubted > 1 else "has doubts"
        some = f"{doubted} of {counted(len(outcomes), 'result')} {have}"
        err.print(f"[bold red]error:[/] {some}, and --strict allows none")
        raise typer.Exit(EXIT_GATE)


@app.command()
def verify(
    bundle: BundlePath,
    *,
    threads: Threads = None,
    max_ram: MaxRam = None,
    require_key: RequireKey = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every file of a bundle, and run its reference case."""
    with importing():
        from lowres_seg.bundle.bundle import Bundle
        from lowres_seg.bundle.contents import SIGNATURE_NAME
        from lowres_seg.runtime.segmenter import Segmenter

    bound_bytes = ram_bytes(max_ram)
    with steps(quiet=quiet) as notify:
        notify("checking files")
        opened = Bundle.open(bundle, require_key=require_key)
        cache = _cache(no_cache=no_cache, key=opened.signed_by)
        segmenter = Segmenter.load(opened, threads=threads, lean=True, max_ram_bytes=bound_bytes, cache=cache)
        notify("running the reference case")
        result = segmenter.self_test()
    bound = segmenter.manifest.reference
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "sha256": opened.digest,
                "files": len(segmenter.manifest.files),
                "signed_by": opened.signed_by,
                "bound": bound.model_dump(),
                **asdict(result),
            }
        )
    elif not quiet or not result.passed:
        worst = max(result.max_abs_diff.values(), default=0.0)
        by = "" if opened.signed_by is None else f", signed by the key {opened.signed_by[:16]}…"
        if opened.signed_by is None and (bundle / SIGNATURE_NAME).exists():
            by = "; its signature was not checked, name the key with --require-key"
        files = counted(len(segmenter.manifest.files), "file")
        out.print(plain(f"{bundle}: sha256 {opened.digest[:12]}…, {files} as listed{by}"))
        flips = f", {100 * result.flipped:.4f}% of the voxels flip (allowed {100 * bound.max_flipped:g}%)"
        out.print(
            f"reference case: scores differ by up to {worst:.2g} (allowed {bound.max_abs_diff:g})"
            + (flips if segmenter.manifest.labels else "")
        )
        out.print(
            "[green]passed[/]"
            if result.passed
            else "[bold red]failed[/]: this machine does not give what the bundle promises"
        )
    if not result.passed:
        raise typer.Exit(EXIT_GATE)


def _check_tables(manifest: Manifest, volumes: Path | None, classes: Path | None) -> None:
    """Refuse a table of what the bundle does not give."""
    if classes is not None and not manifest.numbers:
        raise typer.BadParameter("the bundle gives no classes; name --volume-table", param_hint="--class-table")
    if volumes is not None and not manifest.labels:
        raise typer.BadParameter("the bundle gives no mask; name --class-table", param_hint="--volume-table")


def _cache(*, no_cache: bool, key: str | None) -> CompiledCache | None:
    """The user's compiled networks. With a required key they are left alone: nobody has signed them."""
    from lowres_seg.runtime.compiled_cache import CompiledCache

    return None if no_cache or key is not None else CompiledCache.of_user()


def _show(outcome: Outcome, *, shown: bool, verbose: bool) -> None:
    """Print what became of a scan."""
    if outcome.error is not None:
        if debugging():
            traceback.print_exception(outcome.error)
        print_error(outcome.error)
        return
    if outcome.again:
        err.print(f"[yellow]note:[/] {plain(outcome.job.name)}: was done again, because {plain(outcome.again)}")
    for doubt in outcome.doubts:
        err.print(f"[yellow]note:[/] {plain(outcome.job.name)}: {plain(doubt)}")
    if shown:
        found = [f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items()]
        found += [f"{name} {value:.4f}" for name, value in outcome.numbers.items()]
        seconds = "done before" if outcome.skipped else f"{sum(outcome.timings_s.values()):.2f} s"
        out.print(plain(f"{outcome.job.output}: {', '.join(found)} ({seconds})"))
        for path in outcome.job.masked.values():
            out.print(plain(f"{path}: written, with zero outside the labels"))
        if outcome.job.spread is not None:
            out.print(plain(f"{outcome.job.spread}: written, the spread of the samples"))
        if verbose:
            out.print("  " + ", ".join(f"{step} {s:.3f} s" for step, s in outcome.timings_s.items()))


def _written(write: Callable[..., None], path: Path, *, force: bool, shown: bool) -> bool:
    """Write a file about all scans; False if it cannot be, which is said and keeps no mask from being written."""
    try:
        write(path, force=force)
    except LowresSegError as error:
        print_error(error)
        return False
    if shown:
        out.print(plain(f"{path}: written"))
    return True
