"""The scan of a reference case: few windows, and little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.export import phantom, reference_scan
from lowres_seg.runtime.memory import bytes_of_networks, bytes_of_scan
from stages import Content, build, stage

ROIS = {
    "3D at 1 mm": ([96, 96, 96], [1.0] * 3),
    "slices": ([1, 512, 512], [1.0, 0.5, 0.5]),
    "small": ([32] * 3, [2.0] * 3),
}


def pipeline(content: Content, name: str, mirror: tuple[int, ...]) -> Pipeline:
    roi, spacing = ROIS[name]
    conform = {"orientation": "RAS", "spacing_mm": spacing, "pad": "zero"}
    return build(content, stage(conform=conform, windows={"roi_size": roi}, mirror_axes=mirror), channels=("a", "b"))


@pytest.mark.parametrize("mirror", [(), (0, 1, 2)])
@pytest.mark.parametrize("name", ROIS)
def test_few_runs_in_little_memory(content: Content, tiny: Path, name: str, mirror: tuple[int, ...]) -> None:
    one = pipeline(content, name, mirror)
    files = {"only-net": Bundle.open(tiny).network_files()["net"]}
    room = sum(bytes_of_networks(one, files))
    sizes = []
    for most in (2 * 10**9, 900 * 10**6, 100):
        scan = reference_scan.choose(one, files, {"only-net": 4}, most)
        assert list(scan) == ["a", "b"]
        grid = scan["a"].grid
        sizes.append(grid.shape[0])
        smallest = phantom.grid((8, 10, 9)).shape == grid.shape
        assert smallest or reference_scan._runs(one, grid) <= 16
        assert smallest or bytes_of_scan(one, grid, {"only-net": 4}, lean=True) + room <= most
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 8  # it never refuses


def test_a_whole_volume_gets_a_whole_head(content: Callable[..., dict[str, Any]], tiny: Path) -> None:
    manifest = Bundle.open(tiny).manifest
    scan = reference_scan.choose(manifest, Bundle.open(tiny).network_files(), {"net": 2}, 100)
    assert scan["t1"].grid.shape == (96, 112, 112)
