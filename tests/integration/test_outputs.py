"""Networks that give several outputs, more channels than are decoded, or nothing that can be converted."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowres_seg import ExportError, Segmenter
from lowres_seg.export import export, phantom

from .conftest import RECIPES, Command, Tiny

TINY = RECIPES / "tiny"


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    """The tiny recipe with some texts replaced."""
    home = folder / "recipe"
    shutil.copytree(TINY, home, ignore=shutil.ignore_patterns("__pycache__"))
    text = (home / "recipe.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (home / "recipe.toml").write_text(text)
    return home / "recipe.toml"


def said(bundle: Path) -> Any:
    return json.loads((bundle / "reports" / "export.json").read_text())["networks"]["net"]["output"]


DEEP = "output 0 of 2 (first of a list, at full resolution: deep supervision)"
#: Factory, the recipe's `output`, and what the report says.
TAKEN = {
    "deep supervision": ("deeply_supervised", "", DEEP),
    "last": ("lowest_first", "output = 1", "output 1 of 2 (named by the recipe)"),
    "by name": ("two_heads", 'output = "scores"', "output scores of 2 (named by the recipe)"),
    "by place in a dictionary": ("two_heads", "output = 0", "output scores of 2 (named by the recipe)"),
    "one tensor": ("build", "output = 0", None),
}


@pytest.fixture(scope="module")
def plain(tiny_network: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    bundle = tmp_path_factory.mktemp("plain") / "b"
    export(tiny_network.recipe, bundle, weights=tiny_network.weights)
    return Segmenter.load(bundle).predict(phantom.head((20, 23, 22), 8.0)).labels.data


@pytest.mark.parametrize("case", TAKEN)
def test_the_output_with_the_scores_is_taken(tiny_network: Tiny, tmp_path: Path, plain: Any, case: str) -> None:
    name, key, expected = TAKEN[case]
    recipe = edited(tmp_path, ("py:build", f"py:{name}"), ("[networks.net]", f"[networks.net]\n{key}"))
    export(recipe, tmp_path / "out", weights=tiny_network.weights)
    assert said(tmp_path / "out") == expected
    found = Segmenter.load(tmp_path / "out").predict(phantom.head((20, 23, 22), 8.0)).labels.data
    assert (found == plain).all()


class Many(nn.Module):
    """Gives what `kind` says; the scores are a sigmoid of the intensity."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        full = torch.softmax(self.conv(x), 1)
        half = full[..., ::2, ::2, ::2]
        return {
            "list": lambda: [full, half],
            "tuple": lambda: (full, half),
            "dict": lambda: {"main": full, "aux": half},
            "nested": lambda: (half, (full, half)),
            "lowest first": lambda: (half, full),
            "two heads": lambda: (full, full[:, :1]),
            "and a class": lambda: (full, full.mean((2, 3, 4))),
            "alone": lambda: [full],
        }[self.kind]()


def script(folder: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), torch.rand(1, 1, 32, 32, 32), strict=False).save(folder / "script.pt")
    return folder / "script.pt"


