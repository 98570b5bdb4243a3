"""The command new-recipe, networks of MONAI in a recipe, and sizes that a network cannot take."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks import nets

from lowres_seg import Segmenter, Volume
from lowres_seg.export import importers, phantom

from .conftest import RECIPES, Command, Tiny, seeded

UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (4, 8, 8), "strides": (2, 2)}
MONAI = ["--framework", "monai", "--factory", "UNet", "--argument", "channels=[4,8,8]", "--argument", "strides=[2,2]"]
REST = ["--weights", "model.pt", "--channels", "t1", "--labels", "brain"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def unet() -> torch.nn.Module:
    return seeded(nets.UNet(**UNET))


def test_a_monai_network_exports_as_the_page_says(command: Command) -> None:
    network = unet()
    torch.save(network.state_dict(), "model.pt")
    done = command("new-recipe", *MONAI, *REST, "--patch", "16,16,16", "--name", "Brain UNet")
    assert done.returncode == 0, done.stderr
    assert "next, with model.pt beside it: lowres-seg export recipe.toml -o brain-unet" in done.stdout
    done = command("export", "recipe.toml", "-o", "brain-unet")
    assert done.returncode == 0, done.stderr
    source = importers.read(Path("recipe.toml"), {}).recipe.networks["net"]
    assert source.factory == "monai:UNet"
    assert source.arguments == {key: list(v) if isinstance(v, tuple) else v for key, v in UNET.items()}
    # The oracle: MONAI's own network on one window, whose intensities have mean 0 and deviation 1.
    head = Volume.from_array(phantom.head((16, 16, 16), 12.0).data, np.eye(4))
    x = torch.from_numpy(head.data.astype(np.float32))
    with torch.no_grad():
        expected = network(((x - x.mean()) / x.std(correction=0))[None, None]).argmax(1)[0].numpy()
    assert 0 < expected.mean() < 1
    assert np.array_equal(Segmenter.load("brain-unet").predict(head).labels.data, expected)


def test_a_torch_network_exports(tiny_network: Tiny, command: Command) -> None:
    shutil.copy(RECIPES / "tiny" / "network.py", "network.py")
    shutil.copy(tiny_network.checkpoint, "model.pt")
    words = ["--framework", "torch", "--factory", "network.py:build", "--argument", "filters=4", *REST]
    done = command("new-recipe", *words, "--shape", "32,32,32", "--intensities", "percentiles", "-o", "mine.toml")
    assert done.returncode == 0, done.stderr
    done = command("export", "mine.toml", "-o", "b")
    assert done.returncode == 0, done.stderr
    assert "predict" not in done.stderr
    assert Segmenter.load("b", lean=True).self_test().passed


@pytest.mark.parametrize(("framework", "file"), [("torchscript", "script.pt"), ("onnx", "graph.onnx")])
def test_a_file_with_its_network_exports(tiny_network: Tiny, command: Command, framework: str, file: str) -> None:
    shutil.copy(tiny_network.weights / file, file)
    words = ["--framework", framework, "--weights", file, "--channels", "t1", "--labels", "brain"]
    assert command("new-recipe", *words, "--shape", "32,32,32", "-q").returncode == 0
    done = command("export", "recipe.toml", "-o", "b")
    assert done.returncode == 0, done.stderr


def test_what_is_written_has_comments_and_what_was_given(command: Command) -> None:
    words = ["--framework", "monai", "--factory", "monai:SegResNet", "--weights", "m.pt", "--channels", "t1, flair"]
    words += ["--labels", "1=edema,4=core", "--scores", "sigmoid", "--shape", "64,64,32", "--spacing", "1,1,2.5"]
    words += ["--orientation", "LPS", "--intensities", "z-score-nonzero"]
    assert command("new-recipe", *words).returncode == 0
    recipe = importers.read(Path("recipe.toml"), {}).recipe
    assert recipe.channels == ("t1", "flair")
    assert recipe.label_names == {1: "edema", 4: "core"}
    assert recipe.networks["net"].arguments == {"spatial_dims": 3, "in_channels": 2, "out_channels": 2}
    stage = recipe.stages[0]
    assert (stage.conform.shape, stage.conform.spacing_mm) == ((64, 64, 32), (1.0, 1.0, 2.5))
    assert stage.conform.orientation == "LPS"
    assert [(one.channel, one.label) for one in stage.decode.regions] == [(0, 1), (1, 4)]  # type: ignore[union-attr]
    assert Path("recipe.toml").read_text().count("\n# ") >= 6


#: Words after `new-recipe`, the exit code, and what the message says.
REFUSED: dict[str, tuple[list[str], int, str]] = {
    "missing": (["--framework", "torch"], 2, "--weights, --channels, --labels, --patch or --shape, --factory: missing; give them, or answer on a terminal"),
    "framework": (["--framework", "keras", *REST, "--patch", "16,16,16", "--factory", "x"], 2, "'keras', expected torch or monai or torchscript or onnx"),
    "framework before all else": (["--framework", "keras"], 2, "'keras', expected torch or monai or torchscript or onnx"),
    "arguments": ([*MONAI[:4], *REST, "--patch", "16,16,16"], 2, "UNet needs channels=VALUE and strides=VALUE; give them, or answer on a terminal"),
    "network": (["--framework", "monai", "--factory", "UNett", *REST, "--patch", "16,16,16"], 1, "network: UNett is no network of monai.networks.nets; did you mean UNet?"),
    "both": ([*MONAI, *REST, "--patch", "16,16,16", "--shape", "16,16,16"], 1, "expected exactly one of a shape"),
    "two numbers": ([*MONAI, *REST, "--patch", "16,16"], 2, "'16,16', expected three numbers"),
    "argument": ([*MONAI, *REST, "--patch", "16,16,16", "--argument", "norm=batch"], 2, "'norm=batch', expected KEY=VALUE in TOML"),
    "labels": ([*MONAI, *REST[:-1], "a=b", "--patch", "16,16,16"], 2, "'a=b', expected names, or VALUE=NAME"),
    "label names": ([*MONAI, *REST[:-1], "White Matter,GM", "--patch", "16,16,16"], 1, "recipe.toml: 2 faults"),
    "factory of a file": (["--framework", "onnx", *REST, "--factory", "x", "--patch", "16,16,16"], 1, "a onnx file holds its network"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_recipe_is_refused_and_nothing_is_written(command: Command, case: str) -> None:
    words, code, message = REFUSED[case]
    done = command("new-recipe", *words)
    assert done.returncode == code, done.stderr
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())
    assert not Path("recipe.toml").exists()


def test_a_recipe_that_exists_is_kept(command: Command) -> None:
    Path("recipe.toml").write_text("mine")
    done = command("new-recipe", *MONAI, *REST, "--patch", "16,16,16")
    assert done.returncode == 1
    assert Path("recipe.toml").read_text() == "mine"
    assert command("new-recipe", *MONAI, *REST, "--patch", "16,16,16", "--force").returncode == 0
    assert Path("recipe.toml").read_text() != "mine"


def answered(answers: bytes) -> None:
    """Answer the questions of new-recipe on a terminal of its own."""
    near, far = pty.openpty()
    words = [sys.executable, "-m", "lowres_seg", "new-recipe", "--labels", "brain"]
    process = subprocess.Popen(words, stdin=far, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.write(near, answers)
    said = process.communicate(timeout=120)[0].decode()
    os.close(near)
    os.close(far)
    assert process.returncode == 0, said


def test_on_a_terminal_it_asks_for_the_arguments_of_monai(tmp_path: Path) -> None:
    answered(b"monai\nUNet\n[4,8,8]\n[2,2]\nnet.pt\nt1\n16,16,16\n")
    source = importers.read(tmp_path / "recipe.toml", {}).recipe.networks["net"]
    assert (source.checkpoint, source.arguments["channels"], source.arguments["strides"]) == ("net.pt", [4, 8, 8], [2, 2])  # fmt: skip


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    answered(b"torch\nnet.py:build\n\nt1,t2\n64,64,64\n")
    recipe = importers.read(tmp_path / "recipe.toml", {}).recipe
    assert recipe.networks["net"].factory == "net.py:build"
    assert recipe.networks["net"].checkpoint == "model.pt"
    assert recipe.channels == ("t1", "t2")
    assert recipe.stages[0].windows is not None
    assert recipe.stages[0].windows.roi_size == (64, 64, 64)


#: Strides of a UNet, the window of the recipe, and what the message says of the sizes that it takes.
SIZES = {
    "all axes": ("[2,2]", "30,32,32", "it takes sides that are multiples of 4, and the recipe gives it [30, 32, 32]: change conform.shape or windows.roi_size, to [32, 32, 32] for example"),
    "some axes": ("[[2,2,1],[2,1,1]]", "18,18,17", "multiples of [4, 2, 1], and the recipe gives it [18, 18, 17]: change conform.shape or windows.roi_size, to [20, 18, 17] for example"),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_the_sizes_that_a_network_takes_are_told(command: Command, case: str) -> None:
    strides, patch, message = SIZES[case]
    words = ["--framework", "monai", "--factory", "UNet", "--argument", "channels=[4,8,8]", "--argument", f"strides={strides}"]  # fmt: skip
    assert command("new-recipe", *words, *REST, "--patch", patch).returncode == 0
    entry = importers.read(Path("recipe.toml"), {}).recipe.networks["net"]
    torch.save(seeded(importers.importer("monai").network("UNet", entry.arguments)).state_dict(), "model.pt")
    done = command("export", "recipe.toml", "-o", "b", "-q")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not Path("b").exists()
