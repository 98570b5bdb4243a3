"""Windows and resampling against the code of MONAI, nnU-Net and scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lowres_seg.bundle.grids import Conform
from lowres_seg.bundle.windows import Windows
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.windows import Accumulator, rows, weights

# The packages that are compared with warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

Shape = tuple[int, int, int]
GRIDS: list[tuple[Shape, Shape]] = [
    ((32, 32, 32), (32, 32, 32)),
    ((41, 57, 33), (16, 32, 24)),
    ((33, 17, 64), (32, 16, 64)),
    ((70, 20, 31), (13, 20, 7)),
    ((9, 40, 40), (1, 32, 24)),
]
OVERLAPS = [0.0, 0.25, 0.5, 0.625, 0.75]


def corners(shape: Shape, rule: Windows) -> list[tuple[int, ...]]:
    return [at for row, _ in rows(shape, rule) for at in row]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("shape", "roi"), GRIDS)
def test_positions_are_monais(shape: Shape, roi: Shape, overlap: float) -> None:
    utils = pytest.importorskip("monai.data.utils")
    inferers = pytest.importorskip("monai.inferers.utils")
    interval = inferers._get_scan_interval(shape, roi, 3, (overlap,) * 3)
    expected = [tuple(s.start for s in place) for place in utils.dense_patch_slices(shape, roi, interval)]
    found = corners(shape, Windows(roi_size=roi, overlap=overlap, rules="monai"))
    assert found == expected


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("shape", "roi"), GRIDS)
def test_positions_are_nnunets(shape: Shape, roi: Shape, overlap: float) -> None:
    module = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    flat = roi[0] == 1  # for slices nnU-Net takes all along the first axis
    size, patch = (shape[1:], roi[1:]) if flat else (shape, roi)
    steps = module.compute_steps_for_sliding_window(size, patch, 1 - overlap)
    i, j, k = [list(range(shape[0])), *steps] if flat else steps
    found = corners(shape, Windows(roi_size=roi, overlap=overlap, rules="nnunet"))
    assert found == [(a, b, c) for a in i for b in j for c in k]


def gaussian_of_nnunet(roi: Shape, sigma: float) -> torch.Tensor:
    """As nnU-Net's predictor asks for it, in half precision."""
    module = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    return module.compute_gaussian(roi, sigma, value_scaling_factor=10, device=torch.device("cpu"))


ROIS: list[Shape] = [(32, 32, 32), (16, 48, 31), (96, 96, 96), (5, 7, 3), (128, 20, 64)]


@pytest.mark.parametrize("sigma", [0.125, 0.25, 0.05])
@pytest.mark.parametrize("roi", ROIS)
def test_weights_are_monais(roi: Shape, sigma: float) -> None:
    utils = pytest.importorskip("monai.data.utils")
    expected = utils.compute_importance_map(roi, mode="gaussian", sigma_scale=sigma).numpy()
    # sliding_window_inference raises them so, whatever the version of compute_importance_map does.
    expected = np.maximum(expected, max(expected[expected != 0].min(), 1e-3))
    found = weights(Windows(roi_size=roi, sigma_scale=sigma, rules="monai"))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.125, 0.25])
@pytest.mark.parametrize("roi", ROIS)
def test_weights_are_nnunets(roi: Shape, sigma: float) -> None:
    expected = gaussian_of_nnunet(roi, sigma).numpy()
    found = weights(Windows(roi_size=roi, sigma_scale=sigma, rules="nnunet"))
    assert found.min() > 0
    # A unit in the last place of half precision: which way a half goes hangs on the order of the factors.
    apart = np.abs(found - expected.astype(np.float32))
    assert (apart <= np.spacing(expected).astype(np.float32)).all()
    assert (apart > 0).mean() < 0.01


def voting(x: torch.Tensor) -> torch.Tensor:
    """A network that looks around and knows where in its window it is."""
    place = torch.linspace(-1, 1, x.shape[2]).reshape(-1, 1, 1) + torch.linspace(0, 2, x.shape[4])
    return torch.cat([torch.nn.functional.avg_pool3d(x, 3, 1, 1) + 0.1 * place, x * place], dim=1)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.625])
@pytest.mark.parametrize(("shape", "roi"), GRIDS[1:4])
def test_the_mean_of_windows_is_monais(shape: Shape, roi: Shape, overlap: float, mode: str) -> None:
    inferers = pytest.importorskip("monai.inferers")
    x = np.random.default_rng(0).standard_normal((1, 1, *shape), dtype=np.float32)
    expected = inferers.sliding_window_inference(
        torch.from_numpy(x), roi, 1, voting, overlap=overlap, mode=mode, sigma_scale=0.125
    ).numpy()[0]
    found = averaged(x, Windows(roi_size=roi, overlap=overlap, weights=mode, rules="monai"))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize(("shape", "roi"), GRIDS[1:3])
