"""An average of networks that see one channel each, exported, re-estimated and calibrated; against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.cohort.cases import Cases
from lowres_seg.export import export
from lowres_seg.quantize import calibration

from .own_networks import recipe, seeded

SIDES = (16, 12, 20)
NAMES = ("flair", "t1")
NETWORKS = "".join(f'\n[networks.{name}]\nfactory = "network.py:build"\ncheckpoint = "{name}.pt"\n' for name in NAMES)
STAGE = """
[[stages]]
name = "segment"
networks = ["flair", "t1"]
inputs = { flair = ["flair"], t1 = ["t1"] }
ensemble = "mean-probabilities"
conform = { orientation = "RAS", pad = "zero" }
windows = { roi_size = [16, 12, 20], rules = "monai" }
decode = { kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }] }
"""


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(1)
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scan")
    paths = {}
    for seed, name in enumerate(("t1", "t1c", "flair", "t2")):
        data = np.random.default_rng(seed).normal(seed, 1 + seed, SIDES).astype(np.float32)
        paths[name] = folder / f"{name}.nii.gz"
        Volume.from_array(data, np.eye(4)).save(paths[name])
    return paths


def test_each_network_is_converted_measured_and_calibrated_on_its_own_channel(
    scan: dict[str, Path], tmp_path: Path
) -> None:
    networks = {name: seeded(Single(), seed) for seed, name in enumerate(NAMES)}
    table = tmp_path / "cases.csv"
    table.write_text(f"{','.join(scan)}\n{','.join(map(str, scan.values()))}\n")
    export(recipe(tmp_path / "r", NETWORKS + STAGE, networks), tmp_path / "b", reestimate_norm=table)
    data = {name: np.asarray(Volume.load(path).data) for name, path in scan.items()}
    with np.load(tmp_path / "b" / "norms.npz") as norms:
        for name in NAMES:
            assert np.allclose(norms[f"{name}/norm.running_mean"], data[name].mean(), atol=1e-4)
            assert np.allclose(norms[f"{name}/norm.running_var"], data[name].var(ddof=1), rtol=1e-4)
    probabilities = []
    for name, network in networks.items():
        network.norm.running_mean[:] = float(data[name].mean())
        network.norm.running_var[:] = float(data[name].var(ddof=1))
        with torch.no_grad():
            probabilities.append(torch.sigmoid(network(torch.from_numpy(data[name])[None, None]))[0, 0].numpy())
    mean = np.mean(probabilities, axis=0)
    found = Segmenter.load(tmp_path / "b").predict(scan).labels.data
    sure = np.abs(mean - 0.5) > 1e-4
    assert np.array_equal(found[sure], mean[sure] > 0.5)
    assert 0.1 < found.mean() < 0.9
    bundle = Bundle.open(tmp_path / "b")
    inputs = calibration.inputs(bundle, list(Cases.read(table, bundle.manifest.channels)), threads=1)
    assert {name: one.shape for name, (one,) in inputs.items()} == dict.fromkeys(NAMES, (1, 1, *SIDES))
    assert all(np.array_equal(inputs[name][0][0, 0], data[name]) for name in NAMES)
