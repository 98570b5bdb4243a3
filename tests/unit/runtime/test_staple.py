"""STAPLE on label maps, by itself and as the ensemble of a stage; against the two steps of the paper, written plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fakes import fixed
from lowres_seg.runtime.staple import staple
from stages import Content, build, noise, predict, stage


def raters(seed: int = 0, shape: tuple[int, ...] = (12, 14, 10), labels: int = 3) -> list[np.ndarray]:
    """Four raters of blocks of labels; the last one is bad, and all of them see the same edge wrongly."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, labels + 1, [n // 2 for n in shape]), np.ones((2, 2, 2), int))
    found = []
    for wrong in (0.05, 0.1, 0.15, 0.5):
        other = rng.integers(0, labels + 1, shape)
        found.append(np.where(rng.random(shape) < wrong, other, truth).astype(np.uint8))
    return found


def by_the_paper(maps: Sequence[np.ndarray], label: int) -> np.ndarray:
    """Probability of one label in each voxel, from the mean of the raters on, voxel by voxel."""
    said = np.stack([labels.ravel() == label for labels in maps]).astype(float)
    weight = said.mean(axis=0)
    prior = weight.mean()
    for _ in range(300):
        sensitivity = (said * weight).sum(1) / weight.sum()
        specificity = ((1 - said) * (1 - weight)).sum(1) / (1 - weight).sum()
        alpha, beta = prior * np.ones(said.shape[1]), (1 - prior) * np.ones(said.shape[1])
        for one, p, q in zip(said, sensitivity, specificity, strict=True):
            alpha *= np.where(one > 0, p, 1 - p)
            beta *= np.where(one > 0, 1 - q, q)
        weight = alpha / (alpha + beta)
    return weight.reshape(maps[0].shape)


@pytest.mark.parametrize("seed", range(3))
def test_the_label_of_the_highest_probability_is_taken(seed: int) -> None:
    maps = raters(seed)
    sure = np.stack([by_the_paper(maps, label) for label in (1, 2, 3)])
    expected = np.where(sure.max(axis=0) > 0.5, 1 + sure.argmax(axis=0), 0)
    found = staple(maps)
    clear = np.abs(sure - 0.5).min(axis=0) > 1e-6
    assert clear.mean() > 0.99
    assert found.dtype == np.uint8
    assert np.array_equal(found[clear], expected[clear])
    assert len(np.unique(found)) == 4


def test_a_good_rater_outweighs_two_bad_ones() -> None:
    """Two raters who miss most of a label together would win a vote."""
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    miss = truth.copy()
    miss[2:5] = 0
    maps = [truth, truth, miss, miss, miss]
    assert (staple(maps) == truth).all()


@pytest.mark.parametrize("value", [0, 2])
def test_raters_who_agree_are_taken_at_their_word(value: int) -> None:
    same = np.full((3, 4, 5), value, np.uint8)
    assert np.array_equal(staple([same, same]), same)
    mixed = noise((3, 4, 5)) > 0.5
    assert np.array_equal(staple([mixed * np.uint8(7)] * 3), mixed * np.uint8(7))
    assert np.array_equal(staple([mixed * np.uint8(7)]), mixed * np.uint8(7))


@pytest.mark.parametrize("windows", [None, {"roi_size": [16, 6, 8], "weights": "constant", "rules": "monai"}])
def test_a_stage_fuses_labels_of_the_scan_and_not_of_its_padding(
    content: Content, windows: dict[str, object] | None
) -> None:
    """The grid is padded from 12 to 16, which would make the prior of every label smaller."""
    maps = raters(labels=2)
    padded = [np.pad(one, [(2, 2), (0, 0), (0, 0)]) for one in maps]
    scores = [np.stack([(one == label).astype(np.float32) for label in range(3)]) for one in padded]
    one = stage(
        networks=["a", "b", "c", "d"],
        conform={"pad": "zero", "spacing_mm": [1, 1, 1], "shape": None if windows else [16, 14, 10]},
        windows=windows,
        ensemble="staple",
        decode={"kind": "argmax", "labels": [0, 1, 2]},
        restore={"what": "labels", "interpolation": "nearest"},
    )
    engines = [fixed(member) for member in scores]
    if windows:
        for engine, member in zip(engines, scores, strict=True):
            at = iter([(j, k) for j in (0, 3, 6, 8) for k in (0, 2)])
            engine.function = lambda _, s=member, i=at: _part(s, *next(i))
    found = predict(build(content, one, version=3), {"only": engines}, noise((12, 14, 10))).labels.data
    assert np.array_equal(found, staple(maps))
    assert (found != staple(padded)[2:14]).any()


def _part(scores: np.ndarray, j: int, k: int) -> np.ndarray:
    return scores[:, :, j : j + 6, k : k + 8]
