"""What a page can be made of: a suite, a quantized bundle, or the report of a quantization by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowres_seg.bench.suite import Suite, content_of, is_suite
from lowres_seg.bundle import reports
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import MANIFEST_NAME
from lowres_seg.bundle.reports import QuantizeReport
from lowres_seg.errors import BenchmarkError


@dataclass(frozen=True)
class Quantization:
    """The report of a quantization, and the name of its bundle or file."""

    name: str
    report: QuantizeReport


def read(path: Path) -> Suite | Quantization:
    """Read a suite or a quantization.

    Parameters
    ----------
    path : pathlib.Path
        A suite; a bundle, whose digests are checked; ``reports/quantize.json``; or what ``quantize --json`` printed.

    Raises
    ------
    BenchmarkError
        If it is none of them.
    BundleError
        If it is a bundle that has changed, or a report that cannot be read.
    """
    if path.is_dir():
        return _of_bundle(path)
    content = content_of(path)
    if is_suite(content):
        return Suite.parse(content, where=str(path))
    if isinstance(content, dict) and {"attempts", "layers", "limits"} <= content.keys():
        return Quantization(_name(path), reports.parse(content, where=str(path)))
    if path.name == MANIFEST_NAME:
        raise BenchmarkError(f"{path}: is the manifest of a bundle; name its folder, or see it with: lowres-seg show")
    raise BenchmarkError(
        f"{path}: is neither a suite nor the report of a quantization; expected what `lowres-seg bench` wrote, "
        "a quantized bundle, or its reports/quantize.json"
    )


def _of_bundle(path: Path) -> Quantization:
    bundle = Bundle.open(path)
    report = reports.quantized(bundle)
    if report is None:
        raise BenchmarkError(
            f"{path}: holds no {reports.QUANTIZE_REPORT}, expected a bundle that `lowres-seg quantize` made; "
            f"see this one with: lowres-seg show {path}"
        )
    return Quantization(path.resolve().name, report)


def _name(path: Path) -> str:
    """Name of the bundle's folder that a report lies in, or of the file."""
    folder = path.resolve().parent
    in_bundle = folder.name == "reports" and (folder.parent / MANIFEST_NAME).is_file()
    return folder.parent.name if in_bundle else path.name
