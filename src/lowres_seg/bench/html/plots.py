"""Plots of time and agreement: the places of points in a drawing.

The page draws them as SVG. A point has a number, a shape and a colour, so that no reader needs the colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from lowres_seg.bench.axes import Workload
from lowres_seg.bench.class_sums import ClassSums
from lowres_seg.bench.html.axis import BOTTOM, LEFT, RIGHT, TOP, Axis, of_dice, of_mm, of_time
from lowres_seg.bench.html.charts import latency, name_of, seconds, tone
from lowres_seg.bench.suite import Accuracy, Benchmark, Suite

#: Places of a number beside its point, and how far apart two numbers stay.
_BESIDE = ((9.0, -6.0), (-9.0, -6.0), (9.0, 14.0), (-9.0, 14.0), (0.0, -12.0), (0.0, 20.0))
_APART = 13.0


@dataclass(frozen=True)
class Point:
    """A bundle in a backend: its number, its place, the ends of its interval of time, and where its number stands."""

    number: int
    name: str
    tone: str
    x: float
    y: float
    low_x: float
    high_x: float
    text_x: float
    text_y: float
    in_front: bool
    time: str
    dice: str


@dataclass(frozen=True)
class Pareto:
    """Time against Dice. `front` joins the points that no other one beats in both."""

    workload: Workload
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...]
    summary: str


def pareto(measured: Sequence[Benchmark]) -> Pareto | None:
    """Time against mean Dice of every bundle and backend that were judged, on the most cores; None if none was.

    The first of end-to-end, network and throughput that was measured is drawn.
    """
    order: tuple[Workload, ...] = ("end-to-end", "network", "throughput")
    scored = [b for b in measured if b.accuracy and b.isa == "native" and b.latency_s is not None]
    workload = next((one for one in order if any(b.workload == one for b in scored)), None)
    if workload is None:
        return None
    most = max(b.cores for b in scored)
    group = [b for b in scored if b.workload == workload and b.cores == most]
    dice = [mean(row.dice for row in b.accuracy) for b in group]
    ends = [b.latency_s.ci95 for b in group if b.latency_s is not None]
    x = of_time([*map(latency, group), *(value for pair in ends for value in pair)], LEFT, RIGHT)
    y = of_dice(dice)
    front = _front([(latency(b), d) for b, d in zip(group, dice, strict=True)])
    points: list[Point] = []
    for n, (b, found, (low, high)) in enumerate(zip(group, dice, ends, strict=True)):
        here = x.place(latency(b)), y.place(found)
        beside = _beside(here, [(p.text_x, p.text_y) for p in points])
        points.append(
            Point(
                n + 1, name_of(b), tone(b), *here, x.place(low), x.place(high), *beside, n in front,
                seconds(latency(b)), f"{found:.4f}",
            )
        )  # fmt: skip
    stairs: list[tuple[float, float]] = []
    for n in sorted(front, key=lambda n: points[n].x):
        stairs += [(points[n].x, stairs[-1][1])] if stairs else []
        stairs.append((points[n].x, points[n].y))
    fastest, best = min(points, key=lambda p: p.x), max(points, key=lambda p: float(p.dice))
    summary = f"The fastest is {fastest.name}: {fastest.time}, mean Dice {fastest.dice}."
    if best.dice != fastest.dice:
        summary += f" The highest mean Dice has {best.name}: {best.dice} in {best.time}."
    return Pareto(workload, x, y, tuple(points), tuple(stairs), summary)


def _front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the points (time, Dice) that no other one beats: none is as fast with a higher Dice."""
    found, best = set(), -1.0
    for n in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if points[n][1] > best:
            found.add(n)
            best = points[n][1]
    return found


