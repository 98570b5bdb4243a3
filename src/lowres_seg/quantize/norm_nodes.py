"""The nodes of norms in a graph, which keep f32: OpenVINO's own, those that sum in steps, and those written by hand.

A norm that a framework or its user wrote by hand is a mean, a deviation and their use, in nodes of their own. Batch
norm without statistics is one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from lowres_seg.runtime import openvino_engine  # noqa: F401 - before OpenVINO, whose telemetry it keeps out
from lowres_seg.runtime.norms_in_steps import norms_in_steps

#: Norms keep their input in f32. They compute in f32 in any case, so INT8 would only save them reading time, and it
#: costs more agreement than all convolutions (docs/adr/0005-norms-keep-f32.md).
NORMS = ("MVN", "GroupNormalization")
#: Nodes that take a mean or a sum of squares.
_REDUCE = ("ReduceMean", "ReduceSum", "ReduceL2")
#: Nodes between the values of a norm and its deviation, and between its statistics and their use.
_BETWEEN = (
    *("Add", "Subtract", "Multiply", "Divide", "Power", "SquaredDifference", "Sqrt", "Maximum", "Relu"),
    *("Reshape", "Squeeze", "Unsqueeze", "Convert", "Broadcast"),
)


def norms(model: Any) -> list[str]:
    """Names of the norms of a network. One that is written by hand has the name of its last node."""
    nodes = [(node.get_friendly_name(), node.get_type_name()) for node in model.get_ordered_ops()]
    in_steps = norms_in_steps([name for name, _ in nodes])
    by_hand = hand_written(model)
    return [name for name, kind in nodes if kind in NORMS or name in in_steps or name in by_hand]


def nodes_of_norms(model: Any) -> list[str]:
    """Names of the nodes that NNCF might quantize in norms that sum in steps or are written by hand."""
    names = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    groups = [*norms_in_steps(names).values(), *hand_written(model).values()]
    return list(dict.fromkeys(name for nodes in groups for name in nodes))


def hand_written(model: Any) -> dict[str, list[str]]:
    """Names of the nodes of each norm that is written by hand, by the name of its last node.

    It is found by its deviation: a square root of fewer values than it was reduced from.
    """
    places = {node.get_friendly_name(): place for place, node in enumerate(model.get_ordered_ops())}
    known = {name for nodes in norms_in_steps(list(places)).values() for name in nodes}
    found = {}
    for node in model.get_ordered_ops():
        if not _is_root(node) or node.get_friendly_name() in known or node.output(0).partial_shape.is_dynamic:
            continue
        few = prod(node.output(0).shape)
        before = _before([node], few)
        if not any(one.get_type_name() in _REDUCE for one in before.values()):
            continue
        statistics = [one for one in (node, *before.values()) if _values(one) <= few]
        users = _users(statistics, few)
        last = [name for name, one in users.items() if _values(one) > few]
        if last:  # its mean may have been taken apart from its deviation
            further = _before(list(users.values()), few)
            names = [node.get_friendly_name(), *before, *users, *further]
            found[max(last, key=places.__getitem__)] = list(dict.fromkeys(names))
    return found


def _values(node: Any) -> int:
    return prod(node.output(0).shape)


def _is_root(node: Any) -> bool:
    if node.get_type_name() == "Sqrt":
        return True
    if node.get_type_name() != "Power":
        return False
    exponent = node.input_value(1).get_node()
    return bool(exponent.get_type_name() == "Constant" and exponent.data.size == 1 and abs(exponent.data.item()) == 0.5)


def _before(nodes: Sequence[Any], few: int) -> dict[str, Any]:
    """Nodes by name from which some nodes are computed, back to the values that a norm is taken of."""
    found: dict[str, Any] = {}
    waiting = list(nodes)
    while waiting:
        for source in (value.get_node() for value in waiting.pop().input_values()):
            name = source.get_friendly_name()
            if name not in found and _is_static(source) and (_is_statistic(source, few) or _is_centred(source, few)):
                found[name] = source
                waiting.append(source)
    return found


def _users(statistics: Sequence[Any], few: int) -> dict[str, Any]:
    """Nodes by name that use the statistics of a norm, up to those that give its values."""
    found: dict[str, Any] = {}
    waiting, seen = list(statistics), {node.get_friendly_name() for node in statistics}
    while waiting:
        for reader in (port.get_node() for port in waiting.pop().output(0).get_target_inputs()):
            name = reader.get_friendly_name()
            if name not in {*seen, *found} and reader.get_type_name() in _BETWEEN and _is_static(reader):
                found[name] = reader
                if _values(reader) <= few:
                    waiting.append(reader)
    return found


def _is_static(node: Any) -> bool:
    return node.get_type_name() not in ("Constant", "Parameter") and not node.output(0).partial_shape.is_dynamic


def _is_statistic(node: Any, few: int) -> bool:
    """True for a mean or a sum, and for what is computed of some."""
    kind = node.get_type_name()
    return kind in _REDUCE or (kind in _BETWEEN and _values(node) <= few)


def _is_centred(node: Any, few: int) -> bool:
    """True for the values of a norm without their mean, and for their squares."""
    kind = node.get_type_name()
    if kind in ("Power", "SquaredDifference"):
        return True
    sources = [value.get_node() for value in node.input_values()]
    if kind == "Multiply":
        return sources[0].get_friendly_name() == sources[1].get_friendly_name()
    return kind in ("Add", "Subtract") and any(_is_static(one) and _values(one) <= few for one in sources)
