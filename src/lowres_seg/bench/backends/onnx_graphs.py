"""Common ground of the backends that run the ONNX graphs of a bundle."""

from __future__ import annotations

from pathlib import Path

from lowres_seg.bench.backends import Subject
from lowres_seg.bench.spec import Spec


def reason_against(subject: Subject) -> str:
    """Why there are no ONNX graphs to run; empty if there are."""
    if not subject.is_fp32:
        return "the ONNX graph is that of the network in fp32: it is measured beside the fp32 bundle"
    if any(network.onnx is None for network in subject.bundle.manifest.networks.values()):
        return "the bundle holds no ONNX graph: export it with --onnx"
    return ""


def files(subject: Subject) -> dict[str, dict[str, str]]:
    """Path and digest of each network's ONNX graph."""
    manifest = subject.bundle.manifest
    named = {name: network.onnx for name, network in manifest.networks.items() if network.onnx is not None}
    return {
        name: {"path": str(subject.bundle.file(file)), "sha256": manifest.files[file]} for name, file in named.items()
    }


def read(spec: Spec) -> dict[str, bytes]:
    """Read the graphs, and check that they are those of the bundle.

    Raises
    ------
    IntegrityError
        If one has changed since its bundle was opened.
    """
    from lowres_seg.bundle.bundle import checked_bytes

    return {name: checked_bytes(Path(given["path"]), given["sha256"]) for name, given in spec.networks.items()}
