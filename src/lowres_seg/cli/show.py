"""The command that says what a bundle is: show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lowres_seg.cli.options import AsJson, BundlePath, Debug, RequireKey, app
from lowres_seg.cli.screen import importing, print_json, print_row

if TYPE_CHECKING:  # help needs neither pydantic nor OpenVINO
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.bundle.manifest import Manifest
    from lowres_seg.bundle.pipeline import Label
    from lowres_seg.bundle.reports import Agreement, ClassLimits, ExportReport, Limits, QuantizeReport, Result

#: Columns of the words on the left.
_LEFT = 14
_INPUTS = {"random": "on random input", "scan": "on a scan", "phantom": "on a phantom"}


@app.command()
def show(bundle: BundlePath, *, require_key: RequireKey = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what a bundle is, and what speaks for it.

    Labels, networks, stages, licence, intended use, evidence, lineage. Every digest is checked first.
    """
    with importing():
        from lowres_seg.bundle import reports
        from lowres_seg.bundle.bundle import Bundle

    opened = Bundle.open(bundle, require_key=require_key)
    exported, quantized = reports.exported(opened), reports.quantized(opened)
    if as_json:
        print_json(_content(opened, exported, quantized))
        return
    last = ""
    for key, text in [*_rows(opened), *_evidence(exported, quantized), *_lineage(opened)]:
        print_row("" if key == last else key, text, left=_LEFT)
        last = key


def _rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    from lowres_seg.bundle import words

    m = bundle.manifest
    size = sum(bundle.file(name).stat().st_size for name in m.files)
    yield "name", f"{m.name} {m.version}"
    if m.description:
        yield "", m.description
    yield "files", f"{len(m.files)} as listed, {_size(size)}, sha256 {bundle.digest[:12]}…"
    yield "signature", _signature(bundle)
    yield "licence", m.license or "not stated"
    yield "intended use", m.intended_use or "not stated"
    yield "source", m.source or "not stated"
    yield "channels", ", ".join(m.channels)
    yield "labels", ", ".join(_label(label) for label in m.labels) or "none: it classifies"
    if m.numbers:
        yield "classes", ", ".join(m.numbers)
    if m.regions:
        yield "regions", "; ".join(f"{one.name}: labels {', '.join(map(str, one.labels))}" for one in m.regions)
    if m.threads is not None:
        yield "threads", f"{m.threads} recommended"
    for name, network in m.networks.items():
        computed = " and ".join(_precisions(m, name)) or "no stage"
        parts = [
            f"int8, {computed} elsewhere"
            if network.precision == "int8"
            else f"{network.precision}, computed in {computed}",
            f"{words.by(network.input_shape[1:])} in",
            f"{words.by(network.output_shape[1:])} out",
            _size(bundle.file(network.bin).stat().st_size),
        ]
        yield "networks", f"{name}: {', '.join(parts)}"
    for number, stage in enumerate(m.stages, start=1):
        yield f"stage {number}", f"{stage.name}: {'; '.join(words.sentences(stage))}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _precisions(manifest: Manifest, network: str) -> list[str]:
    """Precisions that the stages of a network compute in."""
    return list(dict.fromkeys(stage.inference_precision for stage in manifest.stages if network in stage.networks))


def _label(label: Label) -> str:
    plausible = "" if label.volume_ml is None else f" ({label.volume_ml[0]:g} to {label.volume_ml[1]:g} ml)"
    return f"{label.value} {label.name}{plausible}"


def _signature(bundle: Bundle) -> str:
    from lowres_seg.bundle.contents import SIGNATURE_NAME

    if bundle.signed_by is not None:
        return f"checked, by the key {bundle.signed_by[:16]}…"
    if bundle.file(SIGNATURE_NAME).exists():
        return f"{SIGNATURE_NAME} is there, and was not checked; name the key with --require-key"
    return "none"


def _evidence(exported: ExportReport | None, quantized: QuantizeReport | None) -> Iterator[tuple[str, str]]:
    """Rows of what the reports say: parity with the source, agreement with labels, speed."""
    if exported is None and quantized is None:
        yield "evidence", "none: the bundle holds no report of its export"
    rows = () if exported is None else exported.parity
    for kind, reference, candidate in dict.fromkeys((row.input, row.reference, row.candidate) for row in rows):
        alike = [row for row in rows if (row.input, row.reference, row.candidate) == (kind, reference, candidate)]
        scores = f"{candidate} gives the scores of {reference} to within {max(row.max_abs_diff for row in alike):.2g}"
        flips = f"{sum(row.flipped for row in alike)} of {sum(row.voxels for row in alike)} voxels have another label"
        moved = [row.max_probability_diff for row in alike if row.max_probability_diff is not None]
        if moved:
            flips = f"probabilities of classes differ by up to {max(moved):.2g}"
        before = "" if quantized is None else "before it was quantized, "
        yield "parity", f"{before}{_INPUTS.get(kind, f'on {kind}')}, {scores}; {flips}"
    if quantized is not None:
        yield from _quantization(quantized)


