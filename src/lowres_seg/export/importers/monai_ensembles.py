"""Results of several networks, and MONAI's transforms that join them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.monai_arguments import problem, validated
from lowres_seg.export.importers.monai_result import RESULTS, Ignored, Result, SaveImaged, Values


class Ensemble(Values):
    """A transform that joins the results of all networks."""

    output_key: str | None = None

    @abstractmethod
    def change(self, result: Result) -> None:
        """Join. Raises ValueError if a stage joins them otherwise."""


class MeanEnsembled(Ensemble):
    """The mean of scores or of probabilities."""

    weights: list[float] | list[list[float]] | None = None

    def change(self, result: Result) -> None:
        """Take the mean."""
        given = self.weights or []
        if any(one != given[0] for one in given) or 0 in (given[0] if given and isinstance(given[0], list) else given):
            raise ValueError(f"weights are {given}, and a bundle weighs its networks alike; expected equal weights")
        if result.decided:
            raise ValueError("takes the mean of labels; expected MeanEnsembled before AsDiscreted, or VoteEnsembled")
        if result.restore.get("activated") == "after":
            raise ValueError(
                "takes the mean of scores that were activated behind Invertd; expected Activationsd before Invertd, or "
                "behind MeanEnsembled"
            )
        result.ensemble = "mean-scores" if result.activation == "none" else "mean-probabilities"


class VoteEnsembled(Ensemble):
    """The label that most networks give."""

    num_classes: int | None = None

    def change(self, result: Result) -> None:
        """Vote."""
        if not result.decided:
            raise ValueError("votes on scores; expected AsDiscreted before, with argmax or a threshold")
        if result.before or result.after:
            raise ValueError("votes on labels that were cleaned up; expected clean-up behind it")
        moved = result.inverted and result.scan.is_moved
        if moved and (result.restore.get("what") != "labels" or "rounding" in result.restore):
            raise ValueError(
                "votes on labels of scores or values that Invertd interpolated; expected AsDiscreted, then "
                "VoteEnsembled, then Invertd"
            )
        if result.onehot:
            self._of_onehot(result)
        else:
            self._of_labels(result)
        result.ensemble = "vote"

    def _of_onehot(self, result: Result) -> None:
        if self.num_classes is not None:
            result.onehot = False
        elif result.scores > 2:
            # The mean of each channel is rounded, half to even.
            raise ValueError(
                f"gives no label where none of {result.scores} has more than half of the votes, and a bundle gives the "
                f"one with most; expected num_classes {result.scores}"
            )

    def _of_labels(self, result: Result) -> None:
        if not result.labels:
            raise ValueError(f"votes on {result.scores} thresholded channels apart; expected one label for each voxel")
        if self.num_classes is None and result.labels != [1]:
            raise ValueError(
                f"rounds the mean of label values {result.labels}; expected num_classes {max(result.labels) + 1}"
            )
        if self.num_classes is not None and self.num_classes <= max(result.labels):
            raise ValueError(f"num_classes is {self.num_classes}, and the labels are {result.labels}; expected more")


#: Transforms that join results, by name.
ENSEMBLES: dict[str, type[Ensemble]] = {kind.__name__: kind for kind in (MeanEnsembled, VoteEnsembled)}
#: All transforms of the result, by name.
KNOWN: dict[str, type[Values]] = {**RESULTS, **ENSEMBLES}

_Step = tuple[str, Values]


class Members:
    """Transforms of the results of several networks, each by itself until they are joined.

    Attributes
    ----------
    items : sequence of str
        Keys of the results.
    """

    def __init__(self, items: Sequence[str]) -> None:
        self.items = list(items)
        self._steps: dict[str, list[_Step]] = {item: [] for item in items}

    def add(self, kind: type[Values], given: Mapping[str, Any], where: str) -> None:
        """Append a transform to the results that are among its keys.

        Raises
        ------
        ExportError
            If its arguments have no counterpart.
        ValueError
            If it changes anything else.
        """
        keys = keys_of(given)
        if issubclass(kind, (Ignored, SaveImaged)):
            for item in self.items:
                validated(kind, given, where).check(item)
            return
        strange = [key for key in keys if key not in self.items]
        if strange or not keys:
            raise ValueError(f"its keys are {keys}, expected some of {', '.join(self.items)}")
        for place, key in enumerate(keys):
            one = {**_of_one(kind, given, place, len(keys)), "keys": "result"}
            self._steps[key].append((where, validated(kind, one, where)))

    def join(self, transform: Ensemble, result: Result, where: str) -> None:
        """Apply what was done to every result, and join them.

        Raises
        ------
        ExportError
            If a manifest cannot say what was done.
        ValueError
            If not the same was done to all, or not all are joined.
        """
        if sorted(transform.keys) != sorted(self.items):
            raise ValueError(f"its keys are {transform.keys}, expected those of all networks: {', '.join(self.items)}")
        if transform.output_key is None:
            raise ValueError("has no output_key, expected the key of the joined result")
        first = self._steps[self.items[0]]
        for item in self.items[1:]:
            for one, other in zip_longest(first, self._steps[item]):
                if one is None or other is None or one[1] != other[1]:
                    raise ValueError(
                        f"joins {self.items[0]} and {item}, which were treated differently before "
                        f"({_told(one)}, {_told(other)}); expected the same transforms of all"
                    )
        for place, step in first:
            changed(step, result, place)
        result.item = transform.output_key
        changed(transform, result, where)


def changed(transform: Values, result: Result, where: str) -> None:
    """Apply a transform to the result. Raises ExportError if a manifest cannot say it."""
    try:
        transform.change(result)
    except ValueError as error:
        raise ExportError(f"{where}: {problem(error)}") from error


def transformed(
    chain: Iterable[tuple[str, str, dict[str, Any]]], items: Sequence[str], result: Result, place: str
) -> None:
    """Apply the transforms of postprocessing to the result.

    Parameters
    ----------
    chain : iterable of tuple
        Place, name and arguments of each.
    items : sequence of str
        Keys of the results, one for each network.
    result : Result
    place : str
        Of the chain, for messages.

    Raises
    ------
    ExportError
        If a manifest cannot say what they do.
    """
    members = Members(items)
    joined = len(items) == 1
    result.item = items[0]
    for where, name, given in chain:
        if name not in KNOWN:
            raise ExportError(
                f"{where} has no exact counterpart in a bundle; remove it, and do it to the label map after"
            )
        kind = KNOWN[name]
        keys = keys_of(given)
        try:
            if issubclass(kind, Ensemble):
                if joined:
                    raise ValueError(  # noqa: TRY301 - told with its place
                        f"joins {', '.join(keys)}, which one network gives or which were joined before; expected the "
                        "results of an EnsembleEvaluator, once"
                    )
                members.join(validated(kind, given, where), result, where)
                joined = True
            elif not joined:
                members.add(kind, given, where)
            elif result.item in keys or not set(keys) <= set(items):
                transform = validated(kind, _of_one(kind, given, 0, len(keys)) if len(keys) == 1 else given, where)
                transform.check(result.item)
                transform.change(result)
        except ValueError as error:
            raise ExportError(f"{where}: {problem(error)}") from error
    if not joined:
        raise ExportError(
            f"{place}: leaves {', '.join(items)} apart; expected a MeanEnsembled or VoteEnsembled that joins them"
        )
    try:
        result.finish()
    except ValueError as error:
        raise ExportError(f"{place}: {problem(error)}") from error


def keys_of(given: Mapping[str, Any]) -> list[str]:
    """Keys of a transform."""
    keys = given.get("keys")
    return [str(key) for key in keys] if isinstance(keys, list) else [str(keys)]


def _of_one(kind: type[Values], given: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """Arguments of a transform for one of its keys."""
    each = {
        name: given[name][place]
        for name in kind.each.split()
        if isinstance(given.get(name), list) and len(given[name]) == count
    }
    return {**given, **each}


def _told(step: _Step | None) -> str:
    return "nothing" if step is None else step[0].rpartition(": ")[2]
