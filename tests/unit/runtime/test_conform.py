from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lowres_seg import InputError
from lowres_seg.bundle.grids import Conform
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.interpolation import Sampling, nearest_between_edges, nearest_indices
from lowres_seg.runtime.openvino_engine import compile_model, resize
from lowres_seg.runtime.resampling import picked

import openvino  # isort: skip
from openvino import opset13 as opset  # isort: skip


def by_hand(x: np.ndarray, shape: tuple[int, int, int], interpolation: str) -> np.ndarray:
    """Sample at voxel centres, axis by axis, in float64."""
    for axis, n in enumerate(shape, start=1):
        m = x.shape[axis]
        at = (np.arange(n) + 0.5) * m / n
        if interpolation == "nearest":
            x = np.take(x, np.floor(at).astype(int).clip(0, m - 1), axis=axis)
            continue
        at = (at - 0.5).clip(0, m - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, m - 1)
        w = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis=axis) * (1 - w) + np.take(x, high, axis=axis) * w
    return x


SHAPES = [((7, 9, 11), (14, 9, 5)), ((8, 8, 8), (3, 5, 21)), ((5, 6, 1), (10, 6, 4)), ((26, 31, 17), (32, 32, 32))]


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_resize_samples_at_voxel_centres(
    source: tuple[int, int, int], target: tuple[int, int, int], interpolation: str
) -> None:
    x = np.random.default_rng(0).random((2, *source), dtype=np.float32)
    found = picked(x, target) if interpolation == "nearest" else resize(x, target, threads=1)
    assert found.shape == (2, *target)
    assert np.allclose(found, by_hand(x, target, interpolation), atol=2e-6)


@pytest.mark.parametrize("n", [63, 64, 100, 127, 128, 155, 181, 182, 218, 240, 255, 256, 257, 320])
@pytest.mark.parametrize("m", [128, 256])
def test_nearest_picks_the_very_voxel(n: int, m: int) -> None:
    x = np.arange(n, dtype=np.float32).reshape(1, n, 1, 1)
    found = picked(x, (m, 1, 1)).ravel()
    # torch's nearest-exact: floor((i + 0.5) · scale), in float32
    scale = np.float32(n / m)
    expected = np.minimum(np.floor((np.arange(m, dtype=np.float32) + np.float32(0.5)) * scale), n - 1)
    assert np.array_equal(found, expected)


def test_nearest_picks_as_openvino_picks_between_two_that_are_equally_near() -> None:
    volume, shape = opset.parameter([1, 1, 1, 1, -1], np.float32), opset.parameter([3], np.int64)
    node = opset.interpolate(
        volume,
        shape,
        mode="nearest",
        shape_calculation_mode="sizes",
        axes=np.array([2, 3, 4], np.int64),
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )
    request = compile_model(openvino.Model([node], [volume, shape], "nearest"), 1, "f32").create_infer_request()
    sizes = [1, 2, 3, 4, 12, 49, 98, 103, 128, 161, 182, 197, 206, 214, 237, 256, 400]
    ties = 0
    for n, m in product(sizes, sizes):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, 1, 1, n)
        expected = request.infer([x, np.array([1, 1, m], np.int64)])[0].ravel()
        assert np.array_equal(picked(x[0], (1, 1, m)).ravel(), expected), (n, m)
        ties += not np.array_equal(nearest_indices(Sampling(n, m)), expected)
    assert ties > 10  # rounding decides some of them


@pytest.mark.parametrize("order", ["C", "F", "flipped", "turned", "cut"])
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_nearest_picks_the_same_whatever_the_order_in_memory(
    source: tuple[int, int, int], target: tuple[int, int, int], order: str
) -> None:
    x = np.random.default_rng(0).random((2, *source), dtype=np.float32)
    expected = picked(x, target)
    assert np.shares_memory(picked(x, source), x)
    i, j, k = np.meshgrid(*(nearest_between_edges(n, m) for n, m in zip(source, target, strict=True)), indexing="ij")
    assert np.array_equal(expected, x[:, i, j, k])
    other = {
        "C": x,
        "F": np.asfortranarray(x),
        "flipped": x[:, ::-1, :, ::-1].copy()[:, ::-1, :, ::-1],
        "turned": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "cut": np.pad(x, 3)[3:-3, 3:-3, 3:-3, 3:-3],
    }[order]
    found = picked(other, target)
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


