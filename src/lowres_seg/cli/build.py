"""The commands of a build machine: export, quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowres_seg.cli.options import AsJson, BundlePath, Debug, Force, IgnoreLabel, Quiet, amount, app, one_of, ram_bytes
from lowres_seg.cli.screen import importing, out, plain, print_json, steps
from lowres_seg.wording import columns, counted

if TYPE_CHECKING:
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.quantize import ClassLimits, Limits


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="recipe.toml, or the name of one that comes along, such as deepbet; nnU-Net v2 folder, fold or "
            "checkpoint; MONAI bundle; TorchScript, ONNX or checkpoint.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to write.")],
    *,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe.toml, or its name, that goes with a single file of weights.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of the recipe's weights.", show_default="the recipe's folder, else its package"),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Key of the checkpoint that holds the weights.", show_default="what fits"),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Scan to check parity on as well; CHANNEL=PATH, repeated, for several."),
    ] = None,
    folds: Annotated[
        str | None, typer.Option(metavar="0,1", help="Folds of an nnU-Net folder.", show_default="all of them")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Checkpoint of each fold: final, best or latest.", show_default="final, else best"),
    ] = None,
    mirror: Annotated[bool, typer.Option(help="Mirror as nnU-Net does at inference.")] = True,
    orientation: Annotated[
        str | None,
        typer.Option(
            help="Orientation of the files that nnU-Net was trained on, such as LPS.", show_default="as stored"
        ),
    ] = None,
    plans_network: Annotated[
        bool, typer.Option("--plans-network", help="A trainer that is not nnU-Net's trains the network of its plans.")
    ] = False,
    configurations: Annotated[
        str | None,
        typer.Option(metavar="2d,3d_fullres", help="Configurations of an nnU-Net data set, as one ensemble."),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of a cascade's previous stage.", show_default="beside it"),
    ] = None,
    previous_folds: Annotated[
        str | None, typer.Option(metavar="0,1", help="Folds of the previous stage.", show_default="as --folds")
    ] = None,
    postprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="nnU-Net's postprocessing.pkl or .json; or none.", show_default="of the same folds"
        ),
    ] = None,
    config_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Configuration of a MONAI bundle; repeated, later ones add to the first.",
            show_default="configs/inference.json or .yaml",
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(metavar="T1,T2", help="Images that a MONAI bundle's own transform only joins, in its order."),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code of a MONAI bundle that builds its network.")
    ] = False,
    reestimate_norm: Annotated[
        Path | None, typer.Option(metavar="CASES", help="Re-estimate the statistics of norms on these cases.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX graphs too, and compare them.")] = False,
    max_ram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory that the reference case may take on a workstation.", show_default="2GB"
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn a trained network into a bundle with the same numbers."""
    with importing():
        from lowres_seg.cohort.jobs import one_scan
        from lowres_seg.export import export as run

    given = {
        "folds": folds.split(",") if folds else None,
        "checkpoint": checkpoint and one_of("--checkpoint", checkpoint, ("final", "best", "latest")),
        "mirror": None if mirror else False,
        "orientation": orientation,
        "plans_network": plans_network or None,
        "previous": previous and str(previous),
        "previous_folds": previous_folds.split(",") if previous_folds else None,
        "postprocessing": postprocessing,
        "configurations": configurations.split(",") if configurations else None,
        "config_files": config_file or None,
        "channels": channels.split(",") if channels else None,
        "trust_code": trust_code or None,
    }
    with steps(quiet=quiet, lines=True) as notify:
        bundle = run(
            source,
            output,
            recipe=recipe,
            weights=weights,
            weights_key=weights_key,
            volume=one_scan(volume) if volume else None,
            options={name: value for name, value in given.items() if value is not None},
            reestimate_norm=reestimate_norm,
            keep_onnx=onnx,
            max_ram_bytes=ram_bytes(max_ram),
            force=force,
            notify=notify,
        )
    report, volatile = (
        json.loads(bundle.file(name).read_text(encoding="utf-8"))
        for name in ("reports/export.json", "reports/run.json")
    )
    if as_json:
        print_json({"bundle": str(output), "digest": bundle.digest, **report, **volatile})
    elif not quiet:
        rows, notes = [["", "max diff", "mean diff", "voxels that flip"]], []
        for row in report["parity"]:
            compared = f"{row['network']}, {row['input']}: {row['candidate']} with {row['reference']}"
            probability = row["max_probability_diff"]
            if probability is not None:
                notes.append(f"{compared}: probabilities of classes differ by up to {probability:.2e}")
            flipped = f"{row['flipped']} of {row['voxels']}" if probability is None else "no voxels"
            rows.append([compared, f"{row['max_abs_diff']:.2e}", f"{row['mean_abs_diff']:.2e}", flipped])
        for line in columns(rows):
            out.print(plain(line))
        for note in (*notes, *report["importer"]["notes"]):
            out.print(plain(note))
        for name, network in report["networks"].items():
            constant = network["rewrites"]["running_statistics_norms_made_constant"]
            removed = ", ".join(f"{n} {op}" for op, n in network["rewrites"]["operators_removed"].items()) or "none"
            made = f"{counted(constant, 'norm')} with running statistics made constant; " if constant else ""
            out.print(f"{name}: {made}operators rewritten, with the same result: {removed}")
            if network["route"] == "export":
                out.print(f"{name}: by torch.export, because a trace did not convert")
            for change in network["changes"]:
                out.print(plain(f"{name}: {change}"))
            if network["onnx_failed"]:
                out.print(plain(f"{name}: no ONNX graph ({network['onnx_failed']})"))
            if network["output"]:
                out.print(f"{name}: scores are {network['output']}")
        for moved in report["norms_reestimated"]:
            out.print(
                f"{moved['network']}: {counted(moved['norms'], 'norm')} re-estimated on "
                f"{counted(moved['inputs'], 'input')}; scores moved by "
                f"{moved['mean_abs_diff']:.3g} on average, {100 * moved['flipped']:.2f}% of its voxels change label"
            )
        out.print(plain(f"{output}: written, sha256 {bundle.digest[:12]}…"))


