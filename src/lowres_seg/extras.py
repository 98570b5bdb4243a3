"""Optional packages, and names that are imported when they are first used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lowres_seg.errors import MissingExtraError

#: Import names of the packages that each extra installs. A test compares this table with pyproject.toml.
EXTRAS: dict[str, tuple[str, ...]] = {
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "nnunet": ("torch", "onnx", "onnxscript", "onnxruntime", "dynamic_network_architectures"),
    "monai": ("torch", "onnx", "onnxscript", "onnxruntime", "monai", "einops", "yaml"),
    "quantize": ("nncf",),
    "bench": ("torch", "onnx", "onnxscript", "onnxruntime", "jinja2", "PIL"),
    "sign": ("cryptography",),
    "dicom": ("pydicom", "highdicom", "pylibjpeg", "openjpeg", "gdcm", "dicomweb_client"),
    "nrrd": ("nrrd",),
    "picture": ("PIL",),
}


def missing(extra: str) -> list[str]:
    """List the packages of `extra` that are not installed, without importing any."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def providing(package: str) -> str | None:
    """Name of an extra that installs a package, by its import name; None if none does."""
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def require(extra: str) -> None:
    """Check that every package of `extra` is installed.

    Raises
    ------
    MissingExtraError
        If one is missing. The message has the command that installs it.
    """
    if names := missing(extra):
        raise MissingExtraError(f"{extra} needs {', '.join(names)}, not installed here: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """Command that installs an extra, from where this package was installed: a wheel, a checkout, or an index."""
    # Only an error needs these imports.
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        origin = distribution("lowres-seg").read_text("direct_url.json")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return f"pip install '.[{extra}]' in the checkout"
    found = json.loads(origin) if origin else {}
    if found.get("dir_info", {}).get("editable"):
        return f"pip install -e '{unquote(urlsplit(found['url']).path)}[{extra}]'"
    return f"pip install 'lowres-seg[{extra}] @ {found['url']}'" if found else f"pip install 'lowres-seg[{extra}]'"


def on_demand(
    package: str, homes: Mapping[str, str], *, extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package whose public names are imported when they are first used.

    A process that needs one name of a package then does not pay for the imports of all others.

    Parameters
    ----------
    package : str
        Name of the package.
    homes : mapping of str to str
        Public names, and the module of each relative to the package.
    extra : str, optional
        Extra that the names need.
    """

    def find(name: str) -> Any:
        if name not in homes:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        if extra is not None:
            require(extra)
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
