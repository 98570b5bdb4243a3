"""Places of points in the plots of a page."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowres_seg.bench.html.axis import BOTTOM, LEFT, RIGHT, TOP, of_dice, of_time
from lowres_seg.bench.html.plots import _front, cases

times = st.floats(1e-4, 1e3, allow_subnormal=False)
dice = st.integers(0, 10_000).map(lambda n: n / 10_000)  # a library may turn denormal numbers off


@settings(deadline=None)
@given(st.lists(st.tuples(times, dice), min_size=1, max_size=20))
def test_no_other_point_beats_one_of_the_front(points: list[tuple[float, float]]) -> None:
    front = _front(points)
    assert front
    for n, (time, score) in enumerate(points):
        beaten = any(t <= time and d >= score and (t < time or d > score) for t, d in points)
        twin = any(points[m] == points[n] for m in front)
        assert (n in front or twin) == (not beaten)


@settings(deadline=None)
@given(st.lists(times, min_size=1, max_size=10))
def test_an_axis_of_time_holds_its_values(values: list[float]) -> None:
    axis = of_time(values, LEFT, RIGHT)
    assert all(LEFT <= axis.place(value) <= RIGHT for value in values)
    assert axis.ticks
    assert all(LEFT - 1e-6 <= place <= RIGHT + 1e-6 for place, _ in axis.ticks)
    assert len({text for _, text in axis.ticks}) == len(axis.ticks) <= 9


@settings(deadline=None)
@given(st.lists(dice, min_size=1, max_size=10))
def test_an_axis_of_dice_holds_its_values(values: list[float]) -> None:
    axis = of_dice(values)
    assert all(TOP - 1e-6 <= axis.place(value) <= BOTTOM + 1e-6 for value in values)
    assert 0 <= axis.low < axis.high <= 1
    places = [place for place, _ in axis.ticks]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("quantity", ["Dice", "HD95"])
def test_the_case_that_loses_most_is_named(quantity: str) -> None:
    rows = {"a, brain": (0.9, 0.9), "b, brain": (0.5, 0.6), "c, brain": (0.8, 0.7)}
    plot = cases("id", quantity, [("fp32", "f32"), ("int8", "int8")], rows)
    lost = "c, brain" if quantity == "Dice" else "b, brain"
    assert [row.name for row in plot.rows if row.is_lost] == [lost]
    assert f"({lost})" in plot.summary


def test_one_bundle_has_no_loss() -> None:
    plot = cases("id", "Dice", [("fp32", "f32")], {"a, brain": (1.0,), "b, brain": (1.0,)})
    assert "from" not in plot.summary
    assert len(plot.columns) == 1