@app.command()
def quantize(
    bundle: BundlePath,
    calibrate: Annotated[Path, typer.Option(metavar="CASES", help="Table of the cases to calibrate on.")],
    validate: Annotated[Path, typer.Option(metavar="CASES", help="Table of the cases to judge on; other ones.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to write.")],
    *,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="Allowed drop of the mean Dice of any label.", show_default="0.005")
    ] = None,
    max_hd95_rise: Annotated[
        float | None, typer.Option(min=0, help="Allowed rise of its mean HD95, in mm.", show_default="1.0")
    ] = None,
    worst_case_drop: Annotated[
        float | None, typer.Option(min=0, help="Allowed drop of Dice in any case.", show_default="no bound")
    ] = None,
    max_probability_change: Annotated[
        float | None,
        typer.Option(
            min=0, help="If it classifies: allowed change of a class's value in any case.", show_default="0.02"
        ),
    ] = None,
    max_flipped_decisions: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="If it classifies: cases whose decision may change.", show_default="0"),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin no attempt after this: 90s, 30m, 2h.", show_default="no bound"),
    ] = None,
    max_ram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Bound on calibration: 8GB, 800MB.", show_default="80% of what is free to use"
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="performance (symmetric) or mixed (asymmetric activations).")
    ] = "performance",
    precision: Annotated[str, typer.Option(help="int8 or bf16.")] = "int8",
    seed: Annotated[int, typer.Option(help="Chooses among many calibration cases.")] = 0,
    only_if_faster: Annotated[
        bool, typer.Option("--only-if-faster", help="Write no bundle that is not faster.")
    ] = False,
    ignore_label: IgnoreLabel = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a bundle faster, within limits on what it may lose."""
    with importing():
        from lowres_seg.bundle.bundle import manifest_of
        from lowres_seg.cohort.cases import Cases
        from lowres_seg.quantize import Settings
        from lowres_seg.quantize import quantize as run

    manifest = manifest_of(bundle)
    settings = Settings(
        limits=_limits(
            manifest,
            {"max_drop": max_drop, "max_hd95_rise": max_hd95_rise, "worst_case_drop": worst_case_drop},
            {"max_probability_change": max_probability_change, "max_flipped_decisions": max_flipped_decisions},
            ignore_label,
        ),
        precision=one_of("--precision", precision, ("int8", "bf16")),
        preset=one_of("--preset", preset, ("performance", "mixed")),
        time_budget_s=amount("--time-budget", time_budget, {"s": 1, "m": 60, "h": 3600}),
        max_ram_bytes=ram_bytes(max_ram),
        seed=seed,
        only_if_faster=only_if_faster,
        ignore_labels=ignore_label or [],
    )
    tables = (
        Cases.read(calibrate, manifest.channels),
        Cases.read(validate, manifest.channels, () if manifest.labels else manifest.classes),
    )
    with steps(quiet=quiet, lines=True) as notify:
        result = run(bundle, output, *tables, settings, resume=resume, force=force, notify=notify)
    if as_json:
        report = json.loads(result.bundle.file("reports/quantize.json").read_text(encoding="utf-8"))
        volatile = json.loads(result.bundle.file("reports/run.json").read_text(encoding="utf-8"))
        print_json({"bundle": str(output), "digest": result.bundle.digest, **report, **volatile})
    elif not quiet:
        out.print(plain(result.bundle.file("reports/quantize.txt").read_text(encoding="utf-8")), end="")
        for gain in result.gains:
            for line in gain.lines():
                out.print(plain(line))
        out.print(plain(f"{output}: written, sha256 {result.bundle.digest[:12]}…"))


def _limits(
    manifest: Manifest,
    of_masks: dict[str, float | None],
    of_classes: dict[str, Any],
    ignored: list[int] | None,
) -> Limits | ClassLimits:
    """Limits of a bundle's kind, with those of the options that are given. Options of the other kind are refused."""
    from lowres_seg.quantize import ClassLimits, Limits

    masks = {name: value for name, value in of_masks.items() if value is not None}
    classes = {name: value for name, value in of_classes.items() if value is not None}
    if manifest.evaluated:
        if classes:
            raise typer.BadParameter(
                "is for bundles that classify, and this one gives masks; see --max-drop and --max-hd95-rise",
                param_hint=_option(next(iter(classes))),
            )
        if "max_hd95_rise" in masks:
            masks["max_hd95_rise_mm"] = masks.pop("max_hd95_rise")
        return Limits(**masks)
    if masks or ignored:
        raise typer.BadParameter(
            "is for bundles that give masks, and this one classifies; see --max-probability-change and "
            "--max-flipped-decisions",
            param_hint=_option(next(iter(masks), "ignore_label")),
        )
    return ClassLimits(**classes)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