def _quantization(report: QuantizeReport) -> Iterator[tuple[str, str]]:
    """Rows of what was judged, each label's Dice and HD95, and the speed of each network."""
    kept = sum(layer.precision == "fp32" for layer in report.layers)
    layers = f"; {kept} of {len(report.layers)} layers keep fp32" if report.layers else ""
    if report.result is None:
        yield report.precision, f"not judged: no validation case was given{layers}"
    else:
        allowed, losses = _judged(report.limits, report.result)
        tried = f"{_counted(len(report.of_role('validation')), 'case')}, {_counted(len(report.attempts), 'attempt')}"
        yield report.precision, f"judged on {tried}{layers}; {allowed}"
        yield from (("", loss) for loss in losses)
    for name, gain in report.gain.items():
        named = {report.precision if name == "candidate" else name: seconds for name, seconds in gain.latency_s.items()}
        times = ", ".join(f"{variant} {1000 * s:.3g} ms" for variant, s in named.items())
        ratios = ", ".join(f"{ratio:.2f} times the speed of {variant}" for variant, ratio in gain.ratios().items())
        yield "speed", f"{name}: {times}; {ratios}, on the machine that made it (no digest covers these figures)"


def _judged(limits: Limits | ClassLimits, result: Result) -> tuple[str, list[str]]:
    """What was allowed, and what was lost, in words."""
    from statistics import mean

    from lowres_seg.bundle.reports import ClassLimits

    if isinstance(limits, ClassLimits):
        flips = _counted(limits.max_flipped_decisions, "decision")
        allowed = f"values of classes may change by {limits.max_probability_change:g}, and {flips} may flip"
        changes = [f"{name} by {one.worst_change:.4f} at most" for name, one in result.classes.items()]
        flipped = f"{_counted(result.flipped_decisions, 'decision')} of {len(result.values)} flipped"
        return allowed, [f"{', '.join(changes)}; {flipped}", *_agreement(result.agreement)]
    worst = "" if limits.worst_case_drop is None else f" (by {limits.worst_case_drop:g} in any case)"
    losses = []
    for label in result.labels:
        rows = [row for row in result.scores if row.label == label]
        against = " and ".join(dict.fromkeys("the fp32 mask" if r.against == "fp32" else "labels" for r in rows))
        dice = [f"{mean(r.dice_fp32 for r in rows):.4f} in fp32", f"{mean(r.dice for r in rows):.4f} now"]
        hd95 = [f"{mean(r.hd95_mm_fp32 for r in rows):.2f} mm in fp32", f"{mean(r.hd95_mm for r in rows):.2f} mm now"]
        losses.append(f"{label} against {against}: mean Dice {', '.join(dice)}; mean HD95 {', '.join(hd95)}")
    allowed = f"mean Dice may drop by {limits.max_drop:g}{worst}, mean HD95 rise by {limits.max_hd95_rise_mm:g} mm"
    return allowed, losses


def _agreement(found: Agreement | None) -> list[str]:
    """AUC and accuracy over the cases whose truth is known, in words."""
    if found is None:
        return []
    parts = [] if found.auc_fp32 is None else [f"AUC {found.auc_fp32:.4f} in fp32, {found.auc:.4f} now"]
    parts.append(f"accuracy {found.accuracy_fp32:.4f} in fp32, {found.accuracy:.4f} now")
    return [f"against the truth of {_counted(found.cases, 'case')}: {'; '.join(parts)}"]


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _lineage(bundle: Bundle) -> Iterator[tuple[str, str]]:
    lineage = bundle.manifest.lineage
    if lineage.parent is not None:
        yield "made from", f"the bundle of sha256 {lineage.parent[:12]}…"
    for name, digest in lineage.sources.items():
        yield "weights", f"{name}, sha256 {digest[:12]}…"
    yield "recipe", f"sha256 {lineage.recipe[:12]}…"
    for name, digest in lineage.trusted_code.items():
        yield "trusted code", f"{name}, sha256 {digest[:12]}…"
    yield "tools", ", ".join(f"{name} {version}" for name, version in lineage.tools.items()) or "not stated"


def _content(bundle: Bundle, exported: ExportReport | None, quantized: QuantizeReport | None) -> dict[str, Any]:
    from lowres_seg.bundle import words
    from lowres_seg.bundle.contents import SIGNATURE_NAME

    m = bundle.manifest
    stated = m.model_dump(
        mode="json", include={"name", "version", "description", "license", "source", "intended_use", "threads"}
    )
    return {
        "bundle": str(bundle.path),
        "sha256": bundle.digest,
        **stated,
        "channels": list(m.channels),
        "labels": [label.model_dump(mode="json") for label in m.labels],
        "regions": [region.model_dump(mode="json") for region in m.regions],
        "networks": {
            name: {
                "precision": network.precision,
                "inference_precisions": _precisions(m, name),
                "input_shape": list(network.input_shape),
                "output_shape": list(network.output_shape),
                "bytes": bundle.file(network.bin).stat().st_size,
            }
            for name, network in m.networks.items()
        },
        "stages": [{"name": stage.name, "words": words.sentences(stage)} for stage in m.stages],
        "evidence": {
            "export": None if exported is None else exported.model_dump(mode="json"),
            "quantize": None if quantized is None else quantized.model_dump(mode="json", exclude={"gain"}),
            "speed": {} if quantized is None else {n: one.model_dump(mode="json") for n, one in quantized.gain.items()},
        },
        "lineage": m.lineage.model_dump(mode="json"),
        "signature": {"present": bundle.file(SIGNATURE_NAME).exists(), "checked_by": bundle.signed_by},
        "files": dict(m.files),
    }
