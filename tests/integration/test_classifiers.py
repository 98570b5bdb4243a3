"""Networks that classify: how they get in, and whether they give the same probabilities."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lowres_seg import Bundle, ExportError, ParityError, Segmenter
from lowres_seg.bench.backends import Subject, backend
from lowres_seg.bench.spec import Spec
from lowres_seg.bundle.stage import Classes
from lowres_seg.cohort import Case
from lowres_seg.export import export
from lowres_seg.export.frameworks.slices import takes_slices
from lowres_seg.export.parity import compare
from lowres_seg.export.recipe import Parity
from lowres_seg.quantize import ClassVerdict, quantize

from .conftest import Command, beside

classifiers = beside("classifiers")


def source(folder: Path, network: torch.nn.Module, way: str) -> str:
    """Save a network in one of the ways that `export` reads, and give its entry in the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.rand(1, 1, 16, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "torchscript":
            torch.jit.trace(network, x, strict=False).save(folder / "net.pt")
        elif way == "onnx":
            torch.onnx.export(network, (x,), folder / "net.onnx", dynamo=True, external_data=False, verbose=False)
        else:
            torch.save(network.state_dict(), folder / "net.pt")
            text = Path(classifiers.__file__).read_text(encoding="utf-8")
            (folder / "network.py").write_text(text, encoding="utf-8")
    if way == "checkpoint":
        classes, kind = network.head.out_features, network.kind
        return (
            'checkpoint = "net.pt"\nfactory = "network.py:build"\n'
            f'arguments = {{ classes = {classes}, kind = "{kind}" }}'
        )
    return f'{way} = "net.{"onnx" if way == "onnx" else "pt"}"'


@pytest.fixture(scope="module")
def grader() -> Any:
    return classifiers.trained(steps=20)


def probabilities(network: Any, scan: Any) -> list[float]:
    with torch.no_grad():
        scores = network(torch.from_numpy(scan.data[None, None] * np.float32(0.002)))
    scores = scores[1] if isinstance(scores, tuple) else scores
    return [float(p) for p in torch.softmax(scores.reshape(-1), 0)]


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("checkpoint", "flat"),
        ("checkpoint", "thick"),
        ("checkpoint", "squeezed"),
        ("torchscript", "flat"),
        ("torchscript", "slice"),
        ("onnx", "flat"),
        ("onnx", "squeezed"),
    ],
)
def test_one_number_a_class_is_taken_whatever_its_axes(grader: Any, tmp_path: Path, way: str, kind: str) -> None:
    grader.kind = kind
    bundle = export(classifiers.recipe(tmp_path, source(tmp_path, grader, way)), tmp_path / "out")
    assert bundle.manifest.networks["net"].output_shape == (1, 2, 1, 1, 1)
    scan = classifiers.head(5, high=True)
    found = Segmenter.load(bundle).predict(scan).numbers
    assert list(found) == ["lgg", "hgg"]
    assert list(found.values()) == pytest.approx(probabilities(grader, scan), abs=1e-4)
    parity = json.loads(bundle.read("reports/export.json"))["parity"]
    assert {row["input"] for row in parity} == {"random", "phantom"}
    assert all(row["max_probability_diff"] <= 1e-4 for row in parity)


@pytest.mark.parametrize("way", ["checkpoint", "torchscript"])
def test_a_single_logit_keeps_parity_and_its_onnx_graph_has_the_axes(tmp_path: Path, way: str) -> None:
    """Of one number the range is 0, so that it says nothing about a difference."""
    torch.manual_seed(0)
    network = classifiers.build(1).eval()
    recipe = classifiers.recipe(tmp_path, source(tmp_path, network, way), ("hgg",), "sigmoid")
    bundle = export(recipe, tmp_path / "out", keep_onnx=True)
    graph = onnx.load(bundle.file("networks/net.onnx"))
    assert [size.dim_value for size in graph.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 1, 1, 1]
    scan = classifiers.head(5, high=True)
    expected = Segmenter.load(bundle).predict(scan).numbers
    subject = Subject(bundle)
    for name in ("openvino-plain", "onnxruntime"):
        spec = Spec("judge", str(bundle.path), name, networks=backend(name).networks(subject))
        assert backend(name).segmenter(spec).predict(scan).numbers == pytest.approx(expected, abs=1e-5)


def test_one_of_several_outputs_is_named(grader: Any, tmp_path: Path) -> None:
    grader.kind = "pair"
    entry = source(tmp_path, grader, "checkpoint") + "\noutput = 1"
    bundle = export(classifiers.recipe(tmp_path, entry), tmp_path / "out")
    scan = classifiers.head(5, high=False)
    found = Segmenter.load(bundle).predict(scan).numbers
    assert list(found.values()) == pytest.approx(probabilities(grader, scan), abs=1e-4)