def onnx(folder: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.rand(1, 1, 32, 32, 32)
        torch.onnx.export(
            module.eval(),
            (x,),
            folder / "graph.onnx",
            output_names=["a", "b"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return folder / "graph.onnx"


@pytest.mark.parametrize(
    ("make", "kind", "key", "expected"),
    [
        (script, "list", "", DEEP),
        (script, "tuple", "", DEEP),
        (script, "and a class", "", DEEP),
        (script, "alone", "", None),
        (script, "dict", 'output = "main"', "output main of 2 (named by the recipe)"),
        (script, "lowest first", "output = 1", "output 1 of 2 (named by the recipe)"),
        (script, "nested", 'output = "1.0"', "output 1.0 of 3 (named by the recipe)"),
        (onnx, "tuple", "", DEEP.replace("0", "a", 1)),
        (onnx, "lowest first", 'output = "b"', "output b of 2 (named by the recipe)"),
        (onnx, "lowest first", "output = 1", "output b of 2 (named by the recipe)"),
    ],
)
def test_files_that_give_several(
    tmp_path: Path, make: Callable[[Path, nn.Module], Path], kind: str, key: str, expected: str | None
) -> None:
    recipe = edited(tmp_path, ("[networks.net]", f"[networks.net]\n{key}"))
    export(make(tmp_path, Many(kind)), tmp_path / "out", recipe=recipe)
    assert said(tmp_path / "out") == expected


ALL = "expected one output (1, C, D, H, W); say which one in the recipe: output = NAME or INDEX"
FULL, HALF, ONE = (1, 2, 32, 32, 32), (1, 2, 16, 16, 16), (1, 1, 32, 32, 32)


@pytest.mark.parametrize(
    ("make", "kind", "key", "message"),
    [
        (script, "dict", "", f"the network gives main {FULL}, aux {HALF}, {ALL}"),
        (script, "lowest first", "", f"the network gives 0 {HALF}, 1 {FULL}, {ALL}"),
        (script, "two heads", "", f"the network gives 0 {FULL}, 1 {ONE}, {ALL}"),
        (script, "tuple", "output = 2", f"the network has no output 2, it gives 0 {FULL}, 1 {HALF}"),
        (script, "dict", 'output = "out"', f"the network has no output 'out', it gives main {FULL}, aux {HALF}"),
        (onnx, "lowest first", "", f"graph.onnx: the network gives a {HALF}, b {FULL}, {ALL}"),
        (onnx, "two heads", 'output = "c"', f"the network has no output 'c', it gives a {FULL}, b {ONE}"),
    ],
)
def test_outputs_that_are_no_choice_are_listed(
    tmp_path: Path, make: Callable[[Path, nn.Module], Path], kind: str, key: str, message: str
) -> None:
    recipe = edited(tmp_path, ("[networks.net]", f"[networks.net]\n{key}"))
    with pytest.raises(ExportError) as caught:
        export(make(tmp_path, Many(kind)), tmp_path / "out", recipe=recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


REGION = 'decode = { kind = "regions", regions = [{ channel = 1, label = 1 }] }'


class Channels(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.conv(x), 1)


@pytest.mark.parametrize(
    ("channels", "decode", "message"),
    [
        (4, 'decode = { kind = "argmax", labels = [0, 1] }', "gives 4 channels of scores, and the recipe's decode.labels does not name channel 2, 3; expected all of them"),
        (4, REGION, "gives 4 channels of scores, and the recipe's decode.regions does not name channel 2, 3"),
        (2, 'decode = { kind = "argmax", labels = [0, 1, 1] }', "gives 2 channels of scores, the recipe's decode.labels names channel 2 too"),
        (1, REGION, "gives 1 channels of scores, the recipe's decode.regions names channel 1 too"),
        (3, 'decode = { kind = "argmax", labels = [0, 1, 0] }', None),
        (1, REGION.replace("channel = 1", "channel = 0"), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [script])
def test_no_channel_is_dropped_in_silence(
    tmp_path: Path, make: Callable[[Path, nn.Module], Path], channels: int, decode: str, message: str | None
) -> None:
    recipe = edited(tmp_path, (REGION, decode))
    source = make(tmp_path, Channels(channels))
    if message is None:
        export(source, tmp_path / "out", recipe=recipe)
        return
    with pytest.raises(ExportError) as caught:
        export(source, tmp_path / "out", recipe=recipe)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.small(x)
        return self.large(x)


class Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = 0
        while bool(x.sum() < 10) and steps < 3:
            x = torch.cat([x, x], 1)
            steps += 1
        return x


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] > 4:
            raise ValueError("this network\nexpects sides of 4")
        return torch.cat([x, x], 1)


class Points(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x)[None, None, None].float()


#: Networks that cannot be converted as TorchScript, and the cause in the one line.
NO_SCRIPT: dict[str, tuple[type[nn.Module], str]] = {
    "if": (Branch, "its shape depends on values, because it has an if"),
    "loop": (Loop, "because it has a loop"),
    "operator": (Unknown, "No conversion rule found for operations: aten::special_bessel_j0"),
    "exception": (Raises, "this network expects sides of 4"),
    "points": (Points, "because it has a nonzero or a mask as an index"),
}


@pytest.mark.parametrize("case", NO_SCRIPT)
def test_the_cause_of_a_failed_conversion_is_one_line(tmp_path: Path, command: Command, case: str) -> None:
    kind, message = NO_SCRIPT[case]
    torch.jit.script(kind().eval()).save(tmp_path / "script.pt")
    done = command("export", tmp_path / "script.pt", "--recipe", TINY / "recipe.toml", "-o", tmp_path / "out", "-q")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: network net: ")
    assert message in done.stderr
    for strange in ("Traceback", ".cpp", "full stack trace", str(tmp_path / ".out")):
        assert strange not in done.stderr


NO_FACTORY = """
from torch import nn, special
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv3d(1, 2, 1)
    def forward(self, x):
        {body}
def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return self.a(x) if x.sum() >= 0 else self.a(x)[:, :1]", "torch cannot trace the network: its code branches on values of its input or computes with them in Python, at network.py, line 8 (return"),
        ("return special.bessel_j0(self.a(x))", "No conversion rule found for operations: aten::special_bessel_j0"),
        ("raise KeyError('no such\\nlayer')", "no such"),
        ("return None", "the network gives no tensor, expected one output (1, C, D, H, W)"),
        ("return self.a(x).mean((2, 3, 4))", "gives one number for each of 2 channels, and the recipe decodes regions"),
        ("return self.a(x).mean((2, 3))", "the network gives [1,2,32], expected one output (1, C, D, H, W), or (1, C) of classes"),
    ],
)  # fmt: skip
def test_the_cause_of_a_factorys_failure_is_one_line(tmp_path: Path, command: Command, body: str, message: str) -> None:
    recipe = edited(tmp_path, ('checkpoint_key = "model_state_dict"\n', ""))
    (recipe.parent / "network.py").write_text(NO_FACTORY.replace("{body}", body))
    torch.save({"a.weight": torch.ones(2, 1, 1, 1, 1), "a.bias": torch.zeros(2)}, tmp_path / "tiny.pt")
    done = command("export", recipe, "--weights", tmp_path, "-o", tmp_path / "out", "-q")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    for strange in ("Traceback", ".cpp", "full stack trace", str(tmp_path / ".out")):
        assert strange not in done.stderr


def test_an_onnx_file_that_cannot_be_converted_is_named_itself(tmp_path: Path, command: Command) -> None:
    source = onnx(tmp_path, Points())
    done = command("export", source, "--recipe", TINY / "recipe.toml", "-o", tmp_path / "out", "-q")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path / ".out") not in done.stderr
