"""Common ground of the backends that run the ONNX graphs of a bundle."""

from __future__ import annotations

from lowres_seg.bench.backends import Subject


def reason_against(subject: Subject) -> str:
    """Why there are no ONNX graphs to run; empty if there are."""
    if not subject.is_fp32:
        return "the ONNX graph is that of the network in fp32: it is measured beside the fp32 bundle"
    if any(network.onnx is None for network in subject.bundle.manifest.networks.values()):
        return "the bundle holds no ONNX graph: export it with --onnx"
    return ""


def paths(subject: Subject) -> dict[str, str]:
    """Path of each network's ONNX graph."""
    networks = subject.bundle.manifest.networks
    return {name: str(subject.bundle.file(n.onnx)) for name, n in networks.items() if n.onnx is not None}
