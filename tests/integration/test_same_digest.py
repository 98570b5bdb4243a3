"""The same export again gives the same bundle: in another process, from another folder, with another hash seed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lowres_seg import Bundle
from lowres_seg.export import export

from .conftest import Command, Tiny, beside
from .test_routes import made

bundles = beside("monai_bundles")

#: Exports that a child process makes; the first that is made numbers its nodes otherwise.
CHILD = """
import json, sys
from pathlib import Path
from lowres_seg.export import export
for source, target, options in json.loads(sys.argv[1]):
    options = {k: Path(v) if k in ("weights", "recipe") else v for k, v in options.items()}
    export(Path(source), Path(target), threads=1, **options)
"""

Source = tuple[str, dict[str, object]]


def by_checkpoint(folder: Path, tiny: Tiny) -> Source:
    shutil.copy(tiny.checkpoint, folder)
    shutil.copytree(tiny.recipe.parent, folder / "recipe")
    return "recipe/recipe.toml", {"weights": ".", "keep_onnx": True}


def by_torchscript(folder: Path, tiny: Tiny) -> Source:
    shutil.copy(tiny.torchscript, folder)
    shutil.copytree(tiny.recipe.parent, folder / "recipe")
    return tiny.torchscript.name, {"recipe": "recipe/recipe.toml"}


def by_onnx(folder: Path, tiny: Tiny) -> Source:
    shutil.copy(tiny.onnx, folder)
    shutil.copytree(tiny.recipe.parent, folder / "recipe")
    return tiny.onnx.name, {"recipe": "recipe/recipe.toml"}


def by_torch_export(folder: Path, tiny: Tiny) -> Source:
    recipe = Path(str(made(folder, "return f.softshrink(self.a(x))")[1]))
    return str(recipe.relative_to(folder)), {"weights": "."}


def by_monai(folder: Path, tiny: Tiny) -> Source:
    bundles.write(folder / "unet", bundles.unet((32, 32, 32), 4))
    return "unet", {}


ROUTES: list[Callable[[Path, Tiny], Source]] = [by_checkpoint, by_torchscript, by_onnx, by_torch_export, by_monai]


def files(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_two_exports_of_one_source_differ_in_their_seconds_only(tiny_network: Tiny, tmp_path: Path) -> None:
    work: dict[str, list[list[object]]] = {"here": [], "there": []}
    for place, exports in work.items():
        for route in ROUTES:
            folder = tmp_path / place / route.__name__
            folder.mkdir(parents=True)
            source, options = route(folder, tiny_network)
            told = {k: str(folder / str(v)) if k in ("weights", "recipe") else v for k, v in options.items()}
            exports.append([str(folder / source), str(folder / "bundle"), told])
    # In the other order, so that each is made after others.
    words = [sys.executable, "-c", CHILD, json.dumps(work["there"][::-1])]
    child = subprocess.Popen(words, env=os.environ | {"PYTHONHASHSEED": "1"})
    for source, target, told in work["here"]:
        paths = {k: Path(v) if k in ("weights", "recipe") else v for k, v in told.items()}  # type: ignore[attr-defined]
        export(Path(str(source)), Path(str(target)), threads=1, **paths)
    assert child.wait(timeout=300) == 0
    for route in ROUTES:
        first, second = (files(tmp_path / place / route.__name__ / "bundle") for place in ("here", "there"))
        assert set(first) == set(second) > {"reports/run.json"}
        assert [name for name in first if first[name] != second[name] and name != "reports/run.json"] == [], route
        found = [Bundle.open(tmp_path / place / route.__name__ / "bundle").digest for place in ("here", "there")]
        assert found[0] == found[1]


def test_the_seconds_of_an_export_are_printed_and_not_in_its_digest(
    tiny_network: Tiny, tmp_path: Path, command: Command
) -> None:
    target = tmp_path / "b"
    done = command("export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", target, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {
        *("bundle", "digest", "networks", "importer", "tolerance", "parity", "seconds", "norms_reestimated"),
    }  # fmt: skip
    assert told["seconds"] > 0
    assert json.loads((target / "reports" / "run.json").read_text()) == {"seconds": told["seconds"]}
    assert "reports/run.json" not in Bundle.open(target).manifest.files
    (target / "reports" / "run.json").unlink()
    assert Bundle.open(target).digest == told["digest"]
