"""Intensities of every scale that float32 holds give one mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydantic import TypeAdapter

from fakes import FakeEngine
from lowres_seg import InputError, Segmenter, Volume
from lowres_seg.bundle.rules import IntensityRule
from lowres_seg.runtime.normalise import normalise
from stages import Content, build, predict, stage

RULES: dict[str, dict[str, Any]] = {
    "z-score": {"rule": "z-score"},
    "z-score of the foreground": {"rule": "z-score", "voxels": "nonzero"},
    "z-score inside": {"rule": "z-score", "voxels": "inside"},
    "percentiles": {"rule": "percentile-scale", "lower": 1, "upper": 99},
    "minimum and maximum": {"rule": "percentile-scale", "lower": 0, "upper": 100},
    "percentiles of the foreground": {"rule": "percentile-scale", "lower": 2, "upper": 98, "voxels": "nonzero"},
    "a percentile to divide by": {"rule": "percentile-scale", "lower": 0, "upper": 99, "divide_by": "upper"},
}
#: Powers of ten by which a scan of values up to 1.5 is multiplied.
SCALES = [-36, -30, -25, -23, -22, -20, -10, 10, 15, 18, 19, 20, 25, 30, 37]


def head(shape: tuple[int, ...] = (14, 15, 16)) -> np.ndarray:
    data = np.random.default_rng(5).uniform(0.1, 1.0, shape).astype(np.float32)
    data[4:9, 5:11, 3:12] += 0.5
    data[:2] = 0
    return data


def parsed(rule: dict[str, Any]) -> Any:
    return TypeAdapter(IntensityRule).validate_python(rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_power_of_two_changes_no_bit(rule: str) -> None:
    expected = head()[None].copy()
    normalise(expected, [parsed(RULES[rule])], {}, ["t1"])
    for power in (-100, -75, -60, -45, 45, 62, 63, 64, 80, 126):
        found = np.ldexp(head()[None], power)
        normalise(found, [parsed(RULES[rule])], {}, ["t1"])
        assert np.array_equal(found, expected), power


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("when", ["before-conform", "after-conform"])
def test_every_scale_gives_one_mask(content: Content, rule: str, when: str) -> None:
    def bright(x: np.ndarray) -> np.ndarray:
        return np.stack([0.6 - x[0], x[0] - 0.6])

    rules = {"rules": [RULES[rule] | {"when": when}]}
    conform = {"shape": [10, 11, 12], "interpolation": "linear"}
    if RULES[rule].get("voxels") == "inside" and when == "after-conform":
        pytest.skip("the inside of a scan is looked for before it is conformed")
    manifest = build(content, stage(conform=conform, normalise=rules), version=3)
    masks = [
        predict(manifest, {"only": [FakeEngine(bright)]}, head() * np.float32(10.0) ** power).labels.data
        for power in (0, *SCALES)
    ]
    assert 100 < np.count_nonzero(masks[0]) < masks[0].size / 2
    for power, mask in zip(SCALES, masks[1:], strict=True):
        # The product with a power of ten is rounded: a voxel at the threshold may fall on either side.
        assert np.count_nonzero(mask != masks[0]) <= 2, power


@pytest.mark.parametrize("after_openvino", [False, True])
def test_numbers_that_cpus_take_for_zero_are_refused(tiny: Path, tmp_path: Path, after_openvino: bool) -> None:
    bits = np.random.default_rng(0).integers(1, 1 << 23, (8, 8, 8)).astype(np.uint32)  # every voxel is denormal
    bits[0, 0, 0] = np.float32(3e-38).view(np.uint32)
    path = tmp_path / "a.nii"
    nib.Nifti1Image(bits, np.eye(4), dtype=np.uint32).to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[70:74] = np.array([16, 32], np.int16).tobytes()  # float32: the same bits as voxels
    path.write_bytes(raw)
    segmenter = Segmenter.load(tiny, threads=1)
    if after_openvino:
        segmenter.predict(Volume.from_array(head(), np.eye(4)))
    with pytest.raises(InputError, match="511 of 512 voxels lie within 1.2e-38 of zero"):
        segmenter.predict(path)


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-25, 1.0, 1e25])
def test_a_scan_without_contrast_is_refused_at_every_scale(value: float) -> None:
    for rule, words in (("z-score", "do not vary"), ("percentiles", "no contrast")):
        x = np.full((1, 8, 8, 8), value, np.float32)
        with pytest.raises(ValueError, match=words):
            normalise(x, [parsed(RULES[rule])], {}, ["t1"])


def test_channels_of_two_scales_are_scaled_by_themselves(content: Content) -> None:
    def sum_of_both(x: np.ndarray) -> np.ndarray:
        return np.stack([0.6 - x.mean(axis=0), x.mean(axis=0) - 0.6])

    conform = {"shape": [10, 11, 12], "interpolation": "linear"}
    only = stage(conform=conform, normalise={"rules": [{"rule": "z-score"}]})
    manifest = build(content, only, channels=("t1", "t2"))
    one = predict(manifest, {"only": [FakeEngine(sum_of_both)]}, head(), head()).labels.data
    two = predict(
        manifest, {"only": [FakeEngine(sum_of_both)]}, np.ldexp(head(), -90), np.ldexp(head(), 90)
    ).labels.data
    assert one.any()
    assert np.array_equal(one, two)
