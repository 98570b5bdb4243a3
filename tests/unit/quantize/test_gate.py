"""The gate: what a candidate may lose."""

from __future__ import annotations

import numpy as np
import pytest

from lowres_seg.metrics import score
from lowres_seg.quantize.gate import LabelScore, Limits, Verdict, table


def verdict(*drops: float, rise: float = 0.0, limits: Limits | None = None) -> Verdict:
    rows = tuple(
        LabelScore(f"c{i}", "brain", "labels", 0.9, 0.9 - drop, 2.0, 2.0 + rise) for i, drop in enumerate(drops)
    )
    return Verdict(rows, limits or Limits())


@pytest.mark.parametrize(
    ("found", "breach"),
    [
        (verdict(0.004, 0.004), None),
        (verdict(0.02, -0.02), None),
        (verdict(0.004, 0.008), "mean Dice drops by 0.0060, allowed 0.005"),
        (verdict(0.0, rise=1.5), "mean HD95 rises by 1.500 mm, allowed 1"),
        (verdict(0.02, -0.02, limits=Limits(worst_case_drop=0.01)), "worst Dice drops by 0.0200"),
        (verdict(float("nan")), "mean Dice drops by nan"),
        (verdict(0.0, rise=float("nan")), "mean HD95 rises by nan"),
    ],
)
def test_the_gate(found: Verdict, breach: str | None) -> None:
    assert found.met == (breach is None)
    assert breach is None or breach in found.breaches()[0]


def test_one_label_cannot_hide_behind_another() -> None:
    rows = (LabelScore("c", "wt", "labels", 0.9, 0.95, 2, 2), LabelScore("c", "et", "labels", 0.8, 0.76, 2, 2))
    assert Verdict(rows, Limits()).breaches() == ["et: mean Dice drops by 0.0400, allowed 0.005"]


def test_a_lost_mask_costs_everything_and_does_not_vanish() -> None:
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    assert score(np.zeros_like(truth), truth, {"brain": (1,)}, (1, 1, 1)) == {"brain": (0.0, pytest.approx(300**0.5))}


@pytest.mark.parametrize(
    ("drops", "left", "lost"),
    [
        ([1.0], [1.0, 1.0, 1.0], True),
        ([0.004], [1.0], False),
        ([0.019], [1.0, 1.0, 1.0], False),
        ([0.021], [1.0, 1.0, 1.0], True),
        ([0.05], [0.9, 0.9, 0.9], False),  # the others may yet gain 0.1 each
        ([0.4], [0.9, 0.9, 0.9], True),
        ([float("nan")], [1.0], False),  # not lost early, and a breach in the end
    ],
)
def test_a_lost_gate_is_seen_before_all_cases_are_judged(drops: list[float], left: list[float], lost: bool) -> None:
    assert verdict(*drops).is_lost([{"brain": (value, 2.0)} for value in left]) == lost


def test_the_table_fits_a_terminal_whatever_names_are_long() -> None:
    long = "a label with a name of several words, and one more"
    names = ["sub-0001_ses-preoperative_acq-mprage_T1w", "b"]
    rows = [
        LabelScore(case, label, against, 0.98765, 0.98712, 100.25, 99.5)
        for label, against in (("brain", "labels"), (long, "fp32"))
        for case in names
    ]
    lines = table(Verdict(tuple(rows), Limits()))
    assert max(map(len, lines)) <= 80
    assert "brain, against label maps" in lines
    assert f"{long}, against masks of fp32" in lines
    assert [line.split() for line in lines if line.startswith("  b ")] == [
        ["b", "0.98765", "0.98712", "0.00053", "100.250", "99.500", "-0.750"]
    ] * 2
    assert "sub-0001_ses-preoperative_acq-mprage_T1w" in "".join("".join(line.split()[:1]) for line in lines)