class Flat(torch.nn.Module):
    """A network of slices that classifies."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.conv, self.axes = torch.nn.Conv2d(1, 3, 3), axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.conv(x).mean((2, 3), keepdim=self.axes == 4)
        assert isinstance(scores, torch.Tensor)
        return scores


@pytest.mark.parametrize("axes", [2, 4])
def test_a_network_of_slices_may_classify(axes: int) -> None:
    network, x = Flat(axes).eval(), torch.rand(1, 1, 1, 8, 8)
    expected = network(x[:, :, 0]).reshape(-1)
    for axis in (2, 3, 4):
        found = takes_slices(Flat(axes).eval())
        found.load_state_dict(network.state_dict())
        given = found(x[:, :, 0].unsqueeze(axis))
        assert torch.equal(given.reshape(-1), expected)
        assert tuple(given.shape) == ((1, 3) if axes == 2 else (1, 3, 1, 1, 1))


def test_what_gives_the_other_of_numbers_and_voxels_is_refused(grader: Any, tmp_path: Path, command: Command) -> None:
    grader.kind = "flat"
    recipe = classifiers.recipe(tmp_path, source(tmp_path, grader, "checkpoint"))
    text = recipe.read_text(encoding="utf-8")
    voxels = text.replace(
        'kind = "classes", activation = "softmax", names = ["lgg", "hgg"]', 'kind = "argmax", labels = [0, 1]'
    )
    voxels = voxels.replace('what = "nothing"', 'what = "labels"')
    voxels = voxels.replace("labels = []", 'labels = [{ value = 1, name = "tumor" }]')
    recipe.write_text(voxels, encoding="utf-8")
    with pytest.raises(ExportError, match=r"gives one number for each of 2 channels, and the recipe decodes argmax"):
        export(recipe, tmp_path / "a")
    torch.jit.trace(torch.nn.Conv3d(1, 2, 1), torch.rand(1, 1, 16, 16, 16)).save(tmp_path / "conv.pt")
    classifiers.recipe(tmp_path, 'torchscript = "conv.pt"')
    done = command("export", recipe, "-o", tmp_path / "b")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "the network gives scores of [16, 16, 16], and the recipe decodes classes; expected one number a class: pool "
        "them in the network, or decode regions or argmax"
    )


def test_the_probabilities_of_classes_have_a_bound_of_their_own() -> None:
    """Scores of 300 may differ by 9e-3 by their range, which moves a probability by 2e-3."""
    decode = Classes(names=("a", "b", "c"))
    given = np.array([300.0, 300.5, -300.0], np.float32).reshape(1, 3, 1, 1, 1)
    other = given + np.array([8e-3, 0, 0], np.float32).reshape(1, 3, 1, 1, 1)
    report = compare("net", "phantom", decode, ("torch", given), ("openvino", other))
    assert report.is_close
    with pytest.raises(ParityError, match=r"a class's probability by 0.00188 \(allowed 0.0001\)"):
        report.check(Parity())
    report.check(Parity(max_abs_diff=0.01))
    compare("net", "phantom", decode, ("torch", given), ("openvino", given)).check(Parity())


def test_what_export_prints_tells_of_probabilities(grader: Any, tmp_path: Path, command: Command) -> None:
    grader.kind = "flat"
    recipe = classifiers.recipe(tmp_path, source(tmp_path, grader, "torchscript"))
    done = command("export", recipe, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "net, phantom: openvino with torch: probabilities of classes differ by up to" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140
    assert Bundle.open(tmp_path / "out").manifest.classes == ("lgg", "hgg")


def test_monais_densenet_needs_a_recipe_alone(tmp_path: Path) -> None:
    """With batch norms, dense blocks and an adaptive pooling, and scores (1, C)."""
    monai = pytest.importorskip("monai.networks.nets")
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_features": 4, "growth_rate": 4}
    torch.manual_seed(0)
    network = monai.DenseNet(**arguments, block_config=(2, 2), bn_size=2).eval()
    torch.save(network.state_dict(), tmp_path / "net.pt")
    given = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    entry = f'checkpoint = "net.pt"\nfactory = "monai:DenseNet"\narguments = {{ {given}, block_config = [2, 2], bn_size = 2 }}'
    bundle = export(classifiers.recipe(tmp_path, entry, ("a", "b", "c")), tmp_path / "out")
    scan = classifiers.head(5, high=True)
    assert list(Segmenter.load(bundle).predict(scan).numbers.values()) == pytest.approx(
        probabilities(network, scan), abs=1e-5
    )
    cases = [[Case(f"{kind}{n}", {"t1": tmp_path / f"{kind}{n}.nii.gz"}) for n in range(2)] for kind in "cv"]
    for seed, case in enumerate(cases[0] + cases[1]):
        classifiers.head(seed, high=seed % 2 == 1).save(case.scan["t1"])
    done = quantize(bundle.path, tmp_path / "int8", *cases)
    assert isinstance(done.verdict, ClassVerdict)
    assert done.verdict.loss() <= 0.02
    assert Segmenter.load(done.bundle).self_test().passed
