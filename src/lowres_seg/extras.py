"""Optional packages, asked for by the verb that needs them."""

from __future__ import annotations

from importlib.util import find_spec

from lowres_seg.errors import MissingExtraError

#: What each extra brings, by the name it is imported under. A test compares it with pyproject.toml.
EXTRAS: dict[str, tuple[str, ...]] = {
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "nnunet": ("torch", "onnx", "onnxscript", "onnxruntime", "dynamic_network_architectures"),
    "monai": ("torch", "onnx", "onnxscript", "onnxruntime", "monai", "einops"),
    "quantize": ("nncf",),
    "bench": ("torch", "onnx", "onnxscript", "onnxruntime", "jinja2", "PIL"),
}


def missing(extra: str) -> list[str]:
    """Packages of `extra` that cannot be imported here; nothing is imported to find out."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require(extra: str) -> None:
    """Check that every package of `extra` can be imported.

    Raises
    ------
    MissingExtraError
        If one is missing, with the command that installs it.
    """
    if names := missing(extra):
        raise MissingExtraError(
            f"{extra} needs {', '.join(names)}, not installed here: pip install 'lowres-seg[{extra}]'"
        )
