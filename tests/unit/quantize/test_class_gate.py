"""The gate of bundles that classify: what a candidate may change."""

from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.metrics.classification import accuracy, auc, decision, margin
from lowres_seg.quantize.class_gate import ClassLimits, ClassScore, ClassVerdict

BOTH = ("lgg", "hgg")


def score(case: str, before: float, now: float, truth: str | None = None) -> ClassScore:
    fp32, values = ({"lgg": 1 - p, "hgg": p} for p in (before, now))
    return ClassScore(case, truth, fp32, values, decision(fp32, BOTH), decision(values, BOTH))


def verdict(*pairs: tuple[float, float], limits: ClassLimits | None = None) -> ClassVerdict:
    rows = tuple(score(f"c{n}", *pair) for n, pair in enumerate(pairs))
    return ClassVerdict(rows, limits or ClassLimits(), BOTH)


@pytest.mark.parametrize(
    ("found", "breaches"),
    [
        (verdict((0.9, 0.91), (0.2, 0.19)), []),
        (
            verdict((0.9, 0.91), (0.2, 0.25)),
            ["lgg: its value changes by 0.0500 in case c1, allowed 0.02", "hgg: its value changes by 0.0500 in case c1, allowed 0.02"],
        ),
        (verdict((0.495, 0.505), (0.2, 0.2)), ["1 decision flips (c0), allowed 0"]),
        (verdict(*[(0.495, 0.505)] * 5, limits=ClassLimits(0.02, 4)), ["5 decisions flip (c0, c1, c2 and 2 more), allowed 4"]),
        (verdict((0.495, 0.505), limits=ClassLimits(0.02, 1)), []),
        (verdict((0.495, 0.9), limits=ClassLimits(1, 1)), []),
        (verdict((0.5, float("nan")), limits=ClassLimits(1, 1)), ["lgg: its value changes by nan", "hgg: its value changes by nan"]),
    ],
)  # fmt: skip
def test_the_gate(found: ClassVerdict, breaches: list[str]) -> None:
    assert found.met == (not breaches)
    assert len(found.breaches()) == len(breaches)
    assert all(said.startswith(expected) for said, expected in zip(found.breaches(), breaches, strict=True))


def test_a_lost_gate_is_seen_at_once_because_no_case_makes_up_for_another() -> None:
    assert verdict((0.2, 0.25)).is_lost([{}] * 9)
    assert verdict((0.495, 0.505)).is_lost([{}] * 9)
    assert not verdict((0.495, 0.505), limits=ClassLimits(0.02, 1)).is_lost([{}] * 9)
    assert not verdict((0.2, 0.21)).is_lost([])


def test_a_flip_is_held_to_what_its_case_may_move() -> None:
    """Half of its margin would still keep the decision, so the search needs not take away everything."""
    assert verdict((0.2, 0.21)).overshoot() == pytest.approx(0.5)
    assert verdict((0.2, 0.25)).overshoot() == pytest.approx(2.5)
    assert verdict((0.495, 0.505)).overshoot() == pytest.approx(2)
    assert verdict((0.495, 0.505), limits=ClassLimits(0.02, 1)).overshoot() == pytest.approx(0.5)


def test_truths_are_told_and_are_no_limit() -> None:
    rows = (
        score("a", 0.9, 0.89, "hgg"),
        score("b", 0.6, 0.61, "lgg"),
        score("c", 0.2, 0.2, "lgg"),
        score("d", 0.1, 0.1),
    )
    found = ClassVerdict(rows, ClassLimits(), BOTH)
    assert found.met
    assert found.agreement() == {"cases": 3, "accuracy_fp32": 2 / 3, "accuracy": 2 / 3, "auc_fp32": 1.0, "auc": 1.0}
    assert verdict((0.2, 0.2)).agreement() is None
    alone = ClassVerdict(rows[:1], ClassLimits(), BOTH).agreement()
    assert alone is not None
    assert alone["auc"] is None
    assert "AUC" in "\n".join(found.table())


def test_the_table_fits_a_terminal_whatever_names_are_long() -> None:
    long = "a" * 64
    fp32, now = {long: 0.9, "b": 0.1}, {long: 0.3, "b": 0.7}
    row = ClassScore("sub-0001_ses-preoperative_acq-mprage_T1w", long, fp32, now, long, "b")
    lines = ClassVerdict((row,), ClassLimits(), (long, "b")).table()
    assert max(map(len, lines)) <= 80
    assert [line.split()[-5:] for line in lines if "flips" in line] == [
        ["0.90000", "0.30000", "0.60000", "flips", "wrong"]
    ]


def test_decisions_and_their_margins() -> None:
    assert decision({"a": 0.5}, ["a"]) == "not-a"
    assert decision({"a": 0.2, "b": 0.2, "c": 0.1}, ["a", "b", "c"]) == "a"
    for values, classes in (({"a": 0.7}, ["a"]), ({"a": 0.5, "b": 0.3, "c": 0.2}, ["a", "b", "c"])):
        most = margin(values, classes)
        best = decision(values, classes)
        for share, same in ((0.99, True), (1.01, False)):
            moved = {name: value + most * share * (-1 if name == "a" else 1) for name, value in values.items()}
            assert (decision(moved, classes) == best) == same


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_auc_is_that_of_mann_and_whitney(classes: int) -> None:
    """scipy's statistic over the number of pairs, with ties, is the oracle; one class against the rest."""
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(classes)
    names = [f"k{n}" for n in range(classes)]
    values = [dict(zip(names, random.integers(0, 9, classes) / 8, strict=True)) for _ in range(60)]
    known = ["k0", "not-k0"] if classes == 1 else names
    truths = [str(random.choice(known)) for _ in values]
    expected = []
    for name in names:
        of, rest = (
            [v[name] for v, t in zip(values, truths, strict=True) if (t == name) == is_of] for is_of in (True, False)
        )
        expected.append(stats.mannwhitneyu(of, rest).statistic / (len(of) * len(rest)))
    assert auc(values, truths, names) == pytest.approx(np.mean(expected))
    found = [decision(v, names) for v in values]
    assert accuracy(found, truths) == np.mean([a == b for a, b in zip(found, truths, strict=True)])
    assert auc(values[:1], truths[:1], names) is None
