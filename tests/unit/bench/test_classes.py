"""`bench`, `compare` and the page for bundles that classify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import graders
from lowres_seg import BenchmarkError, Bundle, InputError
from lowres_seg.bench import Plan, Suite, Tolerances, bench, compare
from lowres_seg.bench.class_sums import ClassSums
from lowres_seg.bench.measuring import judging
from lowres_seg.bench.measuring.judging import Judgement
from lowres_seg.bench.suite import Classified
from lowres_seg.cli import app, suite_text

QUICK = {"cores": (1,), "passes": 1, "rounds": 1, "warm_up": 0, "turn_s": 0, "pictures": False, "what": ("end-to-end",)}
Content = Callable[..., dict[str, Any]]
#: Level and class of each case; the third one's class is not known, and the last one's is not found.
CASES = {"a": (0.2, "low"), "b": (0.9, "high"), "c": (0.8, ""), "d": (0.6, "low")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    rows = []
    for name, (level, truth) in CASES.items():
        graders.scan(level).save(folder / f"{name}.nii.gz")
        rows.append(f"{name},{name}.nii.gz,{truth}")
    (folder / "cases.csv").write_text("\n".join(["id,t1,class", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def suite(folder: Path) -> Suite:
    """A bundle, and one that is said to be made from it, whose scores are a little off."""
    from conftest import manifest_content

    fp32 = graders.write(folder / "fp32", manifest_content())
    content = manifest_content()
    content["lineage"]["parent"] = fp32.digest
    graders.write(folder / "other", content, gain=7.5)
    bundles = [{"path": folder / name} for name in ("fp32", "other")]
    return bench(Plan.build("test", {"bundles": bundles, "cases": folder / "cases.csv", **QUICK}))


def test_classes_are_judged_against_fp32_and_the_truth(suite: Suite, checkout: Path, tmp_path: Path) -> None:
    assert not suite.partial
    fp32, other = suite.benchmarks
    assert fp32.classes == other.classes == ("low", "high")
    assert fp32.accuracy == ()
    assert [(row.case, row.truth, row.decision) for row in fp32.classified] == [
        ("a", "low", "low"),
        ("b", "high", "high"),
        ("c", None, "high"),
        ("d", "low", "high"),
    ]
    assert [row.change for row in fp32.classified] == [None] * 4
    for row, base in zip(other.classified, fp32.classified, strict=True):
        assert row.against == "fp32, openvino"
        assert row.change == pytest.approx(abs(row.values["high"] - base.values["high"]), abs=1e-6)
        assert row.flipped is False
    assert list(other.stages_s)[-1] == "save"
    sums = ClassSums.of(other)
    assert (sums.cases, sums.known, sums.flipped, sums.auc) == (4, 3, 0, 1.0)
    assert sums.accuracy == pytest.approx(2 / 3)
    suite.write(tmp_path / "suite.json")
    content = json.loads((tmp_path / "suite.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads((checkout / "docs" / "suite.schema.json").read_text(encoding="utf-8")))
    assert Suite.read(tmp_path / "suite.json") == suite


def test_a_suite_without_classes_is_written_as_before(suite: Suite, tmp_path: Path) -> None:
    plain = [b.model_copy(update={"classes": (), "classified": ()}) for b in suite.benchmarks]
    suite.model_copy(update={"benchmarks": tuple(plain)}).write(tmp_path / "plain.json")
    content = json.loads((tmp_path / "plain.json").read_text(encoding="utf-8"))
    assert not {"classes", "classified"} & set(content["benchmarks"][0])
    assert Suite.read(tmp_path / "plain.json").benchmarks == tuple(plain)


def test_the_text_and_the_page_show_classes(suite: Suite, tmp_path: Path) -> None:
    lines = suite_text.lines(suite)
    assert max(len(line) for line in lines if not line.startswith("doubt")) <= 80
    at = next(n for n, line in enumerate(lines) if "largest change" in line)
    assert lines[at].split() == ["largest", "change", "flipped", "AUC", "accuracy", "truths"]
    assert lines[at + 2].split() == ["openvino", "f32", "–", "–", "1.0000", "0.6667", "3", "of", "4"]
    assert lines[at + 4].split()[3:] == ["0", "of", "4", "1.0000", "0.6667", "3", "of", "4"]
    assert "Changes are against fp32, openvino." in lines
    page = pytest.importorskip("lowres_seg.bench.html.page").render(suite)
    assert "<td>fp32, openvino</td>" in page
    assert "<td>0.6667</td>" in page


def changed(suite: Suite, **values: float) -> Suite:
    """A suite in which the high class of some cases has other values."""
    found = []
    for b in suite.benchmarks:
        rows = []
        for row in b.classified:
            high = values.get(row.case, row.values["high"])
            decision = "high" if high > 0.5 else "low"
            rows.append(row.model_copy(update={"values": {"low": 1 - high, "high": high}, "decision": decision}))
        found.append(b.model_copy(update={"classified": tuple(rows)}))
    return suite.model_copy(update={"benchmarks": tuple(found)})


def test_compare_judges_values_decisions_auc_and_accuracy(suite: Suite, tmp_path: Path) -> None:
    assert compare(suite, changed(suite), what=["accuracy"]).met
    base = {row.case: row.values["high"] for row in suite.benchmarks[0].classified}
    small = changed(suite, a=base["a"] + 0.01)
    found = compare(suite, small, what=["accuracy"])
    assert found.met
    assert [c.quantity for c in found.changes[:4]] == ["value of a class", "flipped decisions", "AUC", "accuracy"]
    assert found.changes[0].change == pytest.approx(0.01, abs=1e-4)
    found = compare(suite, changed(suite, b=0.4), what=["accuracy"])
    assert [c.verdict for c in found.changes[:4]] == ["regression"] * 4
    assert "flipped decisions 0 → 1 (+1, allowed +0)" in "\n".join(found.regressions)
    assert "accuracy 0.6667 → 0.3333 (-0.3333, allowed -0.0050)" in "\n".join(found.regressions)
    loose = Tolerances(max_probability_change=1, max_flipped_decisions=1, max_drop=1)
    assert compare(suite, changed(suite, b=0.4), loose, what=["accuracy"]).met
    suite.write(tmp_path / "a.json")
    changed(suite, b=0.4).write(tmp_path / "b.json")
    words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--what", "accuracy", "--max-drop", "1"]
    assert CliRunner().invoke(app, words).exit_code != 0
    words += ["--max-probability-change", "1", "--max-flipped-decisions", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    fewer = [b.model_copy(update={"classified": b.classified[1:]}) for b in suite.benchmarks]
    with pytest.raises(BenchmarkError, match="was judged on 4 cases among low, high in the base, and on 3"):
        compare(suite, suite.model_copy(update={"benchmarks": tuple(fewer)}), what=["accuracy"])


def test_torch_is_the_reference_where_it_was_judged(folder: Path, suite: Suite) -> None:
    def judged(high: float) -> Judgement:
        values = {"low": 1 - high, "high": high}
        return Judgement(classified=(Classified(case="a", values=values, decision="high" if high > 0.5 else "low"),))

    bundles = {name: Bundle.open(folder / name) for name in ("fp32", "other")}
    given = {("fp32", "torch", "native"): judged(0.6), ("fp32", "openvino", "native"): judged(0.61)}
    found = judging.with_changes({**given, ("other", "openvino", "native"): judged(0.4)}, bundles)
    told = {key: (row.against, row.flipped) for key, one in found.items() for row in one.classified}
    assert told == {
        ("fp32", "torch", "native"): ("", None),
        ("fp32", "openvino", "native"): ("fp32, torch", False),
        ("other", "openvino", "native"): ("fp32, torch", True),
    }
    assert found["other", "openvino", "native"].classified[0].change == pytest.approx(0.2)
    alone = judging.with_changes({("other", "openvino", "native"): judged(0.4)}, {"other": bundles["other"]})
    assert alone["other", "openvino", "native"].classified[0].against == ""


def test_a_wrong_class_is_refused_and_a_missing_label_is_not(folder: Path, suite: Suite, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(f"id,t1,class\na,{folder / 'a.nii.gz'},medium\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2, column class: found 'medium', expected low or high"):
        bench(Plan.build("test", {"bundles": [{"path": folder / "fp32"}], "cases": table, **QUICK}))
