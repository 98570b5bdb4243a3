"""Dice and HD95 of a bundle, or its classes, each case in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.measuring.process import Child, ChildError
from lowres_seg.bench.spec import Spec
from lowres_seg.bench.suite import Accuracy, Classified, Picture
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case
from lowres_seg.metrics.agreement import Definition
from lowres_seg.metrics.classification import decision

#: Bundle, backend and instruction set.
JudgementKey = tuple[str, str, Isa]


@dataclass(frozen=True)
class Judgement:
    """Accuracy of a bundle in every case, or the reason why there is none.

    Attributes
    ----------
    accuracy : tuple of Accuracy
    classified : tuple of Classified
        Of a bundle that classifies.
    pictures : tuple of Picture
    failure : str
        Empty if every case was judged.
    """

    accuracy: tuple[Accuracy, ...] = ()
    classified: tuple[Classified, ...] = ()
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
    classes: Sequence[str] = (),
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
        Each with a label map, if the bundle gives masks.
    spec : Spec
        Of the task ``judge``; the case is put in.
    start : callable
        Starts a child.
    classes : sequence of str
        Among which the bundle decides; none if it gives masks.
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
    classified: list[Classified] = []
    first: _Drawn | None = None
    worst: _Drawn | None = None
    for case in cases:
        notify(f"judging {bundle}, {spec.backend}, on {case.id}")
        one = replace(
            spec,
            scan={channel: str(path) for channel, path in case.scan.items()},
            case={
                "id": case.id,
                "label": None if case.label is None else str(case.label),
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
        if classes:
            values = answer["numbers"]
            decided = decision(values, classes)
            classified.append(Classified(case=case.id, truth=case.truth, values=values, decision=decided))
            continue
        rows += [Accuracy(case=case.id, region=r, dice=s[0], hd95_mm=s[1]) for r, s in answer["scores"].items()]
        shown = tuple(Picture(bundle=bundle, case=case.id, plane=p, png=g) for p, g in answer["pictures"].items())
        one_drawn = _Drawn(mean(dice for dice, _ in answer["scores"].values()), shown)
        first = first or one_drawn
        worst = one_drawn if worst is None or one_drawn.dice < worst.dice else worst
    drawn = [one for one in dict.fromkeys((first, worst)) if one is not None]
    return Judgement(tuple(rows), tuple(classified), tuple(picture for one in drawn for picture in one.pictures))


def with_changes(
    judgements: Mapping[JudgementKey, Judgement], bundles: Mapping[str, Bundle]
) -> dict[JudgementKey, Judgement]:
    """Compare classes with those of the fp32 network: its source in torch if that was judged, else the fp32 bundle.

    Parameters
    ----------
    judgements : mapping of (bundle, backend, instruction set) to Judgement
    bundles : mapping of str to Bundle
        By name.
    """
    names = {bundle.digest: name for name, bundle in bundles.items()}
    found = dict(judgements)
    for key, judgement in judgements.items():
        parent = bundles[key[0]].manifest.lineage.parent
        home = key[0] if parent is None else names.get(parent)
        places: list[JudgementKey] = [] if home is None else [(home, "torch", "native"), (home, "openvino", "native")]
        place = next((one for one in places if one in judgements and judgements[one].classified), None)
        if place is not None and place != key:
            fp32 = {row.case: row for row in judgements[place].classified}
            rows = tuple(_changed(row, fp32[row.case], ", ".join(place[:2])) for row in judgement.classified)
            found[key] = replace(judgement, classified=rows)
    return found


def _changed(row: Classified, fp32: Classified, against: str) -> Classified:
    change = max(abs(value - fp32.values[name]) for name, value in row.values.items())
    return row.model_copy(update={"against": against, "change": change, "flipped": row.decision != fp32.decision})
