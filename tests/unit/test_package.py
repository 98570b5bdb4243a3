"""What the package promises about itself."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import zlib
from pathlib import Path

import pytest

import lowres_seg
from lowres_seg import errors, extras

#: The one module that imports each third-party package; a package with two homes, at run and at build time, has two.
HOMES = {
    "PIL": {"view.picture", "view.planes"},
    "SimpleITK": {"volumes.images"},
    "cc3d": {"runtime.cleanup"},
    "cryptography": {"bundle.signature"},
    "dicomweb_client": {"dicom.web"},
    "dynamic_network_architectures": {"export.importers.nnunet_network"},
    "edt": {"metrics.distances"},
    "fill_voids": {"runtime.cleanup"},
    "google": {"export.frameworks.onnx_graph"},
    "highdicom": {"dicom.segmentation"},
    "jinja2": {"bench.html.page"},
    "monai": {"export.importers.monai_classes"},
    "isal": {"volumes.encoded", "volumes.freesurfer", "volumes.nifti", "volumes.stored"},
    "nibabel": {
        "volumes.encoded",
        "volumes.freesurfer",
        "volumes.grid",
        "volumes.images",
        "volumes.nifti",
        "volumes.without_web",
    },
    "nncf": {"quantize.int8"},
    "nrrd": {"volumes.nrrd_file"},
    "onnx": {
        "export.frameworks.onnx_graph",
        "export.frameworks.onnx_inputs",
        "export.frameworks.onnx_int8",
        "export.frameworks.onnx_scores",
    },
    "onnxruntime": {"export.frameworks.onnx_graph", "export.frameworks.onnx_int8"},
    "openvino": {
        "export.branches",
        "export.frameworks.ir",
        "export.links",
        "export.one_logit",
        "export.rewrites",
        "quantize.int8",
        "runtime.exact_norms",
        "runtime.openvino_engine",
        "runtime.probe",
    },
    "psutil": {"host"},
    "pydicom": {"dicom.instances", "dicom.pixels", "dicom.segmentation", "dicom.web"},
    "requests": {"dicom.web"},
    "rich": {"cli.screen"},
    "torch": {
        "export.importers.monai_classes",
        "export.importers.nnunet_network",
        "export.frameworks.checkpoints",
        "export.frameworks.decompositions",
        "export.frameworks.dropout",
        "export.frameworks.torch_network",
        "export.frameworks.values",
        "export.frameworks.wraps",
    },
    "yaml": {"export.importers.monai_files"},
    "typer": {
        "cli.application",
        "cli.build",
        "cli.demo",
        "cli.gallery",
        "cli.machine",
        "cli.measure",
        "cli.new_recipe",
        "cli.options",
        "cli.result_options",
        "cli.trust",
        "cli.verify",
        "cli.view",
        "cli.workstation",
    },
}


def test_all_is_exact() -> None:
    tree = ast.parse(Path(lowres_seg.__file__).read_text(encoding="utf-8"))
    named = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert named - {"TYPE_CHECKING", "on_demand"} | {"__version__"} == set(lowres_seg.__all__) <= set(dir(lowres_seg))
    assert all(getattr(lowres_seg, name) is not None for name in lowres_seg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        lowres_seg.absent  # noqa: B018


def test_every_error_is_public_and_in_the_drawn_tree() -> None:
    named = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert named <= set(lowres_seg.__all__)
    assert set(re.findall(r"\w+Error", errors.__doc__ or "")) - {"ValueError", "ImportError"} == named
    for name in named:
        assert issubclass(getattr(errors, name), errors.LowresSegError)


def test_every_package_is_imported_only_at_home(modules: dict[str, Path]) -> None:
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(module)
    assert {package: modules for package, modules in found.items() if package in HOMES} == HOMES


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_table_of_extras_is_the_packages_metadata(extra: str) -> None:
    required = importlib.metadata.requires("lowres-seg") or []
    named = {
        re.split(r"[ ;<>=!~\[]", line)[0].lower()
        for line in required
        if re.search(rf"extra == ['\"]{extra}['\"]", line) and "python_version" not in line
    }
    imported = {
        "pillow": "PIL",
        "pynrrd": "nrrd",
        "pyyaml": "yaml",
        "dynamic-network-architectures": "dynamic_network_architectures",
        "pylibjpeg-openjpeg": "openjpeg",
        "python-gdcm": "gdcm",
        "dicomweb-client": "dicomweb_client",
    }
    assert {imported.get(name, name) for name in named} == set(extras.EXTRAS[extra])


def test_modules_are_small(modules: dict[str, Path]) -> None:
    assert len(modules) > 200
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules.items()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_the_wheel_stays_small(checkout: Path) -> None:
    """A wheel is a zip of these files. One with the runtime alone is downloaded by every container that has it."""
    package = Path(lowres_seg.__file__).parent
    folders = [package] if (package / "recipes").is_dir() else [package, checkout / "export"]
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    names = {path.name for path in files}
    assert {"niivue.js.gz", "page.html", "recipe.toml"} <= names
    assert 500_000 < sum(len(zlib.compress(path.read_bytes())) for path in files) < 3_000_000