def fit(region: tuple[int, int, int], spacing: tuple[float, float, float], **conform: object) -> Fit:
    return Fit.of(region, np.diag([*spacing, 1.0]), Conform.model_validate(conform), (1, 1, 1))


def there(f: Fit, x: np.ndarray, interpolation: str) -> np.ndarray:
    return f.place(f.resample(x, interpolation, threads=1), None)


def back_again(f: Fit, y: np.ndarray, interpolation: str) -> np.ndarray:
    slabs = list(f.restored(y, interpolation, threads=1))
    assert [s.start for s, _ in slabs] == [0, *[s.stop for s, _ in slabs[:-1]]]
    return np.concatenate([part for _, part in slabs], axis=1)


def test_a_shape_alone_stretches() -> None:
    assert replace(fit((10, 20, 30), (1, 1, 1), shape=[16, 16, 16]), unpadded=None) == Fit.between(
        (10, 20, 30), (16, 16, 16), (16, 16, 16)
    )


def test_a_spacing_keeps_the_extent_and_then_pads_or_crops() -> None:
    found = fit((10, 20, 30), (2.0, 1.0, 0.5), shape=[16, 16, 16], spacing_mm=[1, 1, 1])
    assert found.resampled == (20, 20, 15)
    assert found.conformed == (16, 16, 16)


def test_padding_is_centred_with_the_minimum_and_undone() -> None:
    f = Fit.between((4, 6, 5), (4, 6, 5), (8, 4, 5))
    x = np.random.default_rng(0).uniform(5, 9, (1, 4, 6, 5)).astype(np.float32)
    y = there(f, x, "linear")
    assert np.array_equal(y[:, 2:6], x[:, :, 1:5])
    assert (y[:, :2] == x.min()).all()
    assert (y[:, 6:] == x.min()).all()
    back = back_again(f, y, "linear")
    assert np.array_equal(back[:, :, 1:5], x[:, :, 1:5])
    assert np.array_equal(back[:, :, 0], x[:, :, 1])  # cropped away, so its neighbour's


@pytest.mark.parametrize(("n", "m", "first"), [(4, 7, 1), (7, 4, -2), (5, 8, 1), (8, 5, -2)])
def test_an_odd_voxel_of_padding_goes_to_the_end_and_of_cropping_to_the_start(n: int, m: int, first: int) -> None:
    x = np.arange(1, n + 1, dtype=np.float32).reshape(1, n, 1, 1)
    y = there(Fit.between((n, 1, 1), (n, 1, 1), (m, 1, 1)), x, "nearest").ravel()
    expected = [x.ravel()[i - first] if 0 <= i - first < n else 1.0 for i in range(m)]
    assert y.tolist() == expected


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_there_and_back_is_no_shift(interpolation: str) -> None:
    """A ramp survives the way to a finer grid and back: half a voxel of shift would show."""
    x = np.arange(20, dtype=np.float32)[None, :, None, None] * np.ones((1, 20, 12, 9), np.float32)
    f = Fit.between((20, 12, 9), (40, 24, 18), (40, 24, 18))
    back = back_again(f, there(f, x, interpolation), interpolation)
    assert np.allclose(back[:, 1:-1], x[:, 1:-1], atol=1e-4)


def test_an_absurd_spacing_is_refused_before_it_is_resampled() -> None:
    with pytest.raises(InputError, match="check its spacing"):
        fit((512, 512, 512), (40.0, 40.0, 40.0), shape=[16, 16, 16], spacing_mm=[1, 1, 1])
