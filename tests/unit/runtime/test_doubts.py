"""Doubts: their names, their figures, and where none is raised."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fakes import fixed
from lowres_seg import Manifest, Segmenter, Volume
from lowres_seg.cli import app
from lowres_seg.runtime import doubts
from lowres_seg.runtime.doubts import CUT_OFF, FEW_PLANES, Doubt, cut_off, padding

Content = Callable[..., dict[str, Any]]


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    places = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij", sparse=True)
    return (sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)) <= radius**2).astype(np.uint8)


def raised(content: Content, mask: np.ndarray, *, name: str = "brain", **label: Any) -> list[Doubt]:
    manifest = Manifest.model_validate(content(labels=[{"value": 1, "name": name, **label}], schema_version=3))
    return doubts.of_result(manifest, Volume.from_array(mask, np.diag([2.0, 2, 2, 1])))


def test_a_ball_within_the_scan_raises_none(content: Content) -> None:
    assert raised(content, ball((32, 30, 28), (15, 14, 13), 10)) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", ["first", "last"])
def test_a_mask_that_the_border_cuts_through_is_cut_off(content: Content, axis: int, end: str) -> None:
    centre = [15.0, 15.0, 15.0]
    centre[axis] = 0.0 if end == "first" else 31.0
    (doubt,) = raised(content, ball((32, 32, 32), (centre[0], centre[1], centre[2]), 10))
    assert doubt.name == "cut-off"
    assert doubt.startswith(
        f"the mask is cut off at the {end} plane along axis {axis} of the scan: its section there is 100%"
    )


def test_a_mask_that_only_reaches_the_border_is_not_cut_off(content: Content) -> None:
    """Sections of a ball at distance d from its centre have the share 1 - (d/r)² of the widest one."""
    for far, expected in ((9, 0.19), (8, 0.36)):
        mask = ball((40, 40, 40), (far, 20, 20), 10)
        share, plane = cut_off(mask)
        assert share == pytest.approx(expected, abs=0.05)
        assert plane == "first plane along axis 0"
        assert [doubt.name for doubt in raised(content, mask)] == (["cut-off"] if expected > CUT_OFF else [])


def test_nothing_tells_where_a_mask_without_background_or_of_few_planes_ends() -> None:
    assert cut_off(np.ones((16, 16, 16), np.uint8)) == (0, "")
    slab = ball((32, 32, FEW_PLANES - 1), (15, 15, 3), 10)
    assert cut_off(slab) == (0, "")
    assert cut_off(ball((32, 32, FEW_PLANES), (15, 15, 3), 10))[0] > CUT_OFF


def test_an_organ_in_pieces_is_a_doubt_and_lesions_are_not(content: Content) -> None:
    mask = (
        ball((32, 32, 32), (12, 12, 12), 8) | ball((32, 32, 32), (27, 27, 27), 2) | ball((32, 32, 32), (27, 5, 27), 2)
    )
    (doubt,) = raised(content, mask)
    assert doubt.name == "fragments"
    inside = 100 * (1 - np.count_nonzero(ball((32, 32, 32), (12, 12, 12), 8)) / np.count_nonzero(mask))
    assert doubt == f"brain has 3 pieces, with {inside:.3g}% of it outside the largest one, expected at most 2%"
    assert raised(content, mask, name="lesion") == []
    specks = ball((32, 32, 32), (12, 12, 12), 8)
    specks[28, 28, 28] = specks[28, 2, 28] = 1
    assert raised(content, specks) == []


def test_volumes_and_empty_masks_have_names(content: Content) -> None:
    empty = raised(content, np.zeros((16, 16, 16), np.uint8), volume_ml=[1, 2])
    assert [(doubt.name, str(doubt)) for doubt in empty] == [
        ("empty", "the result is empty"),
        ("volume", "brain has 0 ml, expected 1 to 2 ml"),
    ]


def scan() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1000, (20, 20, 20)).astype(np.float32)


@pytest.mark.parametrize("lowest", [-32768, -1024.1, -(2.0**31), -1e30, np.finfo(np.float32).min])
def test_many_voxels_far_below_all_others_are_padding(lowest: float) -> None:
    data = scan()
    data[:, :, 0] = lowest
    found = padding(data)
    assert found is not None
    assert found[0] == pytest.approx(0.05)
    assert found[1] == pytest.approx(lowest)
    assert 0 <= found[2] < found[3] <= 1000


def test_padding_of_the_lowest_16_bits_is_seen_below_a_scan_of_the_whole_range() -> None:
    data = scan() * 60 - 30_000
    data[:, :, 0] = -32768
    assert padding(data) is not None


def test_usual_scans_have_no_padding() -> None:
    stripped = scan()
    stripped[:10] = 0  # skull-stripped
    centred = (scan() - 500) / 250
    centred[:10] = centred.min()
    negative = scan() - 3  # interpolated: few voxels below zero
    few = scan()
    few[0, 0, :3] = -32768
    whole = np.full((8, 8, 8), -5, np.float32)
    for data in (scan(), stripped, stripped - 1, centred, negative, few, whole, scan().astype(np.uint16)):
        assert padding(data) is None


def test_predict_raises_them_with_names(content: Content) -> None:
    data = scan()[:16, :16, :16]
    data[:, :, 0] = -32768
    scores = np.zeros((2, 16, 16, 16))
    scores[1, :9] = 1
    manifest = Manifest.model_validate(content())
    found = Segmenter(manifest, {"only": [fixed(scores)]}, threads=1).predict(Volume.from_array(data, np.eye(4)))
    assert [doubt.name for doubt in found.doubts if isinstance(doubt, Doubt)] == ["padding", "cut-off"]


def test_they_stand_in_json_and_survive_a_pickle(tiny: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(0, 0.1, (16, 16, 16)).astype(np.float32)
    Volume.from_array(data, np.eye(4)).save(tmp_path / "scan.nii.gz")
    words = ["predict", str(tiny), str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "m.nii.gz"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    case = json.loads(done.stdout)["cases"][0]
    assert dict(zip(case["doubt_names"], case["doubts"], strict=True))["empty"] == "the result is empty"
    again = pickle.loads(pickle.dumps(Doubt("volume", "much")))
    assert (again.name, again) == ("volume", "much")
