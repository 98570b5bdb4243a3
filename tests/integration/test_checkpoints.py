"""Files of weights as other people save them: found, chosen, converted, or refused in one line."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg import Bundle, ExportError, InputError
from lowres_seg.export import export
from lowres_seg.export.frameworks.checkpoints import checkpoint, kind_of
from lowres_seg.export.frameworks.torch_network import with_state

from .conftest import RECIPES, Command, Tiny, factory, seeded

TINY = RECIPES / "tiny" / "recipe.toml"
State = dict[str, torch.Tensor]


def net() -> Any:
    return factory(TINY)()


def state(seed: int = 0) -> State:
    return dict(seeded(net(), seed).state_dict())


def behind(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in tensors.items()}


def loaded(path: Path, key: str | None = None) -> Any:
    """The tiny network with the state of a file."""
    return with_state(net(), checkpoint(path), key, path, "network.py:build")


def saved(folder: Path, content: object, name: str = "weights.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def safetensors(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> Path:
    """A file of safetensors, written by its specification."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, raw) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values()))
    return path


def raw(tensors: State, kind: torch.dtype = torch.float32) -> dict[str, tuple[str, list[int], bytes]]:
    code = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[kind]
    return {
        name: (code, list(value.shape), value.to(kind).contiguous().view(torch.uint8).numpy().tobytes())
        if value.is_floating_point()
        else ("I64", list(value.shape), value.numpy().tobytes())
        for name, value in tensors.items()
    }


def inside(tensors: State) -> dict[str, torch.Tensor]:
    """Names as they are if parts of a network were wrapped, each in its own way."""
    return {
        name.replace("first.", "first._orig_mod.").replace("last.", "last.module."): v for name, v in tensors.items()
    }


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
#: What the file holds around the state, and the key that is reported.
WRAPS: dict[str, tuple[Callable[[State], Any], str]] = {
    "bare": (lambda s: s, "."),
    "bare with counters": (lambda s: {"epoch": 3, "best": 0.9, **s}, "."),
    "model_state_dict": (lambda s: {"model_state_dict": s, "optimizer": OPTIMIZER}, "model_state_dict"),
    "model": (lambda s: {"model": s, "epoch": 1}, "model"),
    "net": (lambda s: {"net": s}, "net"),
    "network_weights": (lambda s: {"network_weights": s, "init_args": {}}, "network_weights"),
    "an unusual key": (lambda s: {"my weights": s}, "my weights"),
    "lightning": (
        lambda s: {
            "state_dict": {**behind("model.", s), "loss.weight": torch.ones(2)},
            "pytorch-lightning_version": "2.4",
            "callbacks": {"ModelCheckpoint{'monitor': 'a.b'}": {"best_model_score": torch.tensor(0.9)}},
            "optimizer_states": [OPTIMIZER],
        },
        "state_dict.model",
    ),
    "lightning of another name": (lambda s: {"state_dict": behind("unet.", s)}, "state_dict.unet"),
    "data parallel": (lambda s: behind("module.", s), "module"),
    "compiled": (lambda s: behind("_orig_mod.", s), "_orig_mod"),
    "all of them": (
        lambda s: {"state_dict": behind("model.module._orig_mod.", s)}, "state_dict.model.module._orig_mod"
    ),
    "averaged model": (lambda s: {"n_averaged": torch.tensor(3), **behind("module.", s)}, "module"),
    "twice the same": (lambda s: {"state_dict": s, "model": {k: v.clone() for k, v in s.items()}}, "state_dict"),
    "a list of one": (lambda s: {"models": [s]}, "models.0"),
    "parts by name": (
        lambda s: {
            part: {name.partition(".")[2]: v for name, v in s.items() if name.startswith(f"{part}.")}
            for part in {name.partition(".")[0] for name in s}
        },
        ".",
    ),
    "parts that are wrapped": (lambda s: {"state_dict": behind("model.", inside(s))}, "state_dict.model"),
    "norms without counters": (
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}, "."
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_state_is_found_in_its_wraps(tmp_path: Path, wrap: str) -> None:
    make, key = WRAPS[wrap]
    found = loaded(saved(tmp_path, make(state())))
    assert found.weights_key == key
    for name, value in found.module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state()[name])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    path = saved(tmp_path, {k: v.to(kind) if v.is_floating_point() else v for k, v in state().items()})
    found = loaded(path).module.state_dict()
    assert found["first.weight"].dtype == torch.float32
    assert torch.equal(found["first.weight"], state()["first.weight"].to(kind).float())


