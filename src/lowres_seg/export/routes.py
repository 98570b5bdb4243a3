"""Routes from a network to OpenVINO IR: a trace, a program of torch.export, TorchScript, or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks import ir, onnx_graph, sizes
from lowres_seg.export.frameworks.ir import Conversion
from lowres_seg.export.frameworks.outputs import Outputs
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.export.recipe import Recipe
from lowres_seg.export.scores import check_channels
from lowres_seg.runtime.engine import Engine


@dataclass(eq=False)
class Exported:
    """One network that was converted.

    Attributes
    ----------
    name : str
    weights : pathlib.Path
        The file that it came from.
    source : Engine
        It runs the network in the framework of its source.
    source_name : str
        The name of that framework.
    route : str
        ``trace``, ``export`` (torch.export), ``torchscript`` or ``onnx``.
    conversion : Conversion
    onnx : pathlib.Path or None
        Its ONNX graph, if that is the source or was asked for.
    without_onnx : str
        Why it has no ONNX graph although one was asked for; empty otherwise.
    running_norms : int
    output, weights_key : str
        Which output and which state were taken.
    changes : tuple of str
        What was changed in an ONNX file of another tool, in words.
    dropout : tuple of DropoutMask
        Masks of dropout layers that are kept on.
    """

    name: str
    weights: Path
    source: Engine
    source_name: str
    route: str
    conversion: Conversion
    onnx: Path | None = None
    without_onnx: str = ""
    running_norms: int = 0
    output: str = ""
    weights_key: str = ""
    changes: tuple[str, ...] = ()
    dropout: tuple[DropoutMask, ...] = ()

    def drop_onnx(self, why: str) -> None:
        """Remove the ONNX graph, and say why."""
        if self.onnx is not None:
            why = why.replace(f"{self.onnx}: ", "").replace(str(self.onnx), self.onnx.name)
            self.onnx.unlink(missing_ok=True)
        self.onnx, self.without_onnx = None, why


def convert(
    name: str,
    network: TorchNetwork | None,
    recipe: Recipe,
    weights: Path,
    folder: Path,
    threads: int,
    *,
    with_onnx: bool,
) -> Exported:
    """Write NAME.xml and NAME.bin of a network, and NAME.onnx if that is its source or is asked for.

    Where torch cannot write the ONNX graph that is asked for, the network has none, and `without_onnx` says why.

    Raises
    ------
    ExportError
        If the network can be converted on no route, or its channels are not those of the recipe.
    """
    shape = recipe.input_shape(name)
    onnx_path = folder / f"{name}.onnx"
    xml = folder / f"{name}.xml"
    entry = recipe.networks[name]
    exact_norms = entry.exact_norms
    try:
        if network is None:
            outputs, parts, resize = Outputs(entry.output), recipe.parts(name), entry.resize_scores
            graph, changes = onnx_graph.fitted(weights, shape, outputs, parts, resize)
            onnx_graph.save(graph, onnx_path)
            any_size = onnx_graph.OpenSizes(weights, outputs.key, parts, resize)
            try:
                conversion = ir.convert(onnx_path, shape, xml, with_exact_norms=exact_norms)
            except ExportError as error:
                raise ExportError(f"{error}{sizes.advice(any_size, shape)}") from error
            _check_scores(name, recipe, conversion)
            _check_sides(any_size, shape, conversion)
            running = onnx_graph.OrtNetwork(onnx_path, threads=threads)
            return Exported(
                name,
                weights,
                running,
                "onnxruntime",
                "onnx",
                conversion,
                onnx_path,
                output=outputs.taken,
                changes=tuple(changes),
            )
        route, conversion = from_torch(network, shape, xml, exact_norms=exact_norms)
        _check_scores(name, recipe, conversion)
        _check_sides(network, shape, conversion)
    except ExportError as error:
        told = str(error).replace(str(onnx_path), str(weights))  # the folder is hidden, and gone when this is read
        raise type(error)(f"network {name}: {told}") from error
    exported = Exported(
        name,
        weights,
        network,
        "torch",
        route,
        conversion,
        running_norms=network.running_norms,
        output=network.outputs.taken,
        weights_key=network.weights_key,
        dropout=network.masks,
    )
    if with_onnx:
        exported.onnx = onnx_path
        try:
            network.to_onnx(onnx_path, shape)
            onnx_graph.save(onnx_graph.load(onnx_path), onnx_path)
        except ExportError as error:
            exported.drop_onnx(str(error))
    return exported


def from_torch(
    network: TorchNetwork, shape: tuple[int, ...], xml: Path, *, exact_norms: bool = True
) -> tuple[str, Conversion]:
    """Convert on the first route that serves; the error is that of the first, with the sizes that the network takes."""
    try:
        network.check_values(shape)
    except ExportError as error:
        raise ExportError(f"{error}{sizes.advice(network, shape)}") from error
    masks = [mask.shape for mask in network.masks]
    write = partial(ir.convert, shape=shape, target=xml, masks=masks, with_exact_norms=exact_norms)
    if not network.traced:
        return "torchscript", write(network.script(shape))
    # The windows of transformers need a frozen trace, and 2D networks one that is not frozen. A trace keeps operators
    # for which OpenVINO has no rule, and torch.export writes many of them with simpler ones.
    routes: list[tuple[str, Callable[[], Any]]] = [
        ("trace", partial(network.script, shape)),
        ("trace", partial(network.script, shape, frozen=True)),
        ("export", partial(network.program, shape)),
    ]
    failed = []
    for route, source in routes:
        try:
            return route, write(source())
        except ExportError as error:
            failed.append(error)
    raise failed[0]


def _check_scores(name: str, recipe: Recipe, conversion: Conversion) -> None:
    for stage in recipe.stages:
        if name in stage.networks:
            check_channels(stage.decode, conversion.output_shape[1])


def _check_sides(network: Engine, shape: tuple[int, ...], conversion: Conversion) -> None:
    """Check that the scores have the sides of the input, or are one number a channel."""
    sides = tuple(conversion.output_shape[2:])
    if sides not in (shape[2:], (1, 1, 1)):
        resolution = (
            '; if they are scores at another resolution, write resize_scores = "linear" in the network\'s entry, or '
            '"nearest"'
        )
        raise ExportError(
            f"the network gives scores of {list(sides)} for an input of {list(shape[2:])}, expected the same sides"
            f"{sizes.advice(network, shape) or resolution}"
        )
