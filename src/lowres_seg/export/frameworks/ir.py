"""Conversion of networks to OpenVINO IR. This is the home of OpenVINO at build time."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowres_seg.errors import ExportError
from lowres_seg.export import branches, rewrites
from lowres_seg.export.frameworks.causes import cause_of
from lowres_seg.export.frameworks.class_scores import classes_of
from lowres_seg.export.one_logit import softmax_of_two
from lowres_seg.runtime import openvino_engine  # before OpenVINO, whose telemetry it keeps out
from lowres_seg.runtime.exact_norms import sum_in_steps

import openvino  # isort: skip
from openvino import opset13 as opset  # isort: skip
from openvino._offline_transformations import apply_moc_transformations  # isort: skip

Shape = tuple[int, ...]
#: Operators whose results have shapes that depend on values, and what they are in a network's code.
_WHY = {"If": "an if", "Loop": "a loop", "NonZero": "a nonzero or a mask as an index"}


@dataclass(frozen=True)
class Conversion:
    """What conversion changed in a network.

    Attributes
    ----------
    operators : dict of str to int
        Number of operators of the IR, by type.
    removed : dict of str to int
        Number of operators that the rewrites removed, by type.
    output_shape : tuple of int
    parameters : int
        Number of values in the weights.
    """

    operators: dict[str, int]
    removed: dict[str, int]
    output_shape: Shape
    parameters: int


def convert(
    source: Any, shape: Shape, target: Path, *, masks: Sequence[Shape] = (), with_exact_norms: bool = True
) -> Conversion:
    """Write TorchScript, a program of torch.export, or an ONNX file, as IR in fp32.

    The graph is rewritten exactly first. OpenVINO's own rewrites compute everything that depends on weights alone, such
    as scale and shift of a norm with running statistics, and fold a constant scale and shift into the convolution
    before it. Those of `rewrites` follow, unless a shape within the network depends on values.

    Parameters
    ----------
    source : torch.jit.ScriptModule, torch.export.ExportedProgram or pathlib.Path
        TorchScript in eval mode, a program for inputs of `shape`, or path of an ONNX file.
    shape : tuple of int
        (1, C, D, H, W) of the input.
    target : pathlib.Path
        Path of the .xml to write. The .bin is written beside it.
    masks : sequence of tuple of int
        Shapes of what it takes behind its input.
    with_exact_norms : bool
        Whether norms sum in steps; else they are OpenVINO's own.

    Raises
    ------
    ExportError
        If OpenVINO cannot convert the network, or it does not give one output (1, C, D, H, W), or (1, C) of classes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how OpenVINO reads programs of torch.export
            if isinstance(source, Path) or hasattr(source, "graph_module"):
                model = openvino.convert_model(source)
                model.reshape({place: list(one) for place, one in enumerate((shape, *masks))})
            else:
                # A frozen trace does not say the type of its input.
                model = openvino.convert_model(source, input=[(list(one), np.float32) for one in (shape, *masks)])
    except Exception as error:
        raise ExportError(f"OpenVINO cannot convert the network ({cause_of(error)})") from error
    before = _operators(model)
    apply_moc_transformations(model, cf=True)
    _give_axes(model)
    _check_output(model, shape)
    if _is_static(model):
        branches.merge_alike(model)
        branches.finish_in_branches(model)
        rewrites.narrow_before_upsampling(model)
        rewrites.join_by_planes(model)
        rewrites.upsample_rows_first(model)
        softmax_of_two(model)
    if with_exact_norms:
        sum_in_steps(model)
    after = _operators(model)
    output = tuple(model.outputs[0].shape)
    _forget_paths(model)
    _name_as_in_every_process(model, target.stem)
    try:
        openvino_engine.write_graph(model, target)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot write the network ({cause_of(error)})") from error
    weights = sum(
        int(np.prod(tuple(node.output(0).shape)))
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32
    )
    removed = dict(sorted((before - after).items()))
    return Conversion(dict(sorted(after.items())), removed, output, weights)


def version() -> str:
    """Version of OpenVINO."""
    return openvino_engine.version()


def _is_static(model: Any) -> bool:
    return all(output.partial_shape.is_static for node in model.get_ops() for output in node.outputs())


def _operators(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ops())


def _forget_paths(model: Any) -> None:
    """Remove the paths of the build machine that conversion writes into the IR."""
    if model.has_rt_info(["conversion_parameters", "input_model"]):
        model.set_rt_info("", ["conversion_parameters", "input_model"])


def _name_as_in_every_process(model: Any, name: str) -> None:
    """Name the model, and the nodes that took over a number of another type's node when they replaced it.

    OpenVINO counts the nodes and models of a process. `write_graph` numbers the nodes anew that have numbers of their
    own type.
    """
    model.set_friendly_name(name)
    for index, node in enumerate(model.get_ordered_ops()):
        found, kind = _NUMBERED.fullmatch(node.get_friendly_name()), node.get_type_name()
        if found and found[1] != kind:
            node.set_friendly_name(f"{kind}.{index}")


#: Name that OpenVINO gives to a node without one: its type, and a number.
_NUMBERED = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+")


def _give_axes(model: Any) -> None:
    """Give scores of classes, such as (1, C), the axes (1, C, 1, 1, 1)."""
    if len(model.outputs) != 1 or model.outputs[0].partial_shape.is_dynamic:
        return
    classes = classes_of(tuple(model.outputs[0].shape))
    if classes is None:
        return
    given = model.outputs[0].get_node().input(0)
    scores = opset.reshape(given.get_source_output(), np.array([1, classes, 1, 1, 1], np.int64), special_zero=False)
    scores.set_friendly_name("classes")
    given.replace_source_output(scores.output(0))
    model.validate_nodes_and_infer_types()


def _check_output(model: Any, shape: Shape) -> None:
    """Check that the network gives one output (1, C, D, H, W), whatever the values of its input are."""
    if len(model.outputs) != 1:
        found = ", ".join(str(output.partial_shape) for output in model.outputs)
        raise ExportError(f"the network gives {found}, expected one output (1, C, D, H, W), or (1, C) of classes")
    found = model.outputs[0].partial_shape
    if found.is_dynamic:
        why = " or ".join(sorted({_WHY[kind] for kind in _operators(model) if kind in _WHY}))
        depends = f", and its shape depends on values, because it has {why}" if why else ""
        raise ExportError(
            f"the network gives {found} for an input {shape}{depends}; "
            "expected one shape (1, C, D, H, W), so save a trace of it or take that part out"
        )
    if len(found) != 5 or found[0].get_length() != 1:
        raise ExportError(f"the network gives {found}, expected one output (1, C, D, H, W), or (1, C) of classes")