def test_a_network_of_half_precision_is_filled_in_float32(tmp_path: Path) -> None:
    found = with_state(net().half(), state(), None, tmp_path, "f").module.state_dict()
    assert torch.equal(found["first.weight"], state()["first.weight"])


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.npz", "weights"])
def test_safetensors_are_known_by_their_header(tmp_path: Path, kind: torch.dtype, name: str) -> None:
    path = safetensors(tmp_path / name, raw(behind("model.", state()), kind))
    assert kind_of(path) == "checkpoint"
    found = loaded(path)
    assert found.weights_key == "model"
    assert torch.equal(found.module.state_dict()["last.bias"], state()["last.bias"].to(kind).float())


def test_an_npz_is_known_by_its_content(tmp_path: Path) -> None:
    with (tmp_path / "weights.pt").open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in state().items()})
    assert torch.equal(loaded(tmp_path / "weights.pt").module.state_dict()["last.bias"], state()["last.bias"])


def test_a_real_file_of_safetensors_under_another_name(realdata: Path) -> None:
    path = realdata / "networks" / "meshnet_50" / "model.pth"
    if not path.is_file():
        pytest.skip(f"no {path.name} of meshnet_50")
    layers = [nn.Conv3d(1 if n == 0 else 30, 30, 3) for n in range(9)] + [nn.Conv3d(30, 50, 1)]
    found = checkpoint(path)
    assert sum(value.size for value in found.values()) == sum(p.numel() for m in layers for p in m.parameters())


def test_arrays_of_numpy_lie_beside_weights(tmp_path: Path) -> None:
    losses = {"all": np.linspace(0, 1, 5), "best": np.float32(0.1)}
    assert loaded(saved(tmp_path, {"model": state(), "losses": losses})).weights_key == "model"


