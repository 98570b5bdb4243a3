"""A whole run of `quantize` on a bundle that classifies, in bf16: it needs no NNCF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import graders
from lowres_seg import AccuracyDropError, InputError, Segmenter
from lowres_seg.bundle import reports
from lowres_seg.cli import app
from lowres_seg.cohort import Case, Cases
from lowres_seg.quantize import ClassLimits, ClassVerdict, Limits, Settings, quantize
from lowres_seg.runtime.openvino_engine import cpu_capabilities

needs_bf16 = pytest.mark.skipif("BF16" not in cpu_capabilities(), reason="this CPU does not compute in bf16")
Content = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path, content: Content) -> Path:
    """Bundles of two classes and of one, and tables of four cases, whose last one has a truth that is not found."""
    graders.write(tmp_path / "two", content())
    graders.write(tmp_path / "one", content(), ["high"])
    rows = []
    for n, (level, truth) in enumerate([(0.2, "low"), (0.45, "low"), (0.56, "high"), (0.7, "low"), (0.9, "")]):
        graders.scan(level, n).save(tmp_path / f"{n}.nii.gz")
        rows.append(f"c{n},{n}.nii.gz,{truth}")
    (tmp_path / "cal.csv").write_text("id,t1,class\nc0,0.nii.gz,whatever\n", encoding="utf-8")
    (tmp_path / "val.csv").write_text("\n".join(["id,t1,class", *rows[1:]]) + "\n", encoding="utf-8")
    words = "\n".join(["id,t1,class", *rows[1:]]).replace("low", "0") + "\n"
    (tmp_path / "val1.csv").write_text(words, encoding="utf-8")
    return tmp_path


def here(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@needs_bf16
@pytest.mark.parametrize(("name", "val", "wrong"), [("two", "val.csv", "low"), ("one", "val1.csv", "not-high")])
def test_classes_go_through_their_gate(folder: Path, name: str, val: str, wrong: str) -> None:
    tables = ["--calibrate", folder / "cal.csv", "--validate", folder / val]
    done = here("quantize", folder / name, *tables, "-o", folder / "out", "--precision", "bf16", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["limits"] == {"max_probability_change": 0.02, "max_flipped_decisions": 0}
    assert said["result"]["agreement"]["cases"] == 3
    assert said["result"]["agreement"]["accuracy"] == pytest.approx(2 / 3)
    assert said["result"]["agreement"]["auc"] == said["result"]["agreement"]["auc_fp32"] == 0.5
    assert {case["case"]: case["truth"] for case in said["result"]["cases"]}["c3"] == wrong
    assert set(said["attempts"][0]) == {"reverted", "classes", "flipped_decisions", "agreement", "breaches"}
    segmenter = Segmenter.load(folder / "out")
    assert segmenter.self_test().passed
    report = reports.quantized(segmenter.bundle)
    assert report is not None
    assert report.result is not None
    assert [one.decision for one in report.result.values] == [one.decision_fp32 for one in report.result.values]
    text = (folder / "out" / "reports" / "quantize.txt").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80
    assert "accuracy" in text
    shown = " ".join(here("show", folder / "out").stdout.split())
    assert "values of classes may change by 0.02, and 0 decisions may flip" in shown
    assert "0 decisions of 4 flipped" in shown
    assert "accuracy 0.6667 in fp32, 0.6667 now" in shown


@needs_bf16
def test_a_gate_that_is_not_met_writes_nothing_and_tells_the_cases(folder: Path) -> None:
    tables = ["--calibrate", folder / "cal.csv", "--validate", folder / "val.csv", "-o", folder / "out"]
    words = ["quantize", folder / "two", *tables, "--precision", "bf16", "--max-probability-change", "0.0000001"]
    done = here(*words)
    assert isinstance(done.exception, AccuracyDropError)
    assert "its value changes by 0.00" in str(done.exception)
    assert "kept" in str(done.exception)
    assert not (folder / "out").exists()


@needs_bf16
def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, runs = Segmenter.predict, [0]

    def counting(self: Segmenter, *words: Any, **options: Any) -> Any:
        runs[-1] += 1
        if len(runs) == 1 and runs[0] == 6:  # the second case of the candidate
            raise KeyboardInterrupt
        return predict(self, *words, **options)

    monkeypatch.setattr(Segmenter, "predict", counting)
    sets = Cases.read(folder / "cal.csv", ["t1"]), Cases.read(folder / "val.csv", ["t1"], ["low", "high"])
    with pytest.raises(KeyboardInterrupt):
        quantize(folder / "two", folder / "out", *sets, Settings(precision="bf16"))
    runs.append(0)
    done = quantize(folder / "two", folder / "out", *sets, Settings(precision="bf16"), resume=True)
    assert runs[1] < runs[0] + 4
    assert isinstance(done.verdict, ClassVerdict)
    assert len(done.verdict.rows) == 4
    monkeypatch.undo()
    again = quantize(folder / "two", folder / "again", *sets, Settings(precision="bf16"))
    assert again.bundle.digest == done.bundle.digest


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("two", ["--max-drop", "0.1"], "--max-drop: is for bundles that give masks, and this one classifies"),
        ("two", ["--max-hd95-rise", "1"], "--max-hd95-rise: is for bundles that give masks"),
        ("two", ["--worst-case-drop", "0"], "--worst-case-drop: is for bundles that give masks"),
        ("two", ["--ignore-label", "9"], "--ignore-label: is for bundles that give masks"),
        ("tiny", ["--max-probability-change", "0"], "--max-probability-change: is for bundles that classify"),
        ("tiny", ["--max-flipped-decisions", "0"], "--max-flipped-decisions: is for bundles that classify"),
    ],
)
def test_options_of_the_other_gate_are_refused(
    folder: Path, tiny: Path, name: str, words: list[str], message: str
) -> None:
    assert tiny == folder / "tiny"
    tables = ["--calibrate", folder / "cal.csv", "--validate", folder / "val.csv"]
    done = here("quantize", folder / name, *tables, "-o", folder / "out", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split()).replace("'", "")


def test_limits_and_truths_of_another_kind_are_refused(folder: Path, tiny: Path) -> None:
    sets = Cases.read(folder / "cal.csv", ["t1"]), Cases.read(folder / "val.csv", ["t1"])
    with pytest.raises(InputError, match=r"classifies and gives no mask, and the limits are those of masks"):
        quantize(folder / "two", folder / "out", *sets, Settings(Limits(), precision="bf16"))
    with pytest.raises(InputError, match=r"classifies and gives no mask, and labels are to be ignored"):
        quantize(folder / "two", folder / "out", *sets, Settings(precision="bf16", ignore_labels=[7]))
    with pytest.raises(InputError, match=r"gives masks, and the limits are those of classes"):
        quantize(tiny, folder / "out", *sets, Settings(ClassLimits(), precision="bf16"))
    wrong = [Case("w", {"t1": folder / "1.nii.gz"}, truth="grade 4")]
    with pytest.raises(InputError, match=r"case w: its truth is 'grade 4', expected one of low, high or none"):
        quantize(folder / "two", folder / "out", list(sets[0]), wrong, Settings(precision="bf16"))
    assert not (folder / "out").exists()


def test_a_wrong_class_is_told_with_its_line(folder: Path) -> None:
    val = folder / "val.csv"
    val.write_text(val.read_text(encoding="utf-8").replace("c3,3.nii.gz,low", "c3,3.nii.gz,medium"), encoding="utf-8")
    done = here("quantize", folder / "two", "--calibrate", folder / "cal.csv", "--validate", val, "-o", folder / "out")
    assert (
        str(done.exception) == f"{val}: line 4, column class: found 'medium', expected low or high; correct the table"
    )
