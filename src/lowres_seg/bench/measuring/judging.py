"""Dice and HD95 of a bundle, each case in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
        Whether to draw the first case.
    notify : callable
        Called with a line of text as each step begins.
    """
    rows: list[Accuracy] = []
    drawn: list[Picture] = []
    for place, case in enumerate(cases):
        notify(f"judging {bundle}, {spec.backend}, on {case.id}")
        one = replace(
            spec,
            scan={channel: str(path) for channel, path in case.scan.items()},
            case={
                "id": case.id,
                "label": str(case.label),
                "hd95": hd95,
                "ignore": list(ignore),
                "pictures": pictures and place == 0,
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
        drawn += [Picture(bundle=bundle, case=case.id, plane=p, png=png) for p, png in answer["pictures"].items()]
    return Judgement(tuple(rows), tuple(drawn))
