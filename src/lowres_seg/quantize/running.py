"""What runs in INT8: OpenVINO decides when it compiles a network, and leaves some quantized layers in f32.

Such a layer is rounded to INT8 and computed in f32: accuracy is lost and no time is saved. Grouped and some transposed
convolutions, pooling with ceil mode or to a given size, and what such a pooling passes on are of this kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.quantize import int8
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

Array = NDArray[np.float32]
#: Quantizes a network on some inputs, with some layers in fp32.
Quantize = Callable[[Any, Sequence[Array], Sequence[str]], Any]
#: Layers with weights. Others pass on the precision of their input.
_WITH_WEIGHTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
#: Longest side of the window on which layers are tried: kernels are chosen by channels and kinds, not by size.
_SIDE = 64
#: Largest number of trials. Each leaves out the layers of the trial before that ran in f32.
_TRIALS = 4
#: Reason in the report.
WHY = "OpenVINO computes it in f32 on this CPU"


def in_f32(quantized: Any, threads: int) -> list[int8.Layer]:
    """Layers of a quantized network that run in f32 when it is compiled for this CPU.

    A layer with weights runs as its kernel computes. Another one, such as a sum, runs as it reads: that is its time.
    """
    found = OpenVinoEngine.of_model(quantized, threads=threads).kernels()
    return [
        layer
        for layer in int8.layers(quantized)
        if layer.name in found and not _is_int8(found[layer.name][0 if layer.type in _WITH_WEIGHTS else 1])
    ]


def left_out(model: Any, x: Array, quantize: Quantize, threads: int) -> list[int8.Layer]:
    """Layers that are not worth quantizing, because they would run in f32.

    A layer that passes on its input is left out first: the convolution behind it then has a quantizer of its own, and
    may run in INT8.

    Parameters
    ----------
    model : openvino.Model
        In fp32.
    x : (1, C, D, H, W) ndarray
        An input of the network.
    quantize : callable
    threads : int
    """
    small, window = _smaller(model, x)
    found: dict[str, int8.Layer] = {}
    for _ in range(_TRIALS):
        strange = in_f32(quantize(small, [window], list(found)), threads)
        passing = [layer for layer in strange if layer.type not in _WITH_WEIGHTS]
        found |= {layer.name: layer for layer in passing or strange}
        if not strange:
            break
    return list(found.values())


def _is_int8(named: str) -> bool:
    """Tell whether a kernel or a precision is that of INT8, by its name."""
    return named.rpartition("_")[2].lower() in ("i8", "u8")


def _smaller(model: Any, x: Array) -> tuple[Any, Array]:
    """A network for a window of one of its inputs, and the window; both whole where the network has a fixed size."""
    box = (slice(None), slice(None), *(slice(0, min(n, _SIDE)) for n in x.shape[2:]))
    window = np.ascontiguousarray(x[box])
    small = int8.reshaped(model, window.shape)
    return (model, x) if small is None else (small, window)
