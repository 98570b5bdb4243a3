"""The parts of `quantize` that decide: gate, search, journal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import InputError
from lowres_seg.metrics.agreement import score
from lowres_seg.quantize import int8
from lowres_seg.quantize.gate import Judged, Limits, Verdict
from lowres_seg.quantize.journal import Journal
from lowres_seg.quantize.search import Clock, Found, Ranked, search
from lowres_seg.runtime.engine import OpenVinoEngine


def verdict(*drops: float, rise: float = 0.0, limits: Limits | None = None) -> Verdict:
    rows = tuple(Judged(f"c{i}", "brain", "labels", 0.9, 0.9 - drop, 2.0, 2.0 + rise) for i, drop in enumerate(drops))
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
    rows = (Judged("c", "wt", "labels", 0.9, 0.95, 2, 2), Judged("c", "et", "labels", 0.8, 0.76, 2, 2))
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
    assert verdict(*drops).lost([{"brain": (value, 2.0)} for value in left]) == lost


class Net:
    """Layers, some of which ruin the result unless they are reverted; counts how often it is judged in full."""

    def __init__(self, bad: Sequence[str], layers: int = 40) -> None:
        self.bad = set(bad)
        self.layers = [f"net/l{i}" for i in range(layers)]
        self.judged = 0

    def judge(self, reverted: Sequence[str]) -> Verdict:
        self.judged += 1
        return verdict(0.1 * len(self.bad - set(reverted)))

    def rank(self) -> list[Ranked]:
        return [Ranked(name, 0.1 if name in self.bad else 0.001, 1.0) for name in self.layers]

    def lost(self, reverted: Sequence[str]) -> float:
        """Windows that see ten times as much as there is."""
        return 1.0 * len(self.bad - set(reverted))

    def found(self, lost: Callable[[Sequence[str]], float] | None = None, budget_s: float | None = None) -> Found:
        return search(self.judge, self.rank, lost or self.lost, Clock(budget_s))


def test_plain_int8_is_taken_if_it_is_good_enough() -> None:
    net = Net([])
    assert net.found().best is not None
    assert net.judged == 1


@pytest.mark.parametrize("bad", [["net/l7"], ["net/l7", "net/l20", "net/l39"]])
def test_the_bad_layers_are_reverted_and_no_other(bad: list[str]) -> None:
    net = Net(bad)
    best = net.found().best
    assert best is not None
    assert set(best.reverted) == set(bad)
    assert net.judged <= 4


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_windows_that_say_nothing_cost_attempts_but_not_the_result(answer: float) -> None:
    net = Net(["net/l1", "net/l2", "net/l3", "net/l4", "net/l5"])
    best = net.found(lost=lambda _: answer).best
    assert best is not None
    assert set(best.reverted) >= net.bad
    assert len(best.reverted) <= 10
    assert net.judged <= 7


def test_layers_that_save_more_are_kept_longer() -> None:
    order = [Ranked("net/slow", 0.1, 10.0), Ranked("net/fast", 0.1, 1.0), Ranked("net/fine", 0.0, 1.0)]
    found = search(
        lambda names: verdict(0.0 if "net/fast" in names else 0.1), lambda: order, lambda _: 0.0, Clock(None)
    )
    assert found.best is not None
    assert found.best.reverted == ("net/fast",)


def test_the_last_layer_is_never_reverted() -> None:
    found = search(lambda _: verdict(0.1), lambda: [Ranked("a", 1, 1), Ranked("b", 1, 1)], lambda _: 2.0, Clock(None))
    assert found.best is None
    assert [attempt.reverted for attempt in found.attempts] == [(), ("a",)]


def test_the_budget_ends_the_search_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(step=10.0)
    monkeypatch.setattr("lowres_seg.quantize.search.monotonic", lambda: next(times))
    net = Net(["net/l1", "net/l2", "net/l3"])
    found = net.found(lost=lambda names: 0.0 if len(names) >= 8 else 2.0, budget_s=45)
    assert found.out_of_time
    assert found.best is not None
    assert set(found.best.reverted) >= net.bad
    assert net.judged == 2


def test_a_budget_that_one_attempt_would_outlast_ends_before_it() -> None:
    net, clock = Net([]), Clock(5)
    clock.expect(10)
    found = search(net.judge, net.rank, net.lost, clock)
    assert found.out_of_time
    assert found.attempts == ()
    assert net.judged == 0


def test_a_journal_remembers_across_processes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"a": 1}, resume=False)
    assert journal.remember("x", lambda: {"value": 0.1}) == {"value": 0.1}
    again = Journal(tmp_path / "j", {"a": 1}, resume=True)
    assert again.knows("x")
    assert again.remember("x", lambda: pytest.fail("asked again")) == {"value": 0.1}
    assert not Journal(tmp_path / "j", {"a": 1}, resume=False).knows("x")


def test_half_a_line_is_forgotten_and_not_glued_to_the_next(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {}, resume=False).remember("x", lambda: 1)
    file = tmp_path / "j" / "journal.jsonl"
    file.write_text(file.read_text() + '{"key": "y", "val')
    again = Journal(tmp_path / "j", {}, resume=True)
    assert again.knows("x")
    assert not again.knows("y")
    again.remember("y", lambda: 2)
    assert Journal(tmp_path / "j", {}, resume=True).remember("y", lambda: pytest.fail("asked again")) == 2


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"a": 1, "b": 2}, resume=False)
    with pytest.raises(InputError, match="the earlier run differs in: a; leave out --resume"):
        Journal(tmp_path / "j", {"a": 2, "b": 2}, resume=True)


def test_a_convolution_behind_a_concat_is_a_layer_and_can_be_reverted(tmp_path: Path) -> None:
    """Its input is quantized before the Concat, where nothing reads it but the Concat."""
    rng = np.random.default_rng(0)
    x = opset.parameter([1, 2, 8, 8, 8], np.float32)

    def convolution(node: openvino.Node, channels: tuple[int, int], name: str) -> openvino.Node:
        kernel = opset.constant(rng.normal(0, 0.2, (*channels, 3, 3, 3)).astype(np.float32))
        made = opset.convolution(node, kernel, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
        made.set_friendly_name(name)
        return made

    both = opset.concat([opset.relu(convolution(x, (4, 2), name)) for name in ("left", "right")], 1)
    last = convolution(both, (2, 8), "last")
    openvino.save_model(openvino.Model([last], [x], "m"), tmp_path / "m.xml", compress_to_fp16=False)
    inputs = [rng.standard_normal((1, 2, 8, 8, 8), dtype=np.float32)]

    def quantized(*reverted: str) -> Any:
        path = tmp_path / "m.xml"
        return int8.quantize_network(path, inputs, preset="performance", reverted=reverted, max_ram_bytes=4 << 30)

    names = [layer.name for layer in int8.layers(quantized())]
    assert {"left", "right", "last"} <= set(names)
    assert int8.layers(quantized(*names)) == []
    plain, full = quantized(), int8.read(tmp_path / "m.xml")
    lost = [np.abs(scores(int8.without(plain, n), inputs[0]) - scores(full, inputs[0])).max() for n in ([], names)]
    assert lost[1] < 1e-5 < lost[0]


def scores(model: Any, x: np.ndarray) -> np.ndarray:
    return OpenVinoEngine.of_model(model, threads=1).run(x).copy()


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
    found = search(net.judge, net.rank, net.lost, Clock(None), lambda: stages)
    assert found.best is not None
    assert {"net/l3", "net/l33"} <= set(found.best.reverted)
