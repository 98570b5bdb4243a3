"""Networks whose dropout is kept on: masks, the mean of samples, and their spread; against numpy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import EngineError, Manifest, ManifestError, Segmenter, Volume
from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.bundle.words import sentences
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.sampling import drawn
from lowres_seg.volumes.grid import Grid
from stages import Content, build, noise, stage

SIDES = (6, 5, 4)
MASK = DropoutMask(layer="drop", shape=(1, 1, 3, 5, 4), probability=0.25)
WINDOWS = {"roi_size": [3, 5, 4], "weights": "constant", "overlap": 0.0, "rules": "monai"}
REGIONS = {
    "kind": "regions",
    "activation": "sigmoid",
    "regions": [{"channel": 0, "label": 1}, {"channel": 1, "label": 2}],
}


def function(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.stack([4 * (x[0] * mask[0, 0] - 0.5), x[0] - 2 * mask[0, 0]])


def engine() -> FakeEngine:
    made = FakeEngine(function)
    made.masks = (MASK,)
    return made


def sampled(**changes: Any) -> dict[str, Any]:
    return stage(
        **{"conform": {}, "windows": WINDOWS, "decode": REGIONS, "samples": {"count": 5, "seed": 7}, **changes}
    )


def manifest_of(content: Content, **changes: Any) -> Manifest:
    """`build` with a mask for each network."""
    one = sampled(**changes)
    made = build(content, {**one, "samples": None}, version=3).model_dump()
    made["stages"] = [one]
    for network in made["networks"].values():
        network["dropout"] = [MASK.model_dump()]
    return Manifest.model_validate(made)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def by_hand(data: np.ndarray, count: int = 5, seed: int = 7, member: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2, I, J, K) and spread (I, J, K) of activated scores."""
    mean, spread = np.zeros((2, *SIDES)), np.zeros(SIDES)
    for first in (0, 3):
        runs = []
        for sample in range(count):
            generator = np.random.default_rng([seed, member, first, 0, 0, sample, 0])
            mask = (generator.random(MASK.shape, dtype=np.float32) >= 0.25) / np.float32(0.75)
            runs.append(sigmoid(function(data[None, first : first + 3], mask)))
        mean[:, first : first + 3] = np.mean(runs, axis=0)
        spread[first : first + 3] = np.std(runs, axis=0).max(axis=0)
    return mean, spread


def run(manifest: Manifest, *engines: FakeEngine, data: np.ndarray, **options: Any) -> Any:
    return Segmenter(manifest, {"only": engines}, threads=1).predict(Volume.from_array(data, np.eye(4)), **options)


def test_samples_are_averaged_and_their_spread_is_a_map(content: Content) -> None:
    data, told = noise(SIDES), []
    found = run(manifest_of(content), engine(), data=data, progress=lambda *step: told.append(step))
    assert "dropout kept on: the mean of 5 samples" in " ".join(sentences(manifest_of(content).stages[0]))
    mean, spread = by_hand(data)
    expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
    sure = np.abs(mean - 0.5).min(axis=0) > 1e-5
    assert np.array_equal(found.labels.data[sure], expected[sure])
    assert found.spread.data.dtype == np.float32
    assert np.allclose(found.spread.data, spread, atol=1e-5)
    assert spread.max() > 0.1
    assert told == [("only", place, 10) for place in range(1, 11)]


def test_the_same_scan_has_the_same_samples_whatever_ran_before(content: Content) -> None:
    manifest, used = manifest_of(content), engine()
    first = run(manifest, used, data=noise(SIDES)).spread.data
    run(manifest, used, data=noise(SIDES, 1))
    assert first.tobytes() == run(manifest, used, data=noise(SIDES)).spread.data.tobytes()
    other = manifest_of(content, samples={"count": 5, "seed": 8})
    assert not np.array_equal(first, run(other, engine(), data=noise(SIDES)).spread.data)


def test_members_draw_masks_of_their_own_and_are_averaged(content: Content) -> None:
    data = noise(SIDES)
    manifest = manifest_of(content, networks=["a", "b"], ensemble="mean-probabilities")
    found = run(manifest, engine(), engine(), data=data)
    spreads = [by_hand(data, member=member)[1] for member in range(2)]
    assert np.allclose(found.spread.data, np.mean(spreads, axis=0), atol=1e-5)
    assert not np.allclose(*spreads, atol=1e-3)


