"""Dropout that is kept on: exported with its masks, sampled, quantized and verified; against torch with the same masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lowres_seg import Bundle, ExportError, Segmenter, Volume
from lowres_seg.cohort.cases import Cases
from lowres_seg.export import export
from lowres_seg.export.frameworks import onnx_int8
from lowres_seg.export.frameworks.dropout import Sampled
from lowres_seg.export.frameworks.onnx_graph import OrtNetwork
from lowres_seg.quantize import calibration, int8
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph
from lowres_seg.runtime.sampling import drawn

from .conftest import Command
from .own_networks import recipe, seeded

SIDES = (16, 8, 12)
ENTRY = '\n[networks.net]\nfactory = "network.py:build"\ncheckpoint = "net.pt"\ndropout = true\n'
STAGE = """
[[stages]]
name = "segment"
networks = ["net"]
conform = { orientation = "RAS", pad = "zero" }
windows = { roi_size = [16, 8, 12], rules = "monai" }
decode = { kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }] }
samples = { count = 4, seed = 3 }
"""


class Unsure(nn.Module):
    """Drops channels, then single values through one layer twice; what drops nothing is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.Dropout3d(0.4), nn.ReLU())
        self.drop, self.never = nn.Dropout(0.2), nn.Dropout(0.0)
        self.last = nn.Conv3d(6, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.first(x))
        return self.last(self.never(self.drop(torch.relu(x))))


class WithMasks(nn.Module):
    """The same network with its masks written out."""

    def __init__(self, network: Unsure) -> None:
        super().__init__()
        self.net = network

    def forward(self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.net.first[0](x) * a)
        return self.net.last(torch.relu(x * b) * c)


@pytest.fixture(scope="module")
def network() -> Unsure:
    made = seeded(Unsure())
    assert isinstance(made, Unsure)
    return made


@pytest.fixture(scope="module")
def bundle(network: Unsure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dropout")
    export(recipe(folder / "r", ENTRY + STAGE, {"net": network}, channels=("t1",)), folder / "b", keep_onnx=True)
    return folder / "b"


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, SIDES).astype(np.float32)


def right(network: Unsure, x: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return WithMasks(network)(*map(torch.from_numpy, (x, *masks))).numpy()


def test_the_manifest_lists_the_masks_and_onnx_takes_them(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    entry = opened.manifest.networks["net"]
    full = (1, 6, *SIDES)
    assert [(mask.layer, mask.shape, mask.probability) for mask in entry.dropout] == [
        ("first.1", (1, 6, 1, 1, 1), 0.4),
        ("drop", full, 0.2),
        ("drop", full, 0.2),
    ]
    assert entry.onnx is not None  # parity of ONNX Runtime was kept with masks
    assert opened.manifest.schema_version == 3


def test_samples_are_those_of_torch_with_the_same_masks(network: Unsure, bundle: Path) -> None:
    data = volume()
    found = Segmenter.load(bundle).predict(Volume.from_array(data, np.eye(4)))
    masks = Bundle.open(bundle).manifest.networks["net"].dropout
    runs = [right(network, data[None, None], drawn(masks, [3, 0, 0, 0, 0, sample, 0])) for sample in range(4)]
    probabilities = 1 / (1 + np.exp(-np.stack(runs)[:, 0, 0].astype(np.float64)))
    mean, spread = probabilities.mean(axis=0), probabilities.std(axis=0)
    sure = np.abs(mean - 0.5) > 1e-4
    assert np.array_equal(found.labels.data[sure], mean[sure] > 0.5)
    assert found.spread is not None
    assert np.allclose(found.spread.data, spread, atol=1e-4)
    assert spread.mean() > 0.01


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 2}, {"lean": True}])
def test_the_spread_is_the_same_to_the_byte_with_any_number_of_threads(bundle: Path, options: dict[str, int]) -> None:
    scan = Volume.from_array(volume(), np.eye(4))
    once = Segmenter.load(bundle, threads=1, reproducible=True).predict(scan).spread
    again = Segmenter.load(bundle, reproducible=True, **options).predict(scan).spread
    assert once is not None
    assert again is not None
    assert once.data.tobytes() == again.data.tobytes()


def test_without_masks_dropout_is_off(network: Unsure, bundle: Path) -> None:
    x = volume()[None, None]
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.abs(OpenVinoEngine(bundle / "networks" / "net.xml", threads=1).run(x) - expected).max() < 1e-4


