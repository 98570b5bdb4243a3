"""The command that segments: predict."""

from __future__ import annotations

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
    compiled_cache,
    one_of,
    ram_bytes,
)
from lowres_seg.cli.outcomes import case_json, skipped_line, summary_line, tell, write_about
from lowres_seg.cli.result_options import (
    Border,
    BrainBorder,
    BrainBundle,
    ChosenLabels,
    Crop,
    Like,
    Scores,
    check_together,
)
from lowres_seg.cli.screen import ScanBar, err, importing, out, plain, print_json, steps
from lowres_seg.extras import require
from lowres_seg.wording import counted

if TYPE_CHECKING:  # help needs neither OpenVINO nor nibabel
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.cohort.jobs import Outcome


@app.command()
def predict(
    context: typer.Context,
    bundle: BundlePath,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Scans (.nii.gz, .nii, .mgz, .nrrd); folders, zips or files of DICOM; the DICOMweb address of a study "
            "or series; CHANNEL=PATH for each channel of one scan, or a DICOM folder and CHANNEL=SERIES for each; or a "
            "table of cases (.csv, .tsv).",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Mask to write (as scans; .dcm of DICOM; .json if the bundle classifies), or a folder for several "
            "scans.",
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
    brain_mask: BrainBundle = None,
    brain_border: BrainBorder = None,
    scores: Scores = None,
    labels: ChosenLabels = None,
    border: Border = None,
    crop: Crop = False,
    like: Like = None,
    picture: Annotated[
        bool,
        typer.Option("--picture", help="Also write a PNG beside each mask: three planes, outlines, sides. [picture]"),
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
        from lowres_seg.cohort import volume_table as volume_tables
        from lowres_seg.cohort.cases import files_of
        from lowres_seg.cohort.finish import Finish
        from lowres_seg.cohort.jobs import list_jobs, run_jobs
        from lowres_seg.cohort.ledger import Ledger
        from lowres_seg.cohort.listing import MASKS, table_of, without_own
        from lowres_seg.cohort.naming import is_folder
        from lowres_seg.dicom.inputs import understood, with_sources
        from lowres_seg.dicom.output import as_segmentations, segments_of
        from lowres_seg.dicom.remote import addresses, fetched, stored
        from lowres_seg.runtime.alignment import aligned
        from lowres_seg.runtime.brain_mask import BrainMask
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
    is_dicom = output.lower().endswith(".dcm")
    check_together(manifest, labels=labels, border=border, crop=crop, like=like, scores=scores, dicom=is_dicom)
    if picture and not masks:
        raise typer.BadParameter("the bundle gives no mask", param_hint="--picture")
    if picture:
        require("picture")
    into_folder = is_folder(output, MASKS if masks else (".json",))
    if resume and force:
        raise typer.BadParameter("keeps what is done, and --force replaces it; choose one", param_hint="--resume")
    if resume and not into_folder:
        raise typer.BadParameter("goes with a folder, whose ledger knows what is done", param_hint="--resume")
    finish = Finish.checked(manifest, labels, border, crop=crop, like=like, scores=scores)
    label_names = finish.label_names(manifest)
    segments = segments_of(output, opened, label_names, codes=codes, kind=segmentation_type)
    servers = addresses(inputs)
    if store and not (servers and is_dicom):
        raise typer.BadParameter("needs a DICOMweb address and an output such as mask.dcm", param_hint="--store")
    if servers:
        if not into_folder:
            atomic.check_target(Path(output), force=force)
        with steps(quiet=quiet) as notify:
            notify(f"fetching from {next(iter(servers.values())).host}")
            inputs = context.with_resource(fetched(inputs, servers))
    named, own = without_own(inputs, output)
    if own:
        err.print(f"[yellow]note:[/] {plain(skipped_line(own))}")
    if brain_border is not None and brain_mask is None:
        raise typer.BadParameter("goes with --brain-mask, whose mask it grows", param_hint="--brain-border")
    brain_bundle = None if brain_mask is None else Bundle.open(brain_mask, require_key=require_key)
    reads = [bundle, *filter(None, [required(require_key), like, brain_mask])]
    cases = table_of(named, manifest.channels)
    scans = [Path(word) for name in inputs for word in (name, name.partition("=")[2]) if word]
    scans += [] if cases is None else files_of(cases)
    replaces_table = force or (resume and volume_table is not None and volume_tables.is_table(volume_table))
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
        picture=picture,
        masks=masks,
        spread_map=spread_map,
        scored=() if scores is None else list(label_names.values()),
        reads=reads,
    )
    jobs = with_sources(jobs, dicom, series)
    jobs = as_segmentations(jobs, opened, segments, reference=reference, kind=kind)
    options: dict[str, Any] = {"apply_mask": apply_mask, "reproducible": reproducible, **finish.options}
    where = None if anonymous or not servers else str(next(iter(servers.values())))
    further_words = {"reference": reference, "align": align, "segmentation_type": segmentation_type, "address": where}
    options |= {name: word for name, word in further_words.items() if word is not None}
    if brain_bundle is not None:
        options |= {"brain_mask": brain_bundle.digest, **({"brain_border": brain_border} if brain_border else {})}
    ledger = None
    if into_folder:
        names = label_names.values()
        ledger = Ledger(Path(output), opened.digest, __version__, options, labels=names, anonymous=anonymous)
    if further:  # they are none of the masks, and not the ledger
        own_files = [file for job in jobs for file in job.files] + ([] if ledger is None else [ledger.path])
        atomic.check_targets([*further, *own_files], force=True)
    cache = compiled_cache(no_cache=no_cache, key=opened.signed_by)
    # Networks of both are never there together where memory is bounded.
    lean = len(jobs) == 1 or (brain_bundle is not None and bound is not None)
    segmenter = Segmenter.load(
        opened,
        threads=threads,
        lean=lean,
        max_ram_bytes=bound,
        reproducible=reproducible,
        cache=cache,
    )
    if threads is not None and segmenter.threads < threads:
        runs = f"{segmenter.threads} {'run' if segmenter.threads > 1 else 'runs'}"
        err.print(f"[yellow]note:[/] --threads {threads}: {runs}, one for each processor that this process may use")
    brain = None
    if brain_bundle is not None:
        brain = BrainMask(
            Segmenter.load(
                brain_bundle,
                threads=threads,
                lean=lean,
                max_ram_bytes=bound,
                reproducible=reproducible,
                cache=cache,
            ),
            brain_border or 0.0,
        )
        brain.channels(manifest.channels)
    outcomes: list[Outcome] = []
    before = [] if brain_bundle is None else [f"brain-mask.{stage.name}" for stage in brain_bundle.manifest.stages]
    stages = before + [stage.name for stage in manifest.stages]
    shown = not as_json and not quiet
    bar = ScanBar(len(jobs), stages, quiet=quiet)
    results = run_jobs(
        segmenter,
        jobs,
        force=force,
        ledger=ledger,
        resume=resume,
        digests=provenance is not None,
        progress=bar.moves,
        finish=finish,
        align=partial(aligned, reference=reference, by_header=by_header),
        brain=brain,
    )
    whole = True
    with endings.put_off():
        try:
            for outcome in bar.follow(results):
                outcomes.append(outcome)
                tell(outcome, shown=shown, verbose=verbose)
        finally:  # also where the command is asked to end
            if volume_table is not None:
                table = partial(volume_tables.write, outcomes=outcomes, labels=label_names, anonymous=anonymous)
                whole = write_about(table, volume_table, force=replaces_table, shown=shown)
            if class_table is not None:
                table = partial(class_tables.write, outcomes=outcomes, pipeline=manifest, anonymous=anonymous)
                whole &= write_about(table, class_table, force=replaces_classes, shown=shown)
            if provenance is not None:
                content = provenances.written(
                    opened,
                    outcomes,
                    threads=segmenter.threads,
                    networks_from_cache=cache is not None and cache.was_used,
                    options={**options, "max_ram_bytes": bound},
                    tool=__version__,
                    anonymous=anonymous,
                    brain=brain_bundle,
                )
                write = partial(provenances.write, content=content)
                whole &= write_about(write, provenance, force=replaces_provenance, shown=shown)
            if len(jobs) > 1 and not as_json and (not quiet or len(outcomes) < len(jobs)):
                err.print(plain(summary_line(outcomes, len(jobs), [] if ledger is None else own)))
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
                **({} if brain_bundle is None else {"brain_mask": brain_bundle.digest}),
                "threads": segmenter.threads,
                "peak_rss_bytes": host.peak_rss_bytes(),
                "summary": {status: statuses.count(status) for status in ("done", "failed", "skipped")},
                **({} if anonymous else {"own": own}),
                "cases": [
                    case_json(number, outcome, anonymous=anonymous) for number, outcome in enumerate(outcomes, start=1)
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


def _check_tables(manifest: Manifest, volumes: Path | None, classes: Path | None) -> None:
    """Refuse a table of what the bundle does not give."""
    if classes is not None and not manifest.numbers:
        raise typer.BadParameter("the bundle gives no classes; name --volume-table", param_hint="--class-table")
    if volumes is not None and not manifest.labels:
        raise typer.BadParameter("the bundle gives no mask; name --class-table", param_hint="--volume-table")
