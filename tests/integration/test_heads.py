"""Synthetic heads of benchmarks/heads.py."""

from __future__ import annotations

from pathlib import Path

import heads
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from lowres_seg.cohort import Cases

SHAPE = (64, 72, 64)
SEEDS = range(6)


@pytest.fixture(scope="module")
def tumors() -> list[heads.Head]:
    return [heads.tumor(SHAPE, seed, high_grade=seed % 2 == 0) for seed in SEEDS]


@pytest.fixture(scope="module")
def strokes() -> list[heads.Head]:
    return [heads.stroke(SHAPE, seed) for seed in SEEDS]


def test_one_seed_gives_one_head(tumors: list[heads.Head], strokes: list[heads.Head]) -> None:
    for found, again in ((tumors[2], heads.tumor(SHAPE, 2, high_grade=True)), (strokes[2], heads.stroke(SHAPE, 2))):
        assert found.images.keys() == again.images.keys()
        assert all((found.images[contrast] == again.images[contrast]).all() for contrast in found.images)
        assert (found.labels == again.labels).all()
        assert (found.annotators == again.annotators).all()
    for group in (tumors, strokes):
        assert len({head.labels.tobytes() for head in group}) == len(SEEDS)


def test_regions_lie_within_each_other(tumors: list[heads.Head]) -> None:
    for head in tumors:
        brain = head.images["t1"] > 0
        whole, core, enhancing = (np.isin(head.labels, labels) for labels in heads.REGIONS.values())
        assert set(np.unique(head.labels)) == ({0, 1, 2, 4} if head.high_grade else {0, 1, 2})
        assert enhancing.any() == head.high_grade
        # Edema lies around the core, and what enhances around necrosis, but where fluid or the brain's border is.
        t2 = head.images["t2"]
        fluid = (t2 > 1.7 * np.median(t2[brain])) & ~whole
        elsewhere = binary_dilation(fluid | ~brain, iterations=2)
        assert share_beside(core, ~whole & ~elsewhere) < 0.05
        if head.high_grade:
            assert share_beside(head.labels == heads.NECROSIS, ~core & ~elsewhere) < 0.05
        assert 0.003 < whole.sum() / brain.sum() < 0.2
        assert core.sum() > 100


def share_beside(mask: np.ndarray, other: np.ndarray) -> float:
    """Share of a mask's voxels whose face is one of another mask."""
    return float((mask & binary_dilation(other)).sum() / mask.sum())


def test_contrasts_have_their_orders(tumors: list[heads.Head]) -> None:
    for head in tumors:
        brain = head.images["t1"] > 0
        healthy = brain & (head.labels == 0)
        medians = {contrast: np.median(image[healthy]) for contrast, image in head.images.items()}
        edema = {
            contrast: np.median(image[head.labels == heads.EDEMA]) / medians[contrast]
            for contrast, image in head.images.items()
        }
        assert edema["t1"] < 0.9
        assert edema["t1c"] < 0.9
        assert edema["t2"] > 1.2
        assert edema["flair"] > 1.4
        assert all(((image > 0) == brain).all() for image in head.images.values())
        scans = [image[brain] for image in head.images.values()]
        correlations = np.corrcoef(scans)[np.triu_indices(4, 1)]
        assert correlations.max() < 0.97


def test_a_threshold_tells_the_grade(tumors: list[heads.Head]) -> None:
    bright = {True: [], False: []}
    for head in tumors:
        image = head.images["t1c"]
        bright[head.high_grade].append(np.percentile(image[head.labels > 0], 95) / np.median(image[image > 0]))
    assert min(bright[True]) > 1.3
    assert max(bright[False]) < 1.1


def test_annotators_differ_at_the_border_alone(tumors: list[heads.Head]) -> None:
    for head in tumors:
        assert set(np.unique(head.annotators)) == set(range(heads.RATERS + 1))
        whole = head.labels > 0
        disputed = (head.annotators > 0) & (head.annotators < heads.RATERS)
        core = np.isin(head.labels, heads.REGIONS["tc"])
        assert not (core & (head.annotators < heads.RATERS)).any()
        assert 0.05 < disputed.sum() / whole.sum() < 1
        assert 0.8 < (head.annotators >= 2).sum() / whole.sum() < 1.2


def test_strokes_are_dark_on_a_whole_head(strokes: list[heads.Head]) -> None:
    for head in strokes:
        image = head.images["t1"]
        assert list(head.images) == ["t1"]
        assert np.mean(image) == pytest.approx(30.2, rel=1e-3)
        lesion = head.labels == 1
        assert 0.001 < lesion.mean() < 0.1
        assert np.median(image[lesion]) < 0.6 * np.percentile(image, 90)


@pytest.mark.parametrize(
    ("task", "channels", "values"),
    [
        ("tumors", heads.CONTRASTS, {0, 1, 2, 4}),
        ("annotators", heads.CONTRASTS, {0, 1, 2, 3}),
        ("strokes", ("t1",), {0, 1}),
    ],
)
def test_heads_are_written_as_cases(task: str, channels: tuple[str, ...], values: set[int], tmp_path: Path) -> None:
    table = heads.write(tmp_path / "heads", task, range(2, 4), (24, 28, 24), 2.0)
    cases = list(Cases.read(table, channels))
    assert [case.id for case in cases] == ["head-2", "head-3"]
    scan = cases[0].load()
    label = cases[0].load_label(sorted(values), scan["t1"])
    assert scan["t1"].grid.spacing_mm == pytest.approx((2, 2, 2))
    assert label is not None
    assert set(np.unique(label)) == values
    head = heads.stroke((24, 28, 24), 2) if task == "strokes" else heads.tumor((24, 28, 24), 2, high_grade=True)
    assert all((scan[channel].data == head.images[channel]).all() for channel in channels)


def test_heads_of_grades_say_their_class(tmp_path: Path) -> None:
    table = heads.write(tmp_path, "grades", range(2), (24, 28, 24))
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["id", *heads.CONTRASTS, "class"]
    assert [row[-1] for row in rows[1:]] == ["1", "0"]
