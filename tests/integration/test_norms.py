"""Norms whose statistics were never updated, re-estimated at export; and the recipe that needs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.bench import backends
from lowres_seg.bench.spec import Spec
from lowres_seg.export import importers
from lowres_seg.export import weights as files_of_weights
from lowres_seg.export.loading import load_network

from .conftest import RECIPES, Command, Tiny, factory, run

RECIPE = RECIPES / "cascade" / "recipe.toml"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        network = factory(RECIPE)()
        # The mean of a patch, more or less, so that there is something to find.
        network[0].weight.data.uniform_(0, 0.1)
        network[3].weight.data.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1).expand(2, 4, 1, 1, 1))
        network[3].bias.data.copy_(torch.tensor([1.5, -1.5]))
        arrays = {key.replace(".", "/"): value.numpy() for key, value in network.state_dict().items()}
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright ball in a darker one, in nothing."""
    axes = np.meshgrid(*[np.arange(n) - n / 2 for n in (40, 36, 44)], indexing="ij")
    far = np.sqrt(sum(axis**2 for axis in axes))
    data = np.where(far < 16, 300.0, 0) + np.where(far < 7, 500.0, 0)
    data += np.where(far < 16, np.random.default_rng(0).normal(0, 20, far.shape), 0)
    path = tmp_path_factory.mktemp("scan") / "ball.nii.gz"
    Volume.from_array(data.astype(np.float32), np.eye(4)).save(path)
    return path


@pytest.fixture(scope="module")
def bundle(weights: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    (folder / "cases.csv").write_text(f"t1\n{scan}\n")
    done = run("export", RECIPE, "--weights", weights, "--reestimate-norm", folder / "cases.csv", "-o", folder / "out")
    assert done.returncode == 0, done.stderr
    assert "1 norm re-estimated on 1 input; scores moved by" in " ".join(done.stdout.split())
    return folder / "out"


def test_a_norm_holds_what_it_measures_on_the_whole_region(bundle: Path, weights: Path, scan: Path) -> None:
    """Of the first stage: the box of what is not zero, z-scored, in one piece."""
    data = np.asarray(Volume.load(scan).data)
    used = [np.flatnonzero(data.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    x = data[tuple(slice(u[0], u[-1] + 1) for u in used)].astype(np.float64)
    brain = x != 0
    x[brain] = (x[brain] - x[brain].mean()) / x[brain].std()
    x = np.pad(x, [(0, n % 2) for n in x.shape]) if any(n % 2 for n in x.shape) else x
    with np.load(weights / "first.npz") as stored:
        kernel, bias = stored["0/weight"], stored["0/bias"]
    given = torch.nn.functional.conv3d(
        torch.from_numpy(x)[None, None], torch.from_numpy(kernel).double(), torch.from_numpy(bias).double(), padding=1
    )
    with np.load(bundle / "norms.npz", allow_pickle=False) as found:
        assert set(found) == {f"{n}/1.running_{s}" for n in ("first", "second") for s in ("mean", "var")}
        assert np.allclose(found["first/1.running_mean"], given.mean(dim=(0, 2, 3, 4)), rtol=1e-4, atol=1e-5)
        assert np.allclose(found["first/1.running_var"], given.var(dim=(0, 2, 3, 4)), rtol=1e-4)


def test_the_second_stage_is_measured_where_the_first_one_now_looks(bundle: Path, scan: Path) -> None:
    labels = Segmenter.load(bundle).predict(scan).labels.data
    centre = tuple(n // 2 for n in labels.shape)
    assert labels[centre] == 1
    assert set(np.unique(labels)) == {0, 1, 2}
    report = json.loads((bundle / "reports" / "export.json").read_text())["norms_reestimated"]
    assert [one["network"] for one in report] == ["first", "second"]
    assert all(one["mean_abs_diff"] > 0.1 and one["flipped"] > 0 for one in report)


def test_torch_is_measured_with_the_same_norms(bundle: Path, weights: Path, scan: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    spec = Spec(task="measure", bundle=str(bundle), backend="torch", threads=1)
    given = {
        n: {"recipe": str(RECIPE), "weights": str(weights / f"{n}.npz"), "norms": manifest.files["norms.npz"]}
        for n in manifest.networks
    }
    assert given.keys() == {"first", "second"}
    found = backends.backend("torch").segmenter(replace(spec, networks=given)).predict(scan).labels.data
    assert np.mean(found != Segmenter.load(bundle).predict(scan).labels.data) < 1e-4


def test_without_norms_of_running_statistics_there_is_nothing_to_do(
    tiny_network: Tiny, scan: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "cases.csv").write_text(f"t1\n{scan}\n")
    words = ["--recipe", tiny_network.recipe, "--reestimate-norm", tmp_path / "cases.csv"]
    done = command("export", tiny_network.onnx, *words, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "norms can only be re-estimated in torch" in done.stderr
    assert not (tmp_path / "out").exists()


def test_msnets_recipe_has_three_stages_of_three_views(checkout: Path) -> None:
    recipe = importers.read(checkout / "export" / "msnet" / "recipe.toml", {}).recipe
    assert [stage.onto for stage in recipe.stages] == [None, "wt", "tc"]
    assert recipe.input_shape("wt-axial") == (1, 4, 144, 192, 160)
    assert recipe.input_shape("wt-sagittal") == (1, 4, 160, 144, 192)
    assert recipe.input_shape("wt-coronal") == (1, 4, 192, 144, 160)
    assert {region.name: region.labels for region in recipe.regions}["et"] == (3, 4)


def test_msnets_weights_fill_its_network(checkout: Path, realdata: Path) -> None:
    """Every name and shape of the published archives; sha256 is checked where weights are found."""
    source = importers.read(checkout / "export" / "msnet" / "recipe.toml", {})
    found = files_of_weights.find(source.recipe, source.home, realdata / "networks" / "msnet", print)

    for name, entry in source.recipe.networks.items():
        network = load_network(entry, found[name], source.home)
        x = np.random.default_rng(0).standard_normal((1, 4, 9, 16, 20), dtype=np.float32)
        assert network.run(x).shape == (1, 2, 9, 16, 20), name
        assert all((array == 0).all() for key, array in network.statistics().items() if key.endswith("mean"))
