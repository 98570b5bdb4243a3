"""`lowres-seg export`, as a user runs it, on a real network."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.export import export, phantom

from .conftest import RECIPES, Command, Tiny, factory, run, seeded


@pytest.fixture(scope="session")
def bundle(tiny_network: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "tiny"
    done = run("export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", target, "--onnx")
    assert done.returncode == 0, done.stderr
    return target


def test_the_table_of_parity_fits_a_terminal(tiny_network: Tiny, tmp_path: Path, command: Command) -> None:
    done = command("export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", tmp_path / "b", "--onnx")
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert title.split() == ["max", "diff", "mean", "diff", "voxels", "that", "flip"]
    rows = [line for line in lines if line.startswith("net, ")]
    assert len(rows) >= 2
    assert max(map(len, [title, *rows])) <= 80


def test_torchscript_onnx_and_recipe_give_equal_masks(tiny_network: Tiny, bundle: Path, tmp_path: Path) -> None:
    head = phantom.head((40, 46, 44), 4.0)
    expected = Segmenter.load(bundle).predict(head).labels.data
    assert 0.02 < expected.mean() < 0.98
    for source in (tiny_network.torchscript, tiny_network.onnx, tiny_network.checkpoint):
        target = tmp_path / source.stem
        export(source, target, recipe=tiny_network.recipe)
        assert np.array_equal(Segmenter.load(target).predict(head).labels.data, expected)


def test_the_ir_is_what_torch_computes(tiny_network: Tiny, bundle: Path) -> None:
    network = factory(tiny_network.recipe)()
    network.load_state_dict(torch.load(tiny_network.checkpoint, weights_only=True)["model_state_dict"])
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        expected = network.eval()(x).numpy()
    compiled = openvino.compile_model(bundle / "networks" / "net.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(bundle / "networks" / "net.onnx")
    assert np.abs(compiled(x.numpy())[0] - expected).max() < 1e-5
    assert np.abs(session.run(None, {"input": x.numpy()})[0] - expected).max() < 1e-5


def test_norms_with_running_statistics_are_folded(bundle: Path) -> None:
    report = json.loads((bundle / "reports" / "export.json").read_text())["networks"]["net"]
    assert report["rewrites"]["running_statistics_norms_made_constant"] == 2
    assert report["rewrites"]["operators_removed"]["Sqrt"] == 2
    assert not {"Tile", "Divide", "Sqrt", "MVN", "Multiply", "ShapeOf"} & set(report["operators"])
    assert report["operators"]["Convolution"] == 3
    assert report["operators"]["Add"] == 4  # three biases and the residual: nothing is left of the norms


def test_weights_are_true_fp32(bundle: Path) -> None:
    model = openvino.Core().read_model(bundle / "networks" / "net.xml")
    kinds = {str(n.get_element_type()) for n in model.get_ops() if n.get_type_name() == "Constant"}
    assert "<Type: 'float32'>" in kinds
    assert "<Type: 'float16'>" not in kinds


def test_the_report_says_what_was_compared(bundle: Path) -> None:
    report = json.loads((bundle / "reports" / "export.json").read_text())
    assert [(row["reference"], row["candidate"], row["input"]) for row in report["parity"]] == [
        ("torch", "openvino", "random"),
        ("torch", "onnxruntime", "random"),
    ]
    assert all(row["max_abs_diff"] <= 1e-4 and row["label_agreement"] > 0.999 for row in report["parity"])


def test_the_lineage_names_weights_and_tools(tiny_network: Tiny, bundle: Path) -> None:
    lineage = Bundle.open(bundle).manifest.lineage
    assert lineage.parent is None
    assert lineage.sources == {"net/tiny.pt": file_sha256(tiny_network.checkpoint)}
    assert lineage.recipe == file_sha256(tiny_network.recipe)
    assert {"lowres-seg", "openvino", "torch", "onnx", "onnxruntime"} <= set(lineage.tools)


def test_no_path_of_this_machine_enters_a_bundle(tiny_network: Tiny, bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tiny_network.weights).encode() not in content
            assert str(RECIPES).encode() not in content


def test_parity_is_checked_on_a_scan_too(tiny_network: Tiny, tmp_path: Path, command: Command) -> None:
    phantom.head((40, 46, 44), 4.0).save(tmp_path / "head.nii.gz")
    words = ["export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", tmp_path / "b"]
    done = command(*words, "--volume", tmp_path / "head.nii.gz", "--json")
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)["parity"]
    assert [row["input"] for row in parity] == ["random", "scan"]
    bad = command(*words[:-1], tmp_path / "c", "--volume", tmp_path / "none.nii")
    assert bad.returncode == 1
    assert "none.nii: does not exist" in bad.stderr
    assert "converting" not in bad.stderr
    assert not (tmp_path / "c").exists()


def test_a_bundle_is_not_replaced_unless_forced(tiny_network: Tiny, bundle: Path, tmp_path: Path) -> None:
    words = ["export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", tmp_path / "b"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("1")
    done = run(*words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "exists already" in done.stderr
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine"]
    done = run(*words, "--force")  # a folder of something else
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "such as mine, and no bundle" in done.stderr
    assert (tmp_path / "b" / "mine").read_text() == "1"
    (tmp_path / "b" / "mine").unlink()
    assert run(*words, "--force").returncode == 0
    assert run(*words, "--force").returncode == 0
    assert Bundle.open(tmp_path / "b").manifest.name == "tiny"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_input_is_never_the_bundle(tiny_network: Tiny, tmp_path: Path, command: Command, force: list[str]) -> None:
    """Nor a folder around one; inside the folder of a recipe and its weights is no harm."""
    recipe = _edited(tmp_path, "", "")
    weights = recipe.with_name("tiny.pt")
    weights.write_bytes(tiny_network.checkpoint.read_bytes())
    phantom.head((40, 46, 44), 4.0).save(tmp_path / "head.nii.gz")
    (tmp_path / "link").symlink_to(recipe.parent)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, output in [
        ([recipe], recipe),
        ([recipe], recipe.parent),
        ([recipe], tmp_path / "link"),
        ([recipe], weights),
        ([recipe], tmp_path),
        ([weights, "--recipe", recipe], weights),
        ([weights, "--recipe", recipe], recipe),
        ([recipe, "--volume", tmp_path / "head.nii.gz"], tmp_path / "head.nii.gz"),
    ]:
        done = command("export", *words, "-o", output, *force)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "input" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert command("export", recipe, "-o", recipe.parent / "bundle").returncode == 0


def _edited(folder: Path, old: str, new: str) -> Path:
    """A copy of the tiny recipe with one thing changed."""
    home = folder / "recipe"
    home.mkdir(exist_ok=True)
    for file in (RECIPES / "tiny").glob("*.*"):
        (home / file.name).write_text(file.read_text().replace(old, new))
    return home / "recipe.toml"


def _saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "bad.pt")
    return folder / "bad.pt"


def _state(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = dict(seeded(factory(RECIPES / "tiny" / "recipe.toml")()).state_dict())
    for name, value in {key.replace("__", "."): tensor for key, tensor in changes.items()}.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


def _pickled(folder: Path) -> Path:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(folder / 'evil')!r}, 'w')",))

    (folder / "bad.pt").write_bytes(pickle.dumps({"model_state_dict": Evil()}))
    return folder / "bad.pt"


def _truncated(folder: Path) -> Path:
    path = _saved(folder, {"model_state_dict": _state()})
    path.write_bytes(path.read_bytes()[:-300])
    return path


def _bytes(folder: Path, name: str, content: bytes = b"hello") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


TINY = RECIPES / "tiny" / "recipe.toml"
#: Sources that are no network: the words after `export`, and what the one line must say.
BAD: dict[str, tuple[Callable[[Path, Tiny], list[object]], str]] = {
    "missing file": (lambda f, t: [f / "none.pt", "--recipe", TINY], "none.pt: does not exist"),
    "missing recipe": (lambda f, t: [f / "none.toml"], "none.toml: cannot be read"),
    "no recipe": (lambda f, t: [t.torchscript], "name a recipe.toml with --recipe"),
    "recipe twice": (lambda f, t: [TINY, "--recipe", TINY], "says all that is needed itself"),
    "no toml": (lambda f, t: [_bytes(f, "a.toml", b"= 3")], "is not TOML"),
    "unknown field": (lambda f, t: [_edited(f, "[parity]", "[parity]\nsurprise = 1")], "surprise"),
    "weights elsewhere": (lambda f, t: [TINY, "--weights", f], "tiny.pt: not found in"),
    "another digest": (
        lambda f, t: [_edited(f, 'checkpoint = "tiny.pt"', f'checkpoint = "tiny.pt"\nsha256 = "{"0" * 64}"'), "--weights", t.weights],
        "the recipe means the file with 000000000000",
    ),
    "factory of a stranger": (lambda f, t: [_edited(f, "network.py:build", "foo:x")], "recipe.toml: networks.net.factory: found foo:x, expected FILE.py:FUNCTION or monai:NAME or nnunet:NAME"),
    "factory of a recipe": (lambda f, t: [_edited(f, "network.py:build", "recipe:x")], "found recipe:x, expected FILE.py:FUNCTION"),
    "factory without arguments": (lambda f, t: [_edited(f, "network.py:build", "nnunet:x"), "--weights", t.weights], "nnunet:x: cannot build the network from no arguments"),
    "arguments that it does not take": (lambda f, t: [_edited(f, '"network.py:build"', '"network.py:build"\narguments = { x = 1 }'), "--weights", t.weights], "network.py:build: cannot build the network from x (build() got an unexpected"),
    "no such function": (lambda f, t: [_edited(f, "py:build", "py:none"), "--weights", t.weights], "has no none"),
    "no such module": (lambda f, t: [_edited(f, "network.py:build", "other.py:build"), "--weights", t.weights], "other.py: not found"),
    "factory of nothing": (lambda f, t: [_edited(f, "py:build", "py:nothing"), "--weights", t.weights], "expected a torch.nn.Module"),
    "unused network": (lambda f, t: [_edited(f, "[[stages]]", '[networks.more]\nonnx = "x.onnx"\n[[stages]]')], "no stage runs: more"),
    "two sources": (lambda f, t: [_edited(f, "[networks.net]", '[networks.net]\nonnx = "x"')], "exactly one of"),
    "missing key": (lambda f, t: [_saved(f, {"model_state_dict": _state(last__bias=None)}), "--recipe", TINY], "1 keys missing (last.bias)"),
    "unknown key": (lambda f, t: [_saved(f, {"model_state_dict": _state(surprise=torch.ones(1))}), "--recipe", TINY], "1 keys unexpected (surprise)"),
    "wrong shape": (lambda f, t: [_saved(f, {"model_state_dict": _state(last__bias=torch.ones(5))}), "--recipe", TINY], "last.bias has shape (5,)"),
    "wrong place": (lambda f, t: [_saved(f, {"state_dict": _state()}), "--recipe", TINY], "has no 'model_state_dict'"),
    "no tensors": (lambda f, t: [_saved(f, {"model_state_dict": {"a": 1}}), "--recipe", TINY], "no mapping of names to tensors"),
    "pickle that runs code": (lambda f, t: [_pickled(f), "--recipe", TINY], "holds more than weights"),
    "truncated": (lambda f, t: [_truncated(f), "--recipe", TINY], "cannot be read as a checkpoint"),
    "text": (lambda f, t: [_bytes(f, "a.pt"), "--recipe", TINY], "cannot be read as a checkpoint"),
    "empty": (lambda f, t: [_bytes(f, "a.pt", b""), "--recipe", TINY], "a.pt: "),
    "no onnx": (lambda f, t: [_bytes(f, "a.onnx"), "--recipe", TINY], "is no valid ONNX"),
    "two heads": (lambda f, t: [_edited(f, "py:build", "py:two_heads"), "--weights", t.weights], "network net: the network gives scores (1, 2, 32, 32, 32), edges (1, 1, 32, 32, 32), expected one output"),
    "unexpected size": (lambda f, t: [_edited(f, "filters: int = 4", "filters: int = 6"), "--weights", t.weights], "the network of network.py:build expects"),
    "impossible shape": (lambda f, t: [_edited(f, "[32, 32, 32]", "[32, 32]")], "conform.shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_give_one_line_and_no_bundle(
    tiny_network: Tiny, tmp_path: Path, command: Command, case: str
) -> None:
    make, message = BAD[case]
    words = make(tmp_path, tiny_network)
    before = sorted(tmp_path.rglob("*"))
    done = command("export", *words, "-o", tmp_path / "out", "-q")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts) == before


@pytest.mark.parametrize(("old", "new"), [("py:build", "py:restless"), ("max_abs_diff = 1e-4", "max_abs_diff = 1e-12")])
def test_without_parity_there_is_no_bundle(
    tiny_network: Tiny, tmp_path: Path, command: Command, old: str, new: str
) -> None:
    recipe = _edited(tmp_path, old, new)
    done = command("export", recipe, "--weights", tiny_network.weights, "-o", tmp_path / "out", "-q")
    assert done.returncode == 3
    assert "differs from torch by up to" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["recipe"]


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_export_leaves_nothing_at_the_target(
    tiny_network: Tiny, tmp_path: Path, blow: signal.Signals
) -> None:
    words = ["export", tiny_network.recipe, "--weights", tiny_network.weights, "-o", tmp_path / "out"]
    child = subprocess.Popen([sys.executable, "-m", "lowres_seg", *map(str, words)], stderr=subprocess.DEVNULL)
    while child.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(blow)
    assert child.wait(timeout=60) != 0
    assert not (tmp_path / "out").exists()
    if blow == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []


def test_a_bundle_serves_a_scan_from_disk(bundle: Path, tmp_path: Path) -> None:
    phantom.head((40, 46, 44), 4.0).save(tmp_path / "head.nii.gz")
    assert run("verify", bundle).returncode == 0
    assert run("predict", bundle, tmp_path / "head.nii.gz", "-o", tmp_path / "mask.nii.gz").returncode == 0
    mask, head = Volume.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "head.nii.gz")
    assert mask.grid.shape == head.shape
    assert np.array_equal(mask.grid.affine, head.affine)


def test_without_bounds_a_phantom_is_compared_too(tiny_network: Tiny, tmp_path: Path, command: Command) -> None:
    recipe = _edited(tmp_path, "[parity]", "")
    recipe.write_text(re.sub(r"max_(abs_diff|flipped) = .*\n", "", recipe.read_text()))
    done = command("export", recipe, "--weights", tiny_network.weights, "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)["parity"]
    assert [row["input"] for row in parity] == ["random", "phantom"]
    assert all(row["score_range"] > 0 for row in parity)
