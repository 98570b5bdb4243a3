"""Channels on different grids, on one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lowres_seg import InputError, Volume
from lowres_seg.runtime.alignment import aligned, resampled
from lowres_seg.volumes import Grid


def turned(degrees: float, spacing: tuple[float, float, float], first: tuple[float, float, float]) -> np.ndarray:
    a = np.radians(degrees)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = first
    return affine


def ramp(grid: Grid) -> Volume:
    """A volume that is linear in space, which linear interpolation keeps."""
    i, j, k = np.indices(grid.shape)
    x, y, z = np.tensordot(grid.affine[:3, :3], np.stack([i, j, k]), 1) + grid.affine[:3, 3, None, None, None]
    return Volume((x + 2 * y - 3 * z + 500).astype(np.float32), grid)


FINE = Grid((30, 28, 26), turned(10, (1, 1, 1), (-10, -12, -9)))
COARSE = Grid((9, 8, 5), turned(-20, (-1.5, 1.3, 2.2), (5, -3, -4)))


def test_a_volume_that_is_linear_in_space_stays_so() -> None:
    data, beyond = resampled(ramp(FINE), COARSE)
    assert beyond == 0
    assert np.abs(data - ramp(COARSE).data).max() < 1e-3


def test_what_lies_beyond_is_counted_and_has_the_background() -> None:
    shifted = Grid(FINE.shape, turned(10, (1, 1, 1), (-10, -12, 1)))  # ten slices further
    data, beyond = resampled(ramp(FINE), shifted)
    assert beyond == pytest.approx(10 / 26)
    assert (data[:, :, 16:] == ramp(FINE).data.min()).all()
    assert np.abs(data[:, :, :16] - ramp(FINE).data[:, :, 10:]).max() < 1e-3
    undershoot = ramp(FINE)
    undershoot.data[0, 0, 0] = -5  # it has no voxel of 0
    assert (resampled(undershoot, shifted)[0][:, :, 16:] == 0).all()


@pytest.mark.parametrize(("reference", "kept"), [(None, "t1"), ("t1", "t1"), ("flair", "flair")])
def test_channels_of_one_frame_come_to_one_grid(reference: str | None, kept: str) -> None:
    scan = {
        "t1": replace(ramp(FINE), frame_of_reference="1.2"),
        "flair": replace(ramp(COARSE), frame_of_reference="1.2"),
    }
    found = aligned(scan, reference=reference)
    assert list(found) == ["t1", "flair"]
    assert {volume.grid for volume in found.values()} == {scan[kept].grid}
    assert found[kept] is scan[kept]
    other = next(volume for name, volume in found.items() if name != kept)
    assert other.doubts[-1].startswith(
        f"channel {'flair' if kept == 't1' else 't1'} was resampled to the grid of {kept} by"
    )
    assert [doubt.name for doubt in other.doubts] == ["another-grid"]


def test_channels_without_a_frame_need_the_callers_word() -> None:
    scan = {"t1": ramp(FINE), "flair": ramp(COARSE)}
    with pytest.raises(InputError, match=r"channel flair lies on another grid than t1 .*; pass --align header if"):
        aligned(scan)
    assert aligned(scan, by_header=True)["flair"].grid == FINE
    same = {"t1": ramp(FINE), "flair": ramp(FINE)}
    assert aligned(same) == same


@pytest.mark.parametrize("grid", [FINE, COARSE])
@pytest.mark.parametrize("by_header", [False, True])
def test_other_frames_are_refused(grid: Grid, by_header: bool) -> None:
    scan = {"t1": replace(ramp(FINE), frame_of_reference="1.2"), "flair": replace(ramp(grid), frame_of_reference="1.3")}
    with pytest.raises(InputError, match="flair lies in another frame of reference than t1, .*; register the channels"):
        aligned(scan, by_header=by_header)


def test_a_channel_that_lies_elsewhere_and_an_unknown_reference_are_refused() -> None:
    far = Grid(FINE.shape, turned(10, (1, 1, 1), (500, 0, 0)))
    with pytest.raises(InputError, match="channel flair lies wholly outside of t1"):
        aligned({"t1": ramp(FINE), "flair": ramp(far)}, by_header=True)
    with pytest.raises(InputError, match="--reference t9: is no channel of the bundle; expected t1"):
        aligned({"t1": ramp(FINE)}, reference="t9")