def test_the_mean_of_windows_is_nnunets(shape: Shape, roi: Shape, overlap: float, gaussian: bool) -> None:
    """As its predictor sums them, in half precision."""
    module = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    x = np.random.default_rng(0).standard_normal((1, 1, *shape), dtype=np.float32)
    rule = Windows(roi_size=roi, overlap=overlap, weights="gaussian" if gaussian else "constant", rules="nnunet")
    total, weight = torch.zeros((2, *shape), dtype=torch.half), torch.zeros(shape, dtype=torch.half)
    map_of = gaussian_of_nnunet(roi, 0.125) if gaussian else torch.tensor(1.0)
    steps = module.compute_steps_for_sliding_window(shape, roi, 1 - overlap)
    for at in [(a, b, c) for a in steps[0] for b in steps[1] for c in steps[2]]:
        box = tuple(slice(a, a + n) for a, n in zip(at, roi, strict=True))
        total[(slice(None), *box)] += voting(torch.from_numpy(x[(..., *box)]))[0] * map_of
        weight[box] += map_of
    expected = (total / weight).numpy()
    found = averaged(x, rule)
    assert found.dtype == np.float16
    same = found == expected
    assert same.mean() > 0.99
    assert np.abs(found.astype(np.float32) - expected)[:, weight.numpy() > 0.01].max() < 0.01


def averaged(x: np.ndarray, rule: Windows) -> np.ndarray:
    """Weighted mean of what `voting` gives, by this package."""
    shape = (x.shape[2], x.shape[3], x.shape[4])
    accumulator = Accumulator(shape, rule, planes=rule.roi_size[0])
    parts = []
    for row, stop in rows(shape, rule):
        for at in row:
            i, j, k = (slice(a, a + n) for a, n in zip(at, rule.roi_size, strict=True))
            window = torch.from_numpy(np.ascontiguousarray(x[:, :, i, j, k]))
            accumulator.add(voting(window)[0].numpy(), at)
        parts.append(accumulator.take(stop)[1])
    return np.concatenate(parts, axis=1)


SIZES: list[tuple[Shape, Shape]] = [
    ((20, 24, 17), (40, 24, 11)),
    ((31, 26, 9), (26, 31, 32)),
    ((12, 40, 33), (30, 17, 80)),
    ((5, 9, 3), (8, 4, 7)),
]


def scan(shape: Shape, channels: int = 2) -> np.ndarray:
    """Something smooth, with an edge, at the intensities of a scan."""
    x = np.random.default_rng(0).standard_normal((channels, *shape)).astype(np.float32)
    for axis in (1, 2, 3):
        x = (x + np.roll(x, 1, axis) + np.roll(x, -1, axis)) / 3
    x[:, : shape[0] // 3] = -2
    return x * 300 + 500


@pytest.mark.parametrize(("interpolation", "order"), [("cubic", 3), ("linear", 1)])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resampling_is_scikit_images(source: Shape, target: Shape, interpolation: Any, order: int) -> None:
    transform = pytest.importorskip("skimage.transform")
    x = scan(source)
    options = {"mode": "edge", "anti_aliasing": False, "clip": True, "preserve_range": True}
    expected = np.stack([transform.resize(c.astype(np.float64), target, order, **options) for c in x])
    near = 1e-5 * np.ptp(x)
    there = Fit.between(source, target, target).resample(x, interpolation, threads=1)
    # scikit-image clips each channel to its own range, as we do.
    assert np.abs(there - expected).max() < near
    if interpolation == "linear":
        back = np.concatenate(
            [part for _, part in Fit.between(target, source, source).restored(x, "linear", threads=1)], axis=1
        )
        assert np.abs(back - expected).max() < near


#: Spacing of the scan, spacing that is wanted, and the axis that nnU-Net then samples by nearest.
SPACINGS: dict[str, tuple[tuple[float, ...], tuple[float, ...], int | None, int | None]] = {
    "isotropic": ((1, 1, 1), (1.4, 1.4, 1.4), None, None),
    "finer": ((2, 1.5, 1), (1, 1, 1), None, None),
    "three times is not more": ((3, 1, 1), (1, 1.3, 1), None, None),
    "thick slices": ((5, 0.9, 0.9), (5, 1.2, 1.2), 0, 0),
    "thick slices along the last axis": ((0.9, 0.9, 5), (1.2, 1.2, 4), 2, 2),
    "thick to isotropic": ((6, 1, 1), (1.5, 1.5, 1.5), 0, 0),
    "isotropic to thick": ((1.5, 1.5, 1.5), (6, 1.2, 1.3), 0, 0),
    "thick one way and then another": ((6, 1, 1), (1, 1, 5), 0, 2),
    "two thick axes": ((5, 5, 1), (1, 1, 1), None, None),
    "two thick axes wanted": ((1, 1, 1), (1, 5, 5), None, None),
}


@pytest.mark.parametrize("case", SPACINGS)
def test_resampling_is_nnunets(case: str) -> None:
    module = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    before, wanted, there_by, back_by = SPACINGS[case]
    shape = (14, 22, 19)
    conform = Conform(spacing_mm=wanted, interpolation="cubic", separate_above=3)
    fit = Fit.of(shape, np.diag([*before, 1.0]), conform, (1, 1, 1))
    assert fit.resampled == tuple(module.compute_new_shape(shape, before, wanted))
    assert (fit.separate, fit.separate_back) == (there_by, back_by)
    resample: Callable[..., Any] = module.resample_data_or_seg_to_shape
    options = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    x = scan(shape)
    expected = np.asarray(resample(x, fit.resampled, before, wanted, order=3, **options))
    found = fit.resample(x, "cubic", threads=1)
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(x)
    scores = scan(fit.resampled, 3)
    expected = np.asarray(resample(scores, shape, wanted, before, order=1, **options))
    back = np.concatenate([part for _, part in fit.restored(scores, "linear", threads=1)], axis=1)
    assert np.abs(back - expected).max() < 1e-4 * np.ptp(scores)
