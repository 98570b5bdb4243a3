"""Training of the gallery's networks on synthetic heads: benchmarks/train_gallery.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import gallery_tasks
import heads
import nibabel as nib
import numpy as np
import pytest
import real_heads
import torch
import train_gallery
from gallery_tasks import Example, System
from torch import nn
from train_gallery import SAME_GRAPH, SYSTEMS

from fakes import FakeEngine
from lowres_seg import Segmenter, Volume
from lowres_seg.export import export, importers, phantom, recipes

SIDES = (24, 28, 24)
#: Voxels of the network's array for `SIDES`, by system, where it has them in another order or sees slices.
WINDOWS = {"S16": (1, 24, 28), "S19": (1, 28, 24)}


@pytest.fixture(autouse=True)
def few_heads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOWRES_SEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gallery_tasks, "UNSEEN", 2)
    monkeypatch.setattr(gallery_tasks, "UNSEEN_GRADES", 4)
    monkeypatch.setattr(gallery_tasks, "KEPT", 4)
    monkeypatch.setattr(gallery_tasks, "REAL", 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Of small networks two threads spend most of their time on waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(mode=False)


def small(name: str) -> System:
    """A system whose windows are whole small heads."""
    window = WINDOWS.get(name, SIDES)
    return System(name, replace(SYSTEMS[name], width=0.0625, window=window, head=SIDES, batch=2))


def network_of(system: System, outputs: int) -> nn.Module:
    """Two convolutions from the channels that a network of the system sees."""
    torch.manual_seed(0)
    slices = system.training.window[0] == 1
    conv = nn.Conv2d if slices else nn.Conv3d
    seen = len(system.channels(next(iter(system.recipe.networks)))) * (1 + 2 * system.neighbours)
    return nn.Sequential(conv(seen, 8, 3, padding=1), nn.ReLU(), conv(8, outputs, 3, padding=1))


def test_every_system_of_the_gallery_is_trained() -> None:
    assert {*SYSTEMS, *SAME_GRAPH} == set(recipes.ids())


@pytest.mark.parametrize(("name", "outputs"), [("S01", 3), ("S08", 4), ("S16", 1), ("S19", 4)])
def test_the_loss_of_masks_falls(name: str, outputs: int) -> None:
    system = small(name)
    network = network_of(system, outputs)
    losses = train_gallery.train(network, system.batches(system.channels("tumor"), 0), system.loss, 40)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    scores = system.scores(dict.fromkeys(system.recipe.networks, network))
    assert list(scores) == [f"Dice {region}" for region in system.regions()]
    assert all(0 <= value <= 1 for value in scores.values())


def test_the_loss_of_grades_falls_and_unseen_heads_are_told_apart() -> None:
    system = System("S21b", replace(small("S21b").training, batch=8))
    torch.manual_seed(0)
    # The brightest places of what four channels give: enough to see what enhances.
    network = nn.Sequential(nn.Conv3d(4, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Conv3d(8, 1, 1))
    losses = train_gallery.train(network, system.batches(heads.CONTRASTS, 0), system.loss, 80)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert system.scores({"class": network})["AUC"] >= 0.75


def test_real_cases_are_laid_on_the_grid_of_heads(monkeypatch: pytest.MonkeyPatch, realdata: Path) -> None:
    monkeypatch.setattr(gallery_tasks, "REAL", 1)
    system = small("S01")
    names = system.real_cases()
    assert len(names) == 3
    assert not System("S04", SYSTEMS["S04"]).real_cases()
    real = real_heads.tumor(names[0], (60, 72, 56))
    turned, scan = (
        np.asarray(nib.as_closest_canonical(nib.load(realdata / "tumor" / names[0] / f"{file}.nii.gz")).dataobj)
        for file in ("seg-silver", "t1n")
    )
    share = [np.isin(labels, (1, 3, 4)).sum() / (labels > 0).sum() for labels in (turned, real.labels)]
    assert share[0] == pytest.approx(share[1], abs=0.02)
    inside = np.argwhere(scan)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    centres = [
        (np.argwhere(turned > 0).mean(axis=0) + 0.5 - low) / (high - low),
        (np.argwhere(real.labels > 0).mean(axis=0) + 0.5) / real.labels.shape,
    ]
    assert centres[0] == pytest.approx(centres[1], abs=0.01)
    x, wanted = next(system.batches(heads.CONTRASTS, 0))
    laid = system.example(real_heads.tumor(names[0], SIDES), heads.CONTRASTS)
    assert x.shape[1:] == laid.x.shape
    assert wanted.shape[1:] == laid.wanted.shape


def test_one_seed_trains_one_network() -> None:
    system = small("S01")
    found = [
        train_gallery.train(network_of(system, 3), system.batches(heads.CONTRASTS, seed), system.loss, 3)
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ["S01", "S04", "S08", "S16", "S19"])
def test_a_network_is_trained_on_what_the_runtime_gives_it(name: str, tmp_path: Path) -> None:
    system = small(name)
    recipe = importers.read(train_gallery.narrowed(name, system.training, tmp_path / "family"), {}).recipe
    head = system.head(5, high_grade=True)
    (network,) = recipe.networks
    affine = phantom.grid(SIDES, 1.0).affine
    heads_out = (1, 1, 1, 1) if name == "S04" else (4, *system.training.window)
    engine = FakeEngine(lambda _: np.zeros(heads_out, np.float32))
    Segmenter(recipe, {network: [engine]}).predict(
        {channel: Volume.from_array(head.images[channel], affine) for channel in recipe.channels}
    )
    x = system.example(head, recipe.channels).x
    if system.training.window[0] > 1:
        # The runtime moves a brain that it crops to the middle of its window.
        assert trimmed(engine.seen[0]) == pytest.approx(trimmed(x.numpy()), abs=1e-4)
    else:
        slices = [system.seen(x, (slice(at, at + 1), slice(None), slice(None))).numpy() for at in range(x.shape[1])]
        expected = [trimmed(one) for one in slices if one.any()]
        given = [trimmed(one) for one in (seen[:, 0] for seen in engine.seen) if one.any()]
        assert len(given) == len(expected) > 15
        for one in given:
            alike = [other for other in expected if other.shape == one.shape]
            assert min(np.abs(one - other).max() for other in alike) < 1e-4


def trimmed(x: np.ndarray) -> np.ndarray:
    """An array (C, ...) within the box of what is not 0."""
    places = np.nonzero((x != 0).any(axis=0))
    return x[(slice(None), *(slice(at.min(), at.max() + 1) for at in places))]


def test_windows_are_parts_of_a_head_with_their_labels() -> None:
    system = System("S01", replace(SYSTEMS["S01"], window=(8, 8, 8), head=SIDES))
    grid = torch.arange(24 * 28 * 24, dtype=torch.float32).reshape(1, 24, 28, 24) + 1
    example = Example(grid, (grid % 97 == 0).float().expand(3, -1, -1, -1))
    rng = np.random.default_rng(0)
    for x, wanted in (system.window(example, rng) for _ in range(20)):
        assert x.shape == (1, 8, 8, 8)
        assert ((x % 97 == 0).float().expand(3, -1, -1, -1) == wanted).all()


def test_a_second_call_takes_what_is_there_and_its_recipe_exports(capsys: pytest.CaptureFixture[str]) -> None:
    training = replace(SYSTEMS["S21b"], width=0.0625, window=(32, 32, 32), head=(32, 32, 32), batch=2, steps=2)
    folder = train_gallery.trained("S21b", training, threads=1)
    weights = (folder / "model.pt").stat()
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert record["trained on"] == "phantoms"
    assert record["training"]["width"] == 0.0625
    assert list(record["scores"]) == ["AUC"]
    assert train_gallery.trained("S21b", training, threads=1) == folder
    train_gallery.trained("S21b", replace(training, minutes=9))  # what it takes is no part of what it is
    assert (folder / "model.pt").stat() == weights
    assert train_gallery.trained("S21b", replace(training, steps=1), threads=1) == folder
    assert (folder / "model.pt").stat().st_mtime_ns != weights.st_mtime_ns

    recipe = folder / "recipes" / "cnn_idh" / "recipe.toml"
    bundle = export(recipe, folder.parent / "bundle", weights=folder)
    system = System("S21b", training)
    head = system.head(3, high_grade=True)
    affine = phantom.grid(training.head, 2.0).affine
    scan = {channel: Volume.from_array(head.images[channel], affine) for channel in heads.CONTRASTS}
    network = system.build("class")
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    expected = system.probabilities(network.eval(), system.example(head, heads.CONTRASTS).x)
    # The brain stands a voxel or two elsewhere on the grid: the network pools what is beside it otherwise.
    assert Segmenter.load(bundle).predict(scan).numbers["idh-mutant"] == pytest.approx(expected.item(), abs=0.02)


def test_a_joint_network_begins_with_the_encoder_of_the_classifier(tmp_path: Path) -> None:
    training = replace(SYSTEMS["S04"], width=0.25)
    state = System("S04", training).build("class").state_dict()
    torch.save(state, tmp_path / "model.pt")
    joint = System("S06", replace(SYSTEMS["S06"], width=0.25)).build("tumor")
    train_gallery._begin(joint, tmp_path, "encoder.", "classifier.")
    taken = joint.classifier.state_dict()
    assert all((taken[key.removeprefix("encoder.")] == state[key]).all() for key in state if key.startswith("encoder."))
    narrow = System("S06", replace(SYSTEMS["S06"], width=0.25)).build("tumor")
    assert any((narrow.classifier.state_dict()[key] != taken[key]).any() for key in taken)


def test_scores_below_what_a_judgement_takes_are_named() -> None:
    assert train_gallery.verdict({"scores": {"Dice wt": 0.9, "Dice et": 0.8}}) == "reached"
    told = train_gallery.verdict({"scores": {"Dice wt": 0.9, "Dice et": 0.79, "AUC": 0.85}})
    assert told == "not reached: Dice et 0.790 is below 0.80, AUC 0.850 is below 0.90"


def test_windows_hold_labels_more_often_than_not() -> None:
    system = System("S01", replace(SYSTEMS["S01"], window=(8, 8, 8), head=SIDES, batch=30))
    _, wanted = next(islice(system.batches(heads.CONTRASTS, 0), 1))
    share = (wanted.flatten(1).amax(1) > 0).float().mean().item()
    assert share > 0.55
