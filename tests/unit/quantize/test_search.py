"""The search for the layers that must keep their precision."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from lowres_seg.quantize.gate import LabelScore, Limits, Verdict
from lowres_seg.quantize.layer import LayerId, Reverted, as_text
from lowres_seg.quantize.search import Clock, Ranked, SearchResult, search


def verdict(*drops: float, rise: float = 0.0, limits: Limits | None = None) -> Verdict:
    rows = tuple(
        LabelScore(f"c{i}", "brain", "labels", 0.9, 0.9 - drop, 2.0, 2.0 + rise) for i, drop in enumerate(drops)
    )
    return Verdict(rows, limits or Limits())


class Net:
    """Layers, some of which ruin the result unless they are reverted; counts how often it is judged in full."""

    def __init__(self, bad: Sequence[str], layers: int = 40) -> None:
        self.bad = set(bad)
        self.layers = [LayerId("net", f"l{i}") for i in range(layers)]
        self.judged = 0

    def judge(self, reverted: Reverted) -> Verdict:
        self.judged += 1
        return verdict(0.1 * len(self.bad - set(map(str, reverted))))

    def rank(self) -> list[Ranked]:
        return [Ranked(layer, 0.1 if str(layer) in self.bad else 0.001, 1.0) for layer in self.layers]

    def loss(self, reverted: Sequence[LayerId]) -> float:
        """Windows that see ten times as much as there is."""
        return 1.0 * len(self.bad - set(map(str, reverted)))

    def found(
        self, loss: Callable[[Sequence[LayerId]], float] | None = None, budget_s: float | None = None
    ) -> SearchResult:
        return search(self.judge, self.rank, loss or self.loss, Clock(budget_s))


def test_plain_int8_is_taken_if_it_is_good_enough() -> None:
    net = Net([])
    assert net.found().best is not None
    assert net.judged == 1


@pytest.mark.parametrize("bad", [["net/l7"], ["net/l7", "net/l20", "net/l39"]])
def test_the_bad_layers_are_reverted_and_no_other(bad: list[str]) -> None:
    net = Net(bad)
    best = net.found().best
    assert best is not None
    assert set(as_text(best.reverted)) == set(bad)
    assert net.judged <= 4


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_windows_that_say_nothing_cost_attempts_but_not_the_result(answer: float) -> None:
    net = Net(["net/l1", "net/l2", "net/l3", "net/l4", "net/l5"])
    best = net.found(loss=lambda _: answer).best
    assert best is not None
    assert set(as_text(best.reverted)) >= net.bad
    assert len(best.reverted) <= 10
    assert net.judged <= 7


def test_layers_that_save_more_are_kept_longer() -> None:
    order = [
        Ranked(LayerId("net", name), harm, ms)
        for name, harm, ms in (("slow", 0.1, 10.0), ("fast", 0.1, 1.0), ("fine", 0.0, 1.0))
    ]
    found = search(
        lambda layers: verdict(0.0 if LayerId("net", "fast") in layers else 0.1),
        lambda: order,
        lambda _: 0.0,
        Clock(None),
    )
    assert found.best is not None
    assert as_text(found.best.reverted) == ["net/fast"]


def test_the_last_layer_is_never_reverted() -> None:
    found = search(
        lambda _: verdict(0.1),
        lambda: [Ranked(LayerId("net", name), 1, 1) for name in "ab"],
        lambda _: 2.0,
        Clock(None),
    )
    assert found.best is None
    assert [attempt.reverted for attempt in found.attempts] == [(), (LayerId("net", "a"),)]


def test_the_budget_ends_the_search_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(step=10.0)
    monkeypatch.setattr("lowres_seg.quantize.search.monotonic", lambda: next(times))
    net = Net(["net/l1", "net/l2", "net/l3"])
    found = net.found(loss=lambda names: 0.0 if len(names) >= 8 else 2.0, budget_s=45)
    assert found.out_of_time
    assert found.best is not None
    assert set(as_text(found.best.reverted)) >= net.bad
    assert net.judged == 2


def test_a_budget_that_one_attempt_would_outlast_ends_before_it() -> None:
    net, clock = Net([]), Clock(5)
    clock.expect(10)
    found = search(net.judge, net.rank, net.loss, clock)
    assert found.out_of_time
    assert found.attempts == ()
    assert net.judged == 0


def test_a_stage_that_carries_the_loss_alone_is_found_before_any_layer_is_ranked() -> None:
    net = Net(bad=[f"net/l{i}" for i in range(10, 20)])
    stages = [tuple(net.layers[:10]), tuple(net.layers[10:20]), tuple(net.layers[20:])]

    def never() -> list[Ranked]:
        raise AssertionError

    found = search(net.judge, never, lambda _: 0.0, Clock(None), lambda: stages)
    assert found.best is not None
    assert found.best.reverted == stages[1]
    assert net.judged == 3


def test_where_no_stage_alone_is_enough_layers_are_ranked() -> None:
    net = Net(bad=["net/l3", "net/l33"])
    stages = [tuple(net.layers[:20]), tuple(net.layers[20:])]
    found = search(net.judge, net.rank, net.loss, Clock(None), lambda: stages)
    assert found.best is not None
    assert {"net/l3", "net/l33"} <= set(as_text(found.best.reverted))


def test_what_cannot_be_reverted_is_judged_once() -> None:
    """bf16 has no layers to revert."""
    found = search(lambda _: verdict(0.1), list, lambda _: pytest.fail("asked"), Clock(None))
    assert found.best is None
    assert [attempt.reverted for attempt in found.attempts] == [()]


@pytest.mark.parametrize("text", ["net/first/aten::_convolution/Convolution", "net/a", "a.b-c/d"])
def test_a_layer_is_read_as_it_is_written(text: str) -> None:
    assert str(LayerId.parse(text)) == text
    assert "/" not in LayerId.parse(text).network