def test_the_spread_comes_back_to_the_scans_grid_as_scores_do(content: Content) -> None:
    """Twice the spacing along one axis; outside of the region there is none."""
    data = np.pad(np.kron(noise(SIDES) + 0.1, np.ones((2, 1, 1), np.float32)), [(2, 0), (0, 1), (3, 0)])
    manifest = manifest_of(
        content,
        region={"kind": "nonzero"},
        conform={"orientation": "LPS", "spacing_mm": [2, 1, 1], "interpolation": "nearest"},
        restore={"what": "scores", "interpolation": "nearest"},
    )
    found = run(manifest, engine(), data=data.astype(np.float32)).spread.data
    inner = found[2:, :-1, 3:]
    assert np.array_equal(inner[::2], inner[1::2])
    assert inner.max() > 0.1
    assert np.count_nonzero(found) == np.count_nonzero(inner)


def test_a_stage_without_samples_has_no_spread(content: Content) -> None:
    plain = build(content, stage(conform={"shape": SIDES}), version=3)
    assert run(plain, FakeEngine(lambda x: np.stack([x[0], 1 - x[0]])), data=noise(SIDES)).spread is None


def test_a_classifier_averages_its_samples(content: Content) -> None:
    manifest = manifest_of(
        content,
        windows=None,
        conform={"shape": (3, 5, 4)},
        decode={"kind": "classes", "names": ["a", "b"], "activation": "softmax"},
        restore={"what": "nothing"},
    )
    used = FakeEngine(lambda x, mask: np.array([mask.mean(), x.mean() * mask.sum()])[:, None, None, None])
    used.masks = (MASK,)
    data = noise((3, 5, 4))
    found = run(manifest, used, data=data).numbers
    scores = []
    for sample in range(5):
        (mask,) = drawn([MASK], [7, 0, 0, 0, 0, sample, 0])
        scores.append([mask.mean(), data.mean() * mask.sum()])
    e = np.exp(np.array(scores) - np.max(scores, axis=1, keepdims=True))
    assert np.allclose(list(found.values()), (e / e.sum(axis=1, keepdims=True)).mean(axis=0), atol=1e-5)


def test_an_engine_without_masks_is_refused(content: Content) -> None:
    with pytest.raises(EngineError, match="network only-net was loaded without masks of its dropout"):
        run(manifest_of(content), FakeEngine(lambda x: np.stack([x[0], x[0]])), data=noise(SIDES))


def test_a_mask_drops_its_share_and_keeps_the_mean() -> None:
    mask = DropoutMask(layer="drop", shape=(1, 8, 32, 32, 32), probability=0.3)
    (values,) = drawn([mask], [0])
    assert set(np.unique(values)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert abs((values == 0).mean() - 0.3) < 0.01
    assert abs(values.mean() - 1) < 0.01


def test_memory_counts_the_spread_and_the_runs(content: Content) -> None:
    grid = Grid(SIDES, np.eye(4))
    counted = [
        Placement.of(manifest_of(content, **changes).stages[0].model_copy(update=other), grid).array_bytes(
            1, 2, in_turn=False
        )
        for changes, other in (({}, {}), ({}, {"samples": None}))
    ]
    assert counted[0] - counted[1] > 16 * 2 * 3 * 5 * 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"networks": ["a", "b"]}, "samples are activated and averaged; expected mean-probabilities"),
        ({"restore": {"activated": "after"}}, "expected mean-probabilities, and activated = before"),
        ({"restore": {"what": "labels", "interpolation": "nearest"}}, "expected scores in restore.what"),
        ({"samples": {"count": 1}}, "samples.count"),
        ({"samples": None}, "network only-net has dropout masks, or stage only has samples; expected both or none"),
    ],
)
def test_samples_that_do_not_hang_together_are_refused(content: Content, changes: dict[str, Any], says: str) -> None:
    good = manifest_of(content).model_dump(mode="json")
    good["stages"] = [sampled(**changes)]
    good["networks"] |= dict.fromkeys(("a", "b"), good["networks"]["only-net"])
    with pytest.raises(ManifestError, match=says):
        Manifest.parse(json.dumps(good), where="m")
