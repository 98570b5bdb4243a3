"""ACS convolutions against 3D convolutions, and encoders that begin as a 2D ResNet18 does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lowres_seg import Bundle
from lowres_seg.export import loading, recipes

from .conftest import Command, module_of
from .test_families import one_thread, reduced, source_of, with_weights

__all__ = ["one_thread"]  # a fixture of each test here
#: Output and input channels of torchvision's ResNet18, and the blocks of each of its layers.
LAYERS = {"layer1": (64, 64), "layer2": (128, 64), "layer3": (256, 128), "layer4": (512, 256)}


@pytest.fixture(scope="module")
def acs() -> Any:
    return module_of(recipes.named("S02").parents[1] / "network.py", "acs_network")


def resnet18() -> dict[str, torch.Tensor]:
    """A state with the names and shapes of torchvision's ResNet18, of random values."""
    generator = torch.Generator().manual_seed(1)
    state = {"conv1.weight": torch.randn(64, 3, 7, 7, generator=generator)}
    state |= {f"bn1.{leaf}": torch.ones(64) for leaf in ("weight", "bias", "running_mean", "running_var")}
    for layer, (out, into) in LAYERS.items():
        for block in range(2):
            first = into if block == 0 else out
            state[f"{layer}.{block}.conv1.weight"] = torch.randn(out, first, 3, 3, generator=generator)
            state[f"{layer}.{block}.conv2.weight"] = torch.randn(out, out, 3, 3, generator=generator)
            if block == 0 and out != into:
                state[f"{layer}.{block}.downsample.0.weight"] = torch.randn(out, into, 1, 1, generator=generator)
    return state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("channels", [3, 4, 5, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2), (1, 1)])
def test_an_acs_convolution_is_a_dense_one_with_zeros(acs: Any, channels: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = acs.ACSConv3d(4, channels, kernel, stride).double()
    layer.bias.data.normal_()
    assert layer.weight.shape == torch.nn.Conv2d(4, channels, kernel).weight.shape
    dense = torch.zeros(channels, 4, kernel, kernel, kernel, dtype=torch.float64)
    middle, third = kernel // 2, [channels // 3 + (view < channels % 3) for view in range(3)]
    d, h, w = layer.weight.detach().split(third)
    dense[: third[0], :, middle] = d
    dense[third[0] : third[0] + third[1], :, :, middle] = h
    dense[third[0] + third[1] :, :, :, :, middle] = w
    x = torch.randn(1, 4, 9, 8, 7, dtype=torch.float64)
    wanted = F.conv3d(x, dense, layer.bias, stride, kernel // 2)
    assert torch.allclose(layer(x), wanted, atol=1e-12)


def test_every_convolution_of_nnunet_becomes_one_of_acs(acs: Any) -> None:
    network = acs.build_nnunet(width=0.0625)
    left = [one for one in network.modules() if isinstance(one, torch.nn.Conv3d)]
    assert {one.kernel_size for one in left} == {(1, 1, 1)}
    made = [one for one in network.modules() if isinstance(one, acs.ACSConv3d)]
    assert len(made) == 12 + 10
    assert len(set(map(id, network.parameters()))) == len(list(network.parameters()))


def test_the_encoder_takes_the_layers_of_resnet18_that_match(acs: Any) -> None:
    network, taken = acs.build_nnunet(), resnet18()
    state = acs.matching(taken, network)
    network.load_state_dict(state)
    weights = [stage[0].convs[at].conv.weight.detach() for stage in network.encoder.stages for at in range(2)]
    wanted = {3: "layer1.0.conv1", 4: "layer2.0.conv1", 5: "layer2.0.conv2", 6: "layer3.0.conv1", 7: "layer3.0.conv2"}
    for place, name in wanted.items():
        assert torch.equal(weights[place], taken[f"{name}.weight"]), name
    others = [weight for place, weight in enumerate(weights) if place not in wanted]
    assert len(others) == 7
    assert all(abs(float(one.std()) / (2 / one[0].numel()) ** 0.5 - 1) < 0.1 for one in others)


def test_the_encoder_takes_all_layers_of_resnet18_cut_to_its_channels(acs: Any) -> None:
    network, taken = acs.build_nnunet(), resnet18()
    network.load_state_dict(acs.sliced(taken, network))
    weights = [stage[0].convs[at].conv.weight.detach() for stage in network.encoder.stages for at in range(2)]
    names = [
        *("layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "layer2.0.conv1", "layer2.0.conv2"),
        *("layer3.0.conv1", "layer3.0.conv2", "layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"),
    ]
    for weight, name in zip(weights, names, strict=True):
        out, into = weight.shape[:2]
        assert torch.equal(weight, taken[f"{name}.weight"][:out, :into]), name


@pytest.mark.parametrize("way", ["matching", "sliced"])
def test_what_resnet18_does_not_fill_is_drawn_alike_every_time(acs: Any, way: str) -> None:
    torch.manual_seed(3)
    one = getattr(acs, way)(resnet18(), acs.build_nnunet(width=0.125))
    two = getattr(acs, way)(resnet18(), acs.build_nnunet(width=0.125))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_resnet18_and_a_trained_network_export_with_one_recipe(tmp_path: Path, command: Command) -> None:
    source = with_weights(reduced("S03", tmp_path))
    torch.save(resnet18(), tmp_path / "resnet18.pth")
    recipe = source.home / "recipe.toml"
    done = command("export", tmp_path / "resnet18.pth", "--recipe", recipe, "-o", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    assert list(Bundle.open(tmp_path / "first").manifest.lineage.sources) == ["tumor/resnet18.pth"]
    entry = source.recipe.networks["tumor"]
    trained = loading.load_network(entry, source.home / entry.file, source.home)
    state = torch.load(source.home / entry.file)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in trained.module.state_dict().items())


@pytest.mark.parametrize(
    ("package", "system", "extra"),
    [("dynamic_network_architectures", "S02", "nnunet"), ("monai", "S21c", "monai")],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, system: str, extra: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(system)
    torch.save({}, tmp_path / "model.pt")
    for name in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    done = command("export", system, "--weights", tmp_path, "-o", tmp_path / "b")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    factory = next(iter(source.recipe.networks.values())).factory
    assert f"{factory} needs {package}, not installed here: pip install" in done.stderr
    assert f"[{extra}]" in done.stderr


def test_without_weights_the_error_says_how_to_come_by_them(tmp_path: Path, command: Command) -> None:
    for name in recipes.ids():
        done = command("export", name, "-o", tmp_path / "b")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "the weights are not published: train the network of network.py, or take" in done.stderr
