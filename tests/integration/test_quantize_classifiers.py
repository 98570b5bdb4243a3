"""A classifier in INT8: its gate, a fault that the gate must find, and its reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from lowres_seg import AccuracyDropError, Bundle, Segmenter
from lowres_seg.cohort import Cases
from lowres_seg.export import export
from lowres_seg.quantize import ClassLimits, ClassVerdict, Settings, int8, quantize
from lowres_seg.runtime import reference
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.openvino_engine import read_graph, write_graph

from .conftest import Command, beside

classifiers = beside("classifiers")
#: The layer that a fault spoils: the second convolution.
SPOILT = 1


@dataclass(frozen=True)
class Trained:
    """A trained classifier of one logit, and tables of heads."""

    folder: Path
    bundle: Path

    def cases(self, name: str) -> Cases:
        return Cases.read(self.folder / f"{name}.csv", ["t1"], ["hgg"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    torch.jit.trace(classifiers.trained(1), torch.rand(1, 1, 16, 16, 16)).save(folder / "net.pt")
    export(classifiers.recipe(folder, 'torchscript = "net.pt"', ("hgg",), "sigmoid"), folder / "fp32")
    for name, seeds in (("cal", range(4)), ("val", range(10, 18))):
        rows = []
        for seed in seeds:
            classifiers.head(seed, high=seed % 2 == 1).save(folder / f"{seed}.nii.gz")
            rows.append(f"h{seed},{seed}.nii.gz,{seed % 2}")
        (folder / f"{name}.csv").write_text("\n".join(["id,t1,class", *rows]) + "\n", encoding="utf-8")
    return Trained(folder, folder / "fp32")


@pytest.fixture(scope="module")
def quantized(trained: Trained) -> Path:
    sets = trained.cases("cal"), trained.cases("val")
    done = quantize(trained.bundle, trained.folder / "int8", *sets)
    assert isinstance(done.verdict, ClassVerdict)
    assert done.verdict.met
    return done.bundle.path


def negated(model: Any, place: int) -> Any:
    """The network with the weights of one layer negated behind their quantizer."""
    layer = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"][place]
    quantizer = layer.input_value(1).get_node()
    if quantizer.get_type_name() == "FakeQuantize":  # else the layer was reverted
        for port in (3, 4):
            turned = openvino.op.Constant(-quantizer.input_value(port).get_node().data)
            quantizer.input(port).replace_source_output(turned.output(0))
    return model


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Any] = int8.quantize_network
    monkeypatch.setattr(int8, "quantize_network", lambda *words, **options: negated(right(*words, **options), SPOILT))


def test_int8_keeps_the_decisions_and_the_report_says_how_good_they_are(trained: Trained, quantized: Path) -> None:
    report = json.loads((quantized / "reports" / "quantize.json").read_text(encoding="utf-8"))
    result = report["result"]
    assert result["flipped_decisions"] == 0
    assert result["agreement"]["cases"] == 8
    assert result["agreement"]["auc"] > 0.9
    assert result["agreement"]["accuracy"] == result["agreement"]["accuracy_fp32"]
    fp32, int8_ = (Segmenter.load(path) for path in (trained.bundle, quantized))
    for row in result["cases"]:
        scan = trained.folder / f"{row['case'][1:]}.nii.gz"
        assert row["fp32"] == pytest.approx(fp32.predict(scan).numbers, abs=1e-4)
        assert row["values"] == pytest.approx(int8_.predict(scan).numbers, abs=0.02)
        assert row["decision_fp32"] == ("hgg" if row["fp32"]["hgg"] > 0.5 else "not-hgg")
    kinds = [(layer["type"], layer["precision"]) for layer in report["layers"]]
    assert kinds.count(("Convolution", "int8")) == 3
    # As NNCF comes plain INT8 moves probabilities by 0.3: its correction of biases moves all scores alike, and its ranges,
    # a mean over the calibration scans, cut the bright tumors off.
    assert [attempt["reverted"] for attempt in report["attempts"]] == [[]]


def test_a_layer_that_quantization_spoils_is_found_and_reverted(trained: Trained, tmp_path: Path, spoilt: None) -> None:
    sets = trained.cases("cal"), trained.cases("val")
    done = quantize(trained.bundle, tmp_path / "int8", *sets, Settings(ClassLimits(0.1)))
    assert isinstance(done.verdict, ClassVerdict)
    assert done.verdict.met
    report = json.loads(done.bundle.read("reports/quantize.json"))
    first, *_, last = report["attempts"]
    assert first["reverted"] == []
    assert any("changes by" in breach for breach in first["breaches"])
    kept = [layer["layer"] for layer in report["layers"] if layer["why"].startswith("reverted")]
    model = read_graph(done.bundle.network_files()["net"])
    convolutions = [n.get_friendly_name() for n in model.get_ordered_ops() if n.get_type_name() == "Convolution"]
    assert convolutions[SPOILT] in kept
    assert len(kept) == 1
    assert last["breaches"] == []


def test_a_gate_that_no_attempt_meets_writes_nothing(
    trained: Trained, tmp_path: Path, command: Command, spoilt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "layers", lambda model, layers=int8.layers: layers(model)[:1])  # one cannot be reverted
    words = ["--calibrate", trained.folder / "cal.csv", "--validate", trained.folder / "val.csv"]
    done = command("quantize", trained.bundle, *words, "-o", tmp_path / "int8", "--max-probability-change", 0.05)
    assert done.returncode == 3
    said = done.stderr
    assert "no bundle was written" in said
    assert re.search(r"hgg: its value changes by 0\.\d+ in case h1\d, allowed 0.05", said)
    assert "  h1" in said
    assert not (tmp_path / "int8").exists()
    with pytest.raises(AccuracyDropError):
        quantize(trained.bundle, tmp_path / "int8", trained.cases("cal"), trained.cases("val"))


def test_verify_has_a_bound_that_a_spoilt_network_misses(quantized: Path, tmp_path: Path, command: Command) -> None:
    done = command("verify", quantized)
    assert done.returncode == 0, done.stderr
    assert re.search(r"reference case: scores differ by up to \S+ \(allowed \S+\)$", done.stdout, re.MULTILINE)
    bundle = Bundle.open(quantized)
    files = bundle.network_files()
    model = read_graph(files["net"])
    result = model.outputs[0].get_node().input(0)
    result.replace_source_output(openvino.opset13.multiply(result.get_source_output(), np.float32(-1)).output(0))
    write_graph(model, tmp_path / "net.xml")
    engines = compile_networks(bundle.manifest, {"net": type(files["net"]).written(tmp_path / "net.xml")}, threads=1)
    case = reference.read(bundle)
    assert not Segmenter(bundle.manifest, engines, threads=1).compared(case, bundle.manifest.reference).passed
    assert Segmenter.load(bundle).compared(case, bundle.manifest.reference).passed


def test_the_page_and_the_table_show_classes(quantized: Path, tmp_path: Path, command: Command) -> None:
    done = command("report", quantized, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text(encoding="utf-8")).split())
    for text in (
        "allowed change of a class's value in any case 0.02",
        "decisions that flip",
        "0 decisions of 8 flipped",
        "Over the 8 cases whose truth is known accuracy is",
        "h11 hgg hgg hgg hgg 0.",
        "h10 not-hgg not-hgg not-hgg hgg 0.",
    ):
        assert text in page.replace("&#39;", "'"), text
    table = (quantized / "reports" / "quantize.txt").read_text(encoding="utf-8").splitlines()
    assert max(map(len, table)) <= 80
    assert any(line.split()[:1] == ["AUC"] for line in table)
    shown = command("show", quantized).stdout
    assert "classes       hgg" in shown
    assert max(map(len, shown.splitlines())) <= 80
