"""Dice and HD95 of a bundle, each case in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from lowres_seg.bench.measuring.process import Child, ChildError
from lowres_seg.bench.spec import Spec
from lowres_seg.bench.suite import Accuracy, Picture
from lowres_seg.cohort.cases import Case
from lowres_seg.metrics.agreement import Definition


@dataclass(frozen=True)
class Judgement:
    """Accuracy of a bundle in every case, or the reason why there is none.

    Attributes
    ----------
    accuracy : tuple of Accuracy
    pictures : tuple of Picture
    failure : str
        Empty if every case was judged.
    """

    accuracy: tuple[Accuracy, ...] = ()
    pictures: tuple[Picture, ...] = ()
    failure: str = ""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A case that was judged: its mean Dice over regions, and its pictures."""

    dice: float
    pictures: tuple[Picture, ...]


def judge(
    bundle: str,
    cases: Sequence[Case],
    spec: Spec,
    start: Callable[[Spec], Child],
    *,
    hd95: Definition,
    ignore: Sequence[int] = (),
    pictures: bool,
    notify: Callable[[str], None],
) -> Judgement:
    """Judge every case. If one cannot be judged there is no result: no mean leaves a case out.

    Parameters
    ----------
    bundle : str
        Name of the bundle in results.
    cases : sequence of Case
        Each with a label map.
    spec : Spec
        Of the task ``judge``; the case is put in.
    start : callable
        Starts a child.
    hd95 : str
        Definition.
    ignore : sequence of int
        Values of label maps whose voxels are left out.
    pictures : bool
        Whether to draw the first case, and the one with the lowest Dice.
    notify : callable
        Called with a line of text as each step begins.
    """
    rows: list[Accuracy] = []
    first: _Drawn | None = None
    worst: _Drawn | None = None
    for case in cases:
        notify(f"judging {bundle}, {spec.backend}, on {case.id}")
        one = replace(
            spec,
            scan={channel: str(path) for channel, path in case.scan.items()},
            case={
                "id": case.id,
                "label": str(case.label),
                "hd95": hd95,
                "ignore": list(ignore),
                "pictures": pictures,
            },
        )
        child = start(one)
        try:
            answer = child.answer()
        except ChildError as error:
            return Judgement(failure=f"case {case.id} could not be judged: {error}")
        finally:
            child.kill()
        rows += [Accuracy(case=case.id, region=r, dice=s[0], hd95_mm=s[1]) for r, s in answer["scores"].items()]
        shown = tuple(Picture(bundle=bundle, case=case.id, plane=p, png=g) for p, g in answer["pictures"].items())
        one_drawn = _Drawn(mean(dice for dice, _ in answer["scores"].values()), shown)
        first = first or one_drawn
        worst = one_drawn if worst is None or one_drawn.dice < worst.dice else worst
    drawn = [one for one in dict.fromkeys((first, worst)) if one is not None]
    return Judgement(tuple(rows), tuple(picture for one in drawn for picture in one.pictures))
