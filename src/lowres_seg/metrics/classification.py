"""How well classes agree with the truth: the decision of a case, accuracy, and AUC.

The **decision** is the class of the highest value. A single class is decided on if its value is above 0.5; else the
decision is ``not-NAME``.

**AUC** is the probability that a case of a class has a higher value for it than a case of another class; equal values
count half. This is the statistic of Mann and Whitney. With several classes it is the mean over those that some cases
have and some have not (one against the rest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

#: Value above which a single class is decided on.
THRESHOLD = 0.5


def decision(values: Mapping[str, float], classes: Sequence[str]) -> str:
    """Class that values decide on.

    Parameters
    ----------
    values : mapping of str to float
        By class.
    classes : sequence of str
        Classes among which it is decided. Of equal values the first class wins.

    Examples
    --------
    >>> decision({"lgg": 0.3, "hgg": 0.7}, ["lgg", "hgg"]), decision({"hgg": 0.3}, ["hgg"])
    ('hgg', 'not-hgg')
    """
    if len(classes) == 1:
        return classes[0] if values[classes[0]] > THRESHOLD else negative(classes[0])
    return max(classes, key=lambda name: values[name])


def margin(values: Mapping[str, float], classes: Sequence[str]) -> float:
    """Least change of the values that would change the decision."""
    if len(classes) == 1:
        return abs(values[classes[0]] - THRESHOLD)
    second, first = sorted(values[name] for name in classes)[-2:]
    return (first - second) / 2


def negative(name: str) -> str:
    """Decision against a single class."""
    return f"not-{name}"


def decisions(classes: Sequence[str]) -> list[str]:
    """Every decision that is possible among classes.

    Examples
    --------
    >>> decisions(["hgg"]), decisions(["lgg", "hgg"])
    (['hgg', 'not-hgg'], ['lgg', 'hgg'])
    """
    return [classes[0], negative(classes[0])] if len(classes) == 1 else list(classes)


def accuracy(found: Sequence[str], truths: Sequence[str]) -> float:
    """Share of cases whose decision is the truth."""
    return sum(a == b for a, b in zip(found, truths, strict=True)) / len(truths)


def auc(values: Sequence[Mapping[str, float]], truths: Sequence[str], classes: Sequence[str]) -> float | None:
    """Area under the receiver operating characteristic, the mean over classes.

    Parameters
    ----------
    values : sequence of mapping of str to float
        Of each case.
    truths : sequence of str
        Decision that would be right, of each case.
    classes : sequence of str

    Returns
    -------
    float or None
        None if no class has both cases that are of it and cases that are not.

    Examples
    --------
    >>> auc([{"hgg": 0.9}, {"hgg": 0.4}, {"hgg": 0.4}], ["hgg", "hgg", "not-hgg"], ["hgg"])
    0.75
    """
    areas = []
    for name in classes:
        of = np.array([one[name] for one, truth in zip(values, truths, strict=True) if truth == name])
        rest = np.array([one[name] for one, truth in zip(values, truths, strict=True) if truth != name])
        if len(of) and len(rest):
            areas.append(_area(of, rest))
    return float(np.mean(areas)) if areas else None


def _area(of: NDArray[np.float64], rest: NDArray[np.float64]) -> float:
    rest = np.sort(rest)
    below, up_to = np.searchsorted(rest, of, "left"), np.searchsorted(rest, of, "right")
    return float(np.mean(below + up_to) / 2 / len(rest))