def _beside(here: tuple[float, float], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Place for a number beside a point, away from the numbers that stand already."""
    places = [(here[0] + dx, here[1] + dy) for dx, dy in _BESIDE]
    inside = [(x, y) for x, y in places if LEFT + 6 <= x <= RIGHT - 2 and TOP - 4 <= y <= BOTTOM - 4] or places
    return next((one for one in inside if all(math.dist(one, other) >= _APART for other in taken)), inside[0])


@dataclass(frozen=True)
class Row:
    """One region of one case: its value in each column as text and as a place in the plot.

    `is_lost` marks the one that loses most from the first of two columns to the second.
    """

    name: str
    values: tuple[str, ...]
    places: tuple[float, ...]
    is_lost: bool


@dataclass(frozen=True)
class Cases:
    """A line for each region of each case, across columns such as fp32 and INT8.

    `columns` are (place, name, colour).
    """

    id: str
    title: str
    quantity: str
    y: Axis
    columns: tuple[tuple[float, str, str], ...]
    rows: tuple[Row, ...]
    summary: str
    has_loss: bool

    @property
    def is_short(self) -> bool:
        """True if the names of the columns fit below the axis. Else their numbers stand there."""
        return len(self.columns) <= 3 and all(len(name) <= 14 for _, name, _ in self.columns)

    @property
    def better(self) -> str:
        """Which direction is better."""
        return "higher is better" if self.quantity == "Dice" else "lower is better"


def cases(id_: str, quantity: str, columns: Sequence[tuple[str, str]], rows: Mapping[str, Sequence[float]]) -> Cases:
    """Plot of cases.

    Parameters
    ----------
    id_ : str
        Id of the figure.
    quantity : str
        ``Dice`` or ``HD95``.
    columns : sequence of (str, str)
        Name and colour of each column.
    rows : mapping of str to sequence of float
        Values of each case and region, one for each column.
    """
    is_dice = quantity == "Dice"
    form, unit = (".4f", "") if is_dice else (".2f", " mm")
    every = [value for row in rows.values() for value in row]
    y = of_dice(every) if is_dice else of_mm(every)
    places = [
        LEFT + 40 + (RIGHT - LEFT - 80) * (n / (len(columns) - 1) if len(columns) > 1 else 0.5)
        for n in range(len(columns))
    ]
    pick = min if is_dice else max
    worst = pick(rows, key=lambda name: pick(rows[name]))
    where = list(rows[worst]).index(pick(rows[worst]))
    summary = (
        f"The {'lowest Dice' if is_dice else 'highest HD95'} is {rows[worst][where]:{form}}{unit} "
        f"({worst}, {columns[where][0]})."
    )
    lost = ""
    if len(columns) == 2:
        harm = {name: (values[0] - values[1]) * (1 if is_dice else -1) for name, values in rows.items()}
        most = max(harm, key=lambda name: harm[name])
        lost = most if harm[most] > 0 else ""
        verb = "drop" if is_dice else "rise"
        summary += (
            f" The largest {verb} from {columns[0][0]} to {columns[1][0]} is {harm[lost]:{form}}{unit} ({lost})."
            if lost
            else f" None {verb}s from {columns[0][0]} to {columns[1][0]}."
        )
    return Cases(
        id_,
        f"{quantity} of each case",
        quantity,
        y,
        tuple((place, name, colour) for place, (name, colour) in zip(places, columns, strict=True)),
        tuple(
            Row(name, tuple(f"{v:{form}}{unit}" for v in values), tuple(map(y.place, values)), name == lost)
            for name, values in rows.items()
        ),
        summary,
        bool(lost),
    )


def judged(measured: Sequence[Benchmark]) -> list[tuple[Benchmark, tuple[Accuracy, ...]]]:
    """Accuracy of each bundle as OpenVINO runs it."""
    found: dict[str, tuple[Benchmark, tuple[Accuracy, ...]]] = {}
    for b in measured:
        if b.accuracy and b.backend == "openvino" and b.isa == "native":
            found.setdefault(b.bundle, (b, b.accuracy))
    return list(found.values())


def cases_of_suite(measured: Sequence[Benchmark]) -> list[Cases]:
    """Dice and HD95 of each case across the bundles that were judged; nothing if none was."""
    found = judged(measured)
    columns = [(b.bundle, tone(b)) for b, _ in found]
    drawn = []
    for id_, quantity, field in (("dice", "Dice", "dice"), ("hd95", "HD95", "hd95_mm")):
        values = [{(row.case, row.region): float(getattr(row, field)) for row in rows} for _, rows in found]
        common = [key for key in values[0] if all(key in one for one in values)] if values else []
        if common:
            rows = {f"{case}, {region}": [one[case, region] for one in values] for case, region in common}
            drawn.append(cases(id_, quantity, columns, rows))
    return drawn


def means(measured: Sequence[Benchmark]) -> list[tuple[str, str, int, float, float, float, float]]:
    """Bundle, region, cases, mean Dice, lowest Dice, mean HD95, highest HD95."""
    found = []
    for b, rows in judged(measured):
        for region in dict.fromkeys(row.region for row in rows):
            of = [row for row in rows if row.region == region]
            dice, hd95 = [row.dice for row in of], [row.hd95_mm for row in of]
            found.append((b.bundle, region, len(of), mean(dice), min(dice), mean(hd95), max(hd95)))
    return found


def classes(measured: Sequence[Benchmark]) -> list[tuple[str, str, tuple[str, ...]]]:
    """For each benchmark of a bundle that classifies: its name, what it was compared with, and its sums as text."""
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for b in measured:
        if b.classified:
            sums, name = ClassSums.of(b), name_of(b, isa=b.isa != "native")
            found.setdefault(name, (name, sums.against or "–", tuple(sums.texts().values())))
    return list(found.values())


def told(suite: Suite) -> dict[tuple[str, str], str]:
    """For each case of each bundle that was judged: its Dice, and whether it is the lowest."""
    found = {}
    for b, rows in judged([one for one in suite.benchmarks if one.status == "measured"]):
        dice = {
            case: mean(row.dice for row in rows if row.case == case) for case in dict.fromkeys(r.case for r in rows)
        }
        for case, value in dice.items():
            worst = f", the lowest of {len(dice)} cases" if len(dice) > 1 and value == min(dice.values()) else ""
            found[b.bundle, case] = f"Mean Dice {value:.4f}{worst}."
    return found
