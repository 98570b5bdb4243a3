"""Norms that sum in steps, as export writes them into a graph: how they are found by their names."""

from __future__ import annotations

from collections.abc import Sequence

#: Suffix of the name of a norm's centred values.
CENTRED = "/centred"


def norms_in_steps(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of the nodes of each norm that sums in steps, by the name of the norm.

    Parameters
    ----------
    names : sequence of str
        Names of all nodes of a graph.

    Examples
    --------
    >>> norms_in_steps(["conv", "norm/mean4", "norm/centred", "norm", "normal"])
    {'norm': ['norm/mean4', 'norm/centred', 'norm']}
    """
    found = [name.removesuffix(CENTRED) for name in names if name.endswith(CENTRED)]
    return {norm: [name for name in names if name == norm or name.startswith(f"{norm}/")] for norm in found}