EMA = {"state_dict": behind("model.", state(0)), "ema_state_dict": {"module": state(1)}, "decay": 0.99}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (EMA, "state_dict.model, ema_state_dict.module"),
        ({"model": state(0), "model_ema": state(1)}, "model, model_ema"),
        ({"ema": behind("_orig_mod.", state(0)), "net": state(1), "old": state(2)}, "ema._orig_mod, net, old"),
        ({"state_dict": {**behind("student.", state(0)), **behind("teacher.", state(1))}}, "state_dict.student, state_dict.teacher"),
        ({**state(0), "ema": state(1)}, "., ema"),
    ],
)  # fmt: skip
def test_several_states_are_a_choice(tmp_path: Path, content: dict[str, Any], named: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(ExportError, match="different states fit the network of network.py:build: ") as caught:
        loaded(path)
    assert f": {named}; choose one with --weights-key KEY" in str(caught.value)
    for place, key in enumerate(named.split(", ")):
        found = loaded(path, key).module.state_dict()["last.bias"]
        assert any(torch.equal(found, state(seed)["last.bias"]) for seed in range(3)), place


def test_the_option_and_the_recipe_choose_alike(tmp_path: Path, command: Command) -> None:
    path = saved(tmp_path, {"model_state_dict": behind("module.", state(0)), "ema": state(1)})
    by_recipe, by_option = tmp_path / "a", tmp_path / "b"
    export(path, by_recipe, recipe=TINY)  # its checkpoint_key is model_state_dict
    done = command("export", path, "--recipe", TINY, "-o", by_option, "--weights-key", "ema", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["networks"]["net"]["weights_key"] == "ema"
    report = json.loads((by_recipe / "reports" / "export.json").read_text())
    assert report["networks"]["net"]["weights_key"] == "model_state_dict.module"
    assert Bundle.open(by_recipe).manifest.files != Bundle.open(by_option).manifest.files


def test_a_key_without_a_checkpoint_is_refused(tiny_network: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--weights-key ema: no network comes from a checkpoint, so leave it out"):
        export(tiny_network.torchscript, tmp_path / "out", recipe=TINY, weights_key="ema")


@pytest.mark.parametrize("source", ["none.pt", "weights.pt"])
def test_a_missing_folder_of_the_output_is_told_first(tmp_path: Path, source: str) -> None:
    saved(tmp_path, {"no": "weights"})
    with pytest.raises(InputError, match=r"absent/out: its folder .*absent does not exist; create it first"):
        export(tmp_path / source, tmp_path / "absent" / "out", recipe=TINY)


def test_the_top_key_is_enough_for_a_wrapped_state(tmp_path: Path) -> None:
    path = saved(tmp_path, EMA)
    assert torch.equal(loaded(path, "ema_state_dict").module.state_dict()["last.bias"], state(1)["last.bias"])
    assert loaded(path, "state_dict").weights_key == "state_dict.model"


def changed(**changes: Any) -> State:
    return {**state(), **{name.replace("__", "."): value for name, value in changes.items()}}


#: States that do not fit, and what the one line says.
MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "int8": (lambda: changed(first__weight=torch.ones(4, 1, 3, 3, 3, dtype=torch.int8)), "first.weight holds int8, the network of network.py:build expects float32"),
    "int64": (lambda: changed(last__bias=torch.ones(2, dtype=torch.int64)), "last.bias holds int64"),
    "bool": (lambda: changed(last__bias=torch.ones(2, dtype=torch.bool)), "last.bias holds bool"),
    "complex": (lambda: changed(last__bias=torch.ones(2, dtype=torch.complex64)), "last.bias holds complex64"),
    "float8": (lambda: changed(last__bias=torch.ones(2).to(torch.float8_e4m3fn)), "last.bias holds float8_e4m3fn"),
    "numpy integers": (lambda: changed(last__bias=np.ones(2, np.int32)), "last.bias holds int32"),
    "a missing key behind a prefix": (lambda: {"state_dict": behind("model.", {k: v for k, v in state().items() if k != "last.bias"})}, "1 keys missing (last.bias), 0 keys unexpected; the likely prefix of its names is 'state_dict.model.'"),
    "an unexpected key behind a prefix": (lambda: behind("module.", changed(more=torch.ones(1))), "0 keys missing, 1 keys unexpected (more); the likely prefix of its names is 'module.'"),
    "another network": (lambda: nn.Conv3d(1, 1, 1).state_dict(), "unexpected (bias, weight); none has a name of the network's"),
    "no tensors": (lambda: {"epoch": 3}, "does not fit the network"),
    "shapes behind a prefix": (lambda: behind("net.", changed(first__weight=torch.ones(4, 2, 3, 3, 3))), "first.weight has shape (4, 2, 3, 3, 3), the network of network.py:build expects (4, 1, 3, 3, 3)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_a_state_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = MISFITS[case]
    path = saved(tmp_path, make())
    with pytest.raises(ExportError) as caught:
        loaded(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_there_is_told_with_those_that_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, EMA)
    with pytest.raises(
        ExportError, match="has no 'model', where the weights are expected; found state_dict, ema"
    ) as caught:
        loaded(path, "model")
    assert "the network fits state_dict.model, ema_state_dict.module: name it with --weights-key" in str(caught.value)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


def cut(path: Path, left: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    return path


def spoilt(path: Path) -> Path:
    """An archive whose directory is whole, and whose weights are not."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(next(n for n in archive.namelist() if n.endswith("data/0"))).header_offset
    content[at : at + 4] = b"oops"
    path.write_bytes(content)
    return path


def exported(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(
            torch.export.export(nn.Conv3d(1, 2, 1).eval(), (torch.zeros(1, 1, 8, 8, 8),)), folder / "a.pt2"
        )
    return folder / "a.pt2"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "a.pt"


#: Files that hold no weights that can be read, and what the one line says.
BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a whole network": (lambda f: saved(f, net()), "holds more than weights, which is "),
    "code beside weights": (lambda f: saved(f, {"model": state(), "more": Evil(f / "evil")}), "holds more than weights, which is "),
    "a legacy file with code": (lambda f: (torch.save(Evil(f / "evil"), f / "a.pt", _use_new_zipfile_serialization=False), f / "a.pt")[1], "holds more than weights, which is "),
    "cut off": (lambda f: cut(saved(f, state()), 0.5), "has no end, so it is cut off; fetch it again"),
    "cut off early": (lambda f: cut(saved(f, state()), 0.05), "has no end, so it is cut off; fetch it again"),
    "damaged within": (lambda f: spoilt(saved(f, state())), "cannot be read as a checkpoint (the archive is damaged"),
    "torch.export": (exported, "holds a program of torch.export (.pt2), expected a state_dict, TorchScript or ONNX"),
    "another archive": (zipped, "cannot be read as a checkpoint"),
    "safetensors cut off": (lambda f: cut(safetensors(f / "a.safetensors", raw(state())), 0.9), "is cut off: "),
    "safetensors of another kind": (lambda f: safetensors(f / "a.safetensors", {"w": ("F8_E4M3", [1], b"1")}), "w holds F8_E4M3, expected F32, F16, BF16 or F64"),
    "safetensors with lies": (lambda f: safetensors(f / "a.safetensors", {"w": ("F32", [5], b"1234")}), "w does not have the bytes of its shape (5,)"),
    "safetensors without a header": (lambda f: (f.joinpath("a.pt").write_bytes(struct.pack("<Q", 9) + b"{nothing}"), f / "a.pt")[1], "begins as a safetensors file and its header is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_without_weights_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = BROKEN[case]
    path = make(tmp_path)
    with pytest.raises(ExportError) as caught:
        export(path, tmp_path / "out", recipe=TINY)
    told = str(caught.value)
    assert message in told
    assert str(path) in told
    assert "\n" not in told
    assert "miniz" not in told
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out").exists()
