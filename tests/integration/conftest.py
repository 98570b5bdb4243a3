"""Fixtures of the tests that need torch, ONNX Runtime and NNCF, and those that need real heads."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lowres_seg.cli import main
from lowres_seg.demo import Assets, fetch
from lowres_seg.export import phantom

RECIPES = Path(__file__).parent / "recipes"
Command = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """`run` in this process, which has imported torch already: for what a command says, and many times."""
    before = signal.getsignal(signal.SIGTERM)

    def here(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["lowres-seg", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(sys.argv, ended.value.code, *capfd.readouterr())

    yield here
    signal.signal(signal.SIGTERM, before)


def module_of(path: Path, name: str) -> Any:
    """A file that is no part of a package, as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def factory(recipe: Path, name: str = "build") -> Any:
    return getattr(module_of(recipe.parent / "network.py", "recipe_network"), name)


def beside(name: str) -> Any:
    """What makes folders of other frameworks, beside the folder of these tests."""
    return module_of(Path(__file__).parents[1] / f"{name}.py", name)


@dataclass(frozen=True)
class Tiny:
    """One network, three ways: the recipe with its checkpoint, a TorchScript file, and an ONNX file."""

    recipe: Path
    weights: Path
    checkpoint: Path
    torchscript: Path
    onnx: Path


def seeded(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every norm statistics that are not 0 and 1, so that leaving them out would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "norm.weight")):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=generator)
    return network.eval()


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("weights")
    recipe = RECIPES / "tiny" / "recipe.toml"
    network = seeded(factory(recipe)())
    with torch.no_grad():  # so that about half of the voxels of a head lie on either side
        head = torch.from_numpy(phantom.head((32, 32, 32), 6.0).data.astype("float32") / 800)[None, None]
        scores = network(head)
        network.last.bias[1] -= (scores[:, 1] / scores[:, 0]).log().median()
    torch.save({"epoch": 3, "model_state_dict": network.state_dict()}, folder / "tiny.pt")
    x = torch.rand(1, 1, 32, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, x).save(folder / "script.pt")
        torch.onnx.export(network, (x,), folder / "graph.onnx", dynamo=True, external_data=False, verbose=False)
    return Tiny(recipe, folder, folder / "tiny.pt", folder / "script.pt", folder / "graph.onnx")


@pytest.fixture(scope="session")
def assets() -> Assets:
    """deepbet's weights and a labelled head; downloaded once, into the user's cache."""
    return fetch()