def test_verify_runs_the_samples(bundle: Path) -> None:
    test = Segmenter.load(bundle).self_test()
    assert test.passed
    assert test.max_abs_diff["segment.0"] < 1e-4


def test_ranges_are_gathered_with_masks_on(network: Unsure, bundle: Path, tmp_path: Path) -> None:
    Volume.from_array(volume(1), np.eye(4)).save(tmp_path / "t1.nii.gz")
    (tmp_path / "cases.csv").write_text("t1\nt1.nii.gz\n")
    opened = Bundle.open(bundle)
    inputs = calibration.inputs(opened, list(Cases.read(tmp_path / "cases.csv", ("t1",))), threads=1)["net"]
    files = opened.network_files()["net"]
    options = {"preset": "mixed", "reverted": (), "max_ram_bytes": 4 << 30}
    model = int8.quantize_network("net", read_graph(files), inputs, dropout=files.dropout, **options)
    assert [layer.type for layer in int8.layers(model)].count("Convolution") == 2
    masks = drawn(files.dropout, [5])
    expected = right(network, inputs[0], masks)
    found = OpenVinoEngine.of_model(model, threads=1).run(inputs[0], masks)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_onnx_runtime_quantizes_with_masks_on(network: Unsure, bundle: Path, tmp_path: Path) -> None:
    masks = Bundle.open(bundle).manifest.networks["net"].dropout
    x, target = volume(1)[None, None], tmp_path / "q.onnx"
    graph = (bundle / "networks" / "net.onnx").read_bytes()
    onnx_int8.quantized(graph, [x], target, name="net", reduce_range=False, threads=1, dropout=masks)
    given = drawn(masks, [0])  # those that the ranges are of
    expected = right(network, x, given)
    found = OrtNetwork(target, threads=1, dropout=masks).run(x, given)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_predict_writes_the_map_of_the_spread(bundle: Path, tmp_path: Path, command: Command) -> None:
    scan = tmp_path / "scan.nii.gz"
    Volume.from_array(volume(), np.diag([-2.0, 1, 1, 1])).save(scan)
    words = ["predict", bundle, scan, "-o", tmp_path / "mask.nii.gz", "--spread-map", tmp_path / "spread.nii.gz"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'spread.nii.gz'}: written, the spread of the samples" in done.stdout
    spread = Volume.load(tmp_path / "spread.nii.gz")
    expected = Segmenter.load(bundle).predict(scan).spread
    assert expected is not None
    assert np.allclose(spread.data, expected.data, atol=1e-5)
    assert np.array_equal(spread.grid.affine, expected.grid.affine)
    assert "exists already" in command(*words).stderr
    folder = command("predict", bundle, scan, "-o", tmp_path / "out/", "--spread-map", tmp_path / "s.nii.gz")
    assert (
        "the spread is a map of one scan; expected a name that ends in .nii.gz or .nii or .mgz or .mgh or .nrrd"
        in folder.stderr
    )


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.conv(x), 0.3, training=self.training)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.AlphaDropout(0.1)), "layer 1 is AlphaDropout, which also shifts values"),
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.FeatureAlphaDropout(0.1)), "layer 1 is FeatureAlphaDropout"),
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.Dropout(0.0)), "the network has no dropout layer"),
        (Calls(), "calls torch.nn.functional.dropout, which is no layer"),
    ],
)
def test_dropout_that_cannot_be_given_is_refused(module: nn.Module, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        Sampled(module.eval()).masks((1, 1, 4, 4, 4))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("samples = { count = 4, seed = 3 }", "", "network net keeps dropout on, or stage segment has samples"),
        ("dropout = true", "", "network net keeps dropout on, or stage segment has samples; expected both or none"),
        (
            'factory = "network.py:build"\ncheckpoint = "net.pt"',
            'torchscript = "net.pt"',
            "dropout goes with a checkpoint",
        ),
    ],
)
def test_dropout_and_samples_go_together(network: Unsure, tmp_path: Path, old: str, new: str, says: str) -> None:
    source = recipe(tmp_path, ENTRY + STAGE, {"net": network}, channels=("t1",))
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    with pytest.raises(ExportError, match=says):
        export(source, tmp_path / "b")
