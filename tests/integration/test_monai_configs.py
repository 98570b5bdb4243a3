"""How configurations of MONAI bundles are read, against MONAI's own parser and the bundles of its model zoo."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lowres_seg.bundle.bundle import Bundle, file_sha256
from lowres_seg.errors import ExportError
from lowres_seg.export import export, importers
from lowres_seg.export.importers import (
    monai_bundle,
    monai_classes,
    monai_files,
    monai_names,
    monai_network,
    monai_weights,
)
from lowres_seg.export.importers.monai_config import Config

from .conftest import beside, run

pytest.importorskip("monai")
bundles = beside("monai_bundles")

Content = dict[str, Any]
Edit = Callable[[Content, Content], object]


def _parser() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import ConfigParser
    return ConfigParser


def _config(folder: Path, content: Content, metadata: Content | None = None) -> Config:
    (folder / "configs").mkdir(exist_ok=True)
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps(content))
    return Config([path], folder, metadata or {})


def _bundle(tmp_path: Path, edit: Edit = lambda m, i: None) -> Path:
    return bundles.write(tmp_path / "b", bundles.brats(filters=8), edit=edit)


def _read(folder: Path, **options: Any) -> importers.Source:
    return importers.read(folder, options)


FILES: list[Content] = [
    {"a": {"b": [1, 2], "c": "@a#b"}, "list": [{"x": 1}], "number": 1},
    {"a#b": [3], "list#0#x": 2, "+list": [{"y": 3}], "+a": {"d": "@##number", "e": {"f": "%a#b", "g": "@#f"}}},
    {"number": 2, "+new": 4, "copy": "%a", "part": "%list::0", "plain": "50% @ home #1", "expr": "$@a#b[0] + @number"},
]


def test_files_are_merged_as_monai_merges_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.json" for index in range(3)]
    paths[1] = paths[1].with_suffix(".yaml")
    for path, content in zip(paths, FILES, strict=True):
        path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    kind = _parser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = kind()
        parser.read_config(paths)
        assert monai_files.merged(paths, {})[0] == parser.config
        parser.resolve_macro_and_relative_ids()
    found, origins = monai_files.merged(paths, {})
    monai_files.resolve_macros(found, tmp_path, paths[0])
    found["plain"] = found["plain"].replace("#", "::")  # MONAI's ids change texts too
    found["a"]["c"] = found["a"]["c"].replace("#", "::")
    assert found == parser.config
    assert (origins["a"], origins["number"]) == (paths[1], paths[2])


#: Expressions, and references, whose values MONAI computes too.
VALUES: Content = {
    "root": ".", "size": 96, "sizes": [96, 64, 32], "nested": {"a": [1, {"b": "deep"}]}, "yes": True, "no": False,
    "r1": "@size", "r2": "@nested#a#1#b", "r3": "@nested::a::0", "r4": "@r2", "r5": "$@r2 + '!'", "text": "a@b.org",
    "e1": "$@root + '/models/' + 'model.pt'", "e2": "$@size // 2 - 1", "e3": "$[@size, @sizes[1]] + [1] * 2",
    "e4": "$@sizes[0] if @yes and not @no else 0", "e5": "$'a' if @size > 100 else 'b'", "e6": "$len(@sizes)",
    "e7": "$@sizes[::-1]", "e8": "$-@size / 3.0 ** 2", "e9": "$(1, 2)", "e10": "${'a': @size}", "e11": "$@size == 96 != 1",
    "e12": "$os.path.join(@root, 'models', 'm.pt')", "e13": "$max(@sizes) % 7", "e14": "$'x' in ['x', 'y']",
    "e15": "$monai.utils.CommonKeys.IMAGE", "e16": "$Keys.PRED", "e17": "$monai.utils.enums.BlendMode.GAUSSIAN",
    "e18": "$torch.cuda.is_available() and 1", "e19": "$str(@size) + '-' + str(1.5)", "e20": "$@nested#a[1]['b']",
    "e21": "$None if @no or None is None else 1", "e22": "$int(@size / 7)", "e23": "$@e3[0] * 2", "e24": "$p.join('a', 'b')",
    "e28": "$[n // 2 for n in @sizes if n != 64]", "e29": "$[f'pred_{i}' for i in range(@size // 32)]",
    "e30": "$[[a, b] for a in (1, 2) for b in 'xy']", "e31": "$tuple(n * 2 for n in @sizes)",
    "e32": "$[i + n for i, n in enumerate(@sizes)]", "e33": "$[a * b for a, b in zip(@sizes, (1, 2, 3))]",
    "e34": "$monai.networks.layers.Norm.BATCH", "e35": "$[Act.PRELU, factories.Conv.CONVTRANS, Pool.MAX]",
    "e36": "$(Norm.GROUP, {'num_groups': 2})", "e37": "$[[x for x in range(n)] for n in range(3)]",
    "e25": "$tuple(@sizes) + (1,)", "e26": "$abs(-2) + round(2.6) + min(1, 2)", "e27": "$@_meta_#version",
    "imports": ["$import os", "$import os.path as p", "$from monai.utils import CommonKeys as Keys", "$import monai",
                *(f"$from monai.networks.layers import {name}" for name in ("factories", "Act", "Norm", "Pool"))],
}  # fmt: skip


def test_values_are_monais(tmp_path: Path) -> None:
    config = _config(tmp_path, VALUES, {"version": "1.2"})
    parser = _parser()({**copy.deepcopy(VALUES), "_meta_": {"version": "1.2"}})
    for key in VALUES:
        if key != "imports":
            expected = parser.get_parsed_content(key)
            found = config.used(config.at(key))
            assert found == (list(expected) if isinstance(expected, tuple) else expected), key
    assert config.at("e34") == "BATCH"
    assert config.at("absent") is None


def test_values_that_stand_for_others(tmp_path: Path) -> None:
    config = _config(tmp_path, {
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "type": "$np.float32", "type2": "$torch.uint8", "type3": "$torch.half",
        "net": {"_target_": "UNet", "act": {"_target_": "torch.nn.ReLU", "_disabled_": True}, "_requires_": "$evil()"},
        "moved": "$@net.to(@device)", "func": "$lambda x: x + 1", "off": {"_target_": "A", "_disabled_": "$@yes and not False"},
        "yes": True, "chain": {"_target_": "Compose", "transforms": ["@off", {"_target_": "BD", "keys": "@yes"}]},
    })  # fmt: skip
    assert [config.at(key) for key in ("device", "type", "type2", "type3")] == ["cpu", "float32", "uint8", "float16"]
    assert config.at("func") == "$lambda x: x + 1"
    # An argument that is switched off is none, as in MONAI.
    assert config.at("moved") == {"_target_": "UNet", "_requires_": "$evil()"}
    assert [(name, given) for _, name, given in config.transforms("chain")] == [("Bd", {"keys": True})]


def test_arrays_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    codes = bundles.search_codes(tmp_path / "models" / "search_code.pt", 2, 2)
    config = _config(tmp_path, bundles.dints())
    arguments = config.used(config.at("network_def"))
    json.dumps(arguments)  # plain data
    space = monai_classes.built(arguments["dints_space"]["arch_code"], "x")
    assert all(np.array_equal(a, codes[key]) for a, key in zip(space, ("arch_code_a", "arch_code_c"), strict=True))
    node = monai_classes.built(arguments["node_a"], "x")
    assert isinstance(node, torch.Tensor)
    assert torch.equal(node, torch.from_numpy(codes["node_a"]))
    assert arguments["dints_space"]["device"] == "cpu"


def test_roles_are_those_of_the_evaluator(tmp_path: Path) -> None:
    evaluator = {
        "_target_": "monai.engines.SupervisedEvaluator", "network": "$@net_2.to(@device)", "inferer": "@inferer_2",
        "val_data_loader": {"_target_": "DataLoader", "dataset": "@data"}, "postprocessing": {"_target_": "Compose"},
    }  # fmt: skip
    content = {
        "device": "cpu", "network_def": {"_target_": "A"}, "net_2": {"_target_": "B"}, "inferer": {"_target_": "C"},
        "inferer_2": "@inferer_3", "inferer_3": {"_target_": "D", "x": "$1 + 1"}, "preprocessing": {"_target_": "E"},
        "data": {"_target_": "CacheDataset", "data": "$evil()", "transform": "@pre"}, "pre": {"_target_": "F"},
    }  # fmt: skip
    for place in ("evaluator", "validate", "mine"):
        config = _config(tmp_path, {**content, place: {"evaluator": evaluator} if place == "validate" else evaluator})
        roles = {name: config.role(name) for name in ("network", "inferer", "preprocessing", "postprocessing")}
        key = "validate#evaluator" if place == "validate" else place
        assert {name: role and (role.key, role.entry) for name, role in roles.items()} == {
            "network": (f"{key}#network", {"_target_": "B"}), "inferer": ("inferer_3", {"_target_": "D", "x": 2}),
            "preprocessing": ("pre", {"_target_": "F"}),
            "postprocessing": (f"{key}#postprocessing", {"_target_": "Compose"}),
        }  # fmt: skip
    # What an evaluator is not given, MONAI's evaluator does not do.
    config = _config(tmp_path, {**content, "evaluator": {"_target_": "SupervisedEvaluator", "network": "@net_2"}})
    assert config.role("postprocessing") is None
    assert config.role("inferer").entry == {"_target_": "SimpleInferer"}
    assert config.role("preprocessing").key == "preprocessing"
    config = _config(tmp_path, content)
    assert config.role("network").entry == {"_target_": "A"}
    assert config.role("inferer").entry == {"_target_": "C"}


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_yaml_says_the_same(tmp_path: Path, suffix: str) -> None:
    folder = _bundle(tmp_path)
    expected = _read(folder).recipe
    path = folder / "configs" / "inference.json"
    path.with_suffix(f".{suffix}").write_text(yaml.safe_dump(json.loads(path.read_text())))
    path.unlink()
    assert _read(folder).recipe == expected


def test_further_files_add_to_the_first(tmp_path: Path) -> None:
    folder = _bundle(tmp_path)
    before = _read(folder)
    (folder / "more.yaml").write_text(
        "inferer#roi_size: [64, 64, 64]\nimage_key: image\n+network_def: {dropout_prob: 0.1}\n"
    )
    found = _read(folder, config_files=["inference.json", "more.yaml"])
    assert found.recipe.stages[0].windows.roi_size == (64, 64, 64)
    assert found.recipe.networks["net"].arguments["dropout_prob"] == 0.1
    assert found.options["config_files"] == ["inference.json", "more.yaml"]
    assert found.digest != before.digest == importers.digest(folder)
    with pytest.raises(
        ExportError, match=r"has no configuration absent.json; configs has inference.json, metadata.json"
    ):
        _read(folder, config_files=["absent.json"])


NETWORKS: dict[str, tuple[Content, list[str]]] = {
    "short name": ({"_target_": "SegResNet", "init_filters": 8, "in_channels": 4, "out_channels": 3}, []),
    "full name": ({"_target_": "monai.networks.nets.segresnet.SegResNet", "in_channels": 4, "out_channels": 3, "init_filters": 8}, []),
    "alias": ({"_target_": "Basicunet", "in_channels": 4, "out_channels": 3, "features": [4, 4, 4, 4, 4, 4]}, []),
    "a norm with arguments": ({"_target_": "SegResNet", "init_filters": 8, "in_channels": 4, "out_channels": 3, "norm": ["group", {"num_groups": 4}]}, []),
    "a tuple": ({"_target_": "SegResNet", "init_filters": 8, "in_channels": 4, "out_channels": 3, "act": "$('leakyrelu', {'negative_slope': 0.2})"}, []),
    "expressions": ({"_target_": "UNet", "spatial_dims": 3, "in_channels": "$len(@inferer#roi_size) + 1", "out_channels": 3, "channels": "$[4, 8] + [16]", "strides": "$(2,) * 2"}, []),
    "a layer": ({"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 4, "out_channels": 3, "channels": [4, 8], "strides": [2], "act": ["prelu", {"init": 0.1}]}, []),
    "a dropped argument": ({"_target_": "SwinUNETR", "img_size": [64, 64, 64], "in_channels": 4, "out_channels": 3, "feature_size": 12, "use_checkpoint": True}, ["SwinUNETR of the installed MONAI takes no img_size (it was [64, 64, 64])"]),
    "a renamed argument": ({"_target_": "UNet", "dimensions": 3, "in_channels": 4, "out_channels": 3, "channels": [4, 8], "strides": [2]}, ["UNet of the installed MONAI calls dimensions spatial_dims"]),
    "a deprecated argument": ({"_target_": "VNet", "in_channels": 4, "out_channels": 3, "dropout_prob": 0.2}, ["MONAI has deprecated dropout_prob of VNet"]),
    "several": ({"_target_": "DynUNet", "spatial_dims": 3, "in_channels": 4, "out_channels": 3, "kernel_size": [3, [3, 3, 1], 3], "strides": [1, [2, 2, 1], 2], "upsample_kernel_size": [[2, 2, 1], 2], "filters": [4, 8, 8], "norm_name": ["instance", {"affine": True}]}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_of_every_kind(tmp_path: Path, case: str) -> None:
    entry, notes = NETWORKS[case]
    folder = _bundle(tmp_path, lambda m, i: i.update(network_def=entry))
    found = _read(folder)
    source = found.recipe.networks["net"]
    json.dumps(source.arguments)
    assert len(found.notes) == len(notes)
    assert all(expected in note for expected, note in zip(notes, found.notes, strict=True))
    network = monai_bundle.network((source.factory or "").partition(":")[2], source.arguments).eval()
    with torch.no_grad():
        size = 64 if source.factory == "monai:SwinUNETR" else 32
        assert network(torch.zeros(1, 4, size, size, size)).shape == (1, 3, size, size, size)


def test_dints_of_a_search(tmp_path: Path) -> None:
    folder = _bundle(tmp_path, lambda m, i: i.update(bundles.dints()))
    with pytest.raises(
        ExportError, match=r"arch_ckpt is the expression .*loads ./models/search_code.pt, which is missing$"
    ):
        _read(folder)
    (folder / "large_files.yml").write_text("large_files:\n- path: models/search_code.pt\n  url: https://x.org/s.pt\n")
    with pytest.raises(ExportError, match=r"large_files.yml says that it is at https://x.org/s.pt: fetch it$"):
        _read(folder)
    codes = bundles.search_codes(folder / "models" / "search_code.pt", 2, 2)
    source = _read(folder).recipe.networks["net"]
    found = monai_bundle.network("DiNTS", json.loads(json.dumps(source.arguments)))
    from monai.networks import nets

    space = nets.TopologyInstance(
        arch_code=[codes["arch_code_a"], codes["arch_code_c"]], channel_mul=0.25, num_blocks=2, num_depths=2
    )
    expected = nets.DiNTS(space, 4, 3, node_a=torch.from_numpy(codes["node_a"]))
    assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    found.load_state_dict(expected.state_dict())
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 32, 32, 32), dtype=np.float32))
    with torch.no_grad():
        assert torch.equal(found.eval()(x), expected.eval()(x))


@pytest.mark.parametrize("shape", [(1, 32, 48), (32, 1, 48), (32, 48, 1)])
def test_networks_of_slices(shape: tuple[int, int, int]) -> None:
    arguments = {"spatial_dims": 2, "in_channels": 2, "out_channels": 3, "channels": [4, 8], "strides": [2]}
    found = monai_bundle.network("UNet", arguments).eval()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, *shape), dtype=np.float32))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from monai.networks.nets import UNet

        flat = UNet(**arguments).eval()
        flat.load_state_dict(found.state_dict())
        axis = 2 + shape.index(1)
        assert torch.equal(found(x), flat(x.squeeze(axis)).unsqueeze(axis))
    with pytest.raises(ExportError, match=r"takes slices, and a window is \(8, 8, 8\)"):
        found(torch.zeros(1, 2, 8, 8, 8))


def test_a_network_of_slices_is_exported(tmp_path: Path) -> None:
    arguments = {"spatial_dims": 2, "in_channels": 4, "out_channels": 3, "channels": [4, 8], "strides": [2]}

    def edit(m: Content, i: Content) -> None:
        i["network_def"] = {"_target_": "UNet", **arguments}
        i["inferer"]["roi_size"] = [32, 32, 1]

    folder = _bundle(tmp_path, edit)
    torch.manual_seed(0)
    network = monai_bundle.network("UNet", arguments)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    bundle = export(folder, tmp_path / "out")
    assert bundle.manifest.networks["net"].input_shape == (1, 4, 32, 32, 1)


WEIGHTS: dict[str, tuple[Edit, str, Any, str]] = {
    "handlers": (lambda m, i: None, "models/model.pt", "model", "model"),
    "at the top": (lambda m, i: i.update(loader=i["handlers"].pop(0) | {"load_path": "$@ckpt"}, ckpt="models/other.pt"), "models/other.pt", "model", "model"),
    "another key": (lambda m, i: i["handlers"][0].update(load_dict={"optimizer": "@imports", "net": "@network"}), "models/model.pt", "net", "net"),
    "no such key": (lambda m, i: i["handlers"][0].update(load_dict={"net": "@network"}), "models/model.pt", None, ""),
    "no loader": (lambda m, i: i.update(handlers=[]), "models/model.pt", "state_dict", "state_dict"),
    "a choice": (lambda m, i: (i.update(high=False), i["handlers"][0].update(load_path="$@bundle_root + '/models/' + ('a.pt' if @high else 'low.pt')")), "models/low.pt", "model", "model"),
    "of training": (lambda m, i: (i.update(train={"handlers": [i["handlers"].pop(0) | {"load_path": "x.pt"}]})), "models/model.pt", "model", "model"),
    "switched off": (lambda m, i: i["handlers"].insert(0, i["handlers"][0] | {"_disabled_": True, "load_path": "x.pt"}), "models/model.pt", "model", "model"),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_are_those_of_the_loader(tmp_path: Path, case: str) -> None:
    edit, file, key, saved = WEIGHTS[case]
    folder = _bundle(tmp_path, edit)
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    (folder / "models" / "model.pt").unlink()
    torch.save({saved: state} if saved else state, folder / file)
    source = _read(folder).recipe.networks["net"]
    assert (source.checkpoint, source.checkpoint_key) == (file, key)
    (folder / file).unlink()
    (folder / "large_files.yml").write_text(f"large_files:\n- path: {file}\n  url: https://x.org/m.pt\n")
    with pytest.raises(
        ExportError, match=rf"{file}: is missing, .* large_files.yml says that it is at https://x.org/m.pt"
    ):
        _read(folder)


def _defs(side: str, item: str, **changes: Any) -> Edit:
    return lambda m, i: m["network_data_format"][side][item].update(changes)


NAMES: dict[str, tuple[Edit, tuple[str, ...], str]] = {
    "too few": (_defs("outputs", "pred", channel_def={"0": "WT", "2": "ET"}), ("wt", "class_1", "et"), "names 2 of 3; the others are called class_1"),
    "none": (_defs("outputs", "pred", channel_def=None), ("class_0", "class_1", "class_2"), "names 0 of 3; the others are called class_0 to class_2"),
    "too few numbers": (_defs("outputs", "pred", channel_def={"0": "A"}, num_channels=1), ("a", "class_1", "class_2"), "class_1 to class_2"),
    "collide": (_defs("outputs", "pred", channel_def={"0": "A b", "1": "a-B", "2": "a-b_1"}), ("a-b", "a-b_1", "a-b_1_2"), "two channels are called a-b; the second is called a-b_1"),
    "empty": (_defs("outputs", "pred", channel_def={"0": "?", "1": "", "2": "Left Kidney"}), ("class_0", "class_1", "left-kidney"), "class_0 to class_1"),
    "inverted": (_defs("outputs", "pred", channel_def={"A": 0, "B": 1, "C": 2}), ("a", "b", "c"), ""),
    "listed": (_defs("outputs", "pred", channel_def=["A", "B", "C"]), ("a", "b", "c"), ""),
    "under another name": (lambda m, i: m["network_data_format"]["outputs"].update(mask=m["network_data_format"]["outputs"].pop("pred")), ("tumor-core", "whole-tumor", "enhancing-tumor"), ""),
    "no format at all": (lambda m, i: m.pop("network_data_format"), ("class_0", "class_1", "class_2"), "class_0 to class_2"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names_of_classes(tmp_path: Path, case: str) -> None:
    edit, expected, note = NAMES[case]
    folder = _bundle(tmp_path, edit)
    metadata = Config([folder / "configs" / "metadata.json"], folder, {})
    assert monai_names.names(metadata, "outputs", ["pred"], 3) == expected
    assert note in " ".join(metadata.notes)
    assert bool(metadata.notes) == bool(note)


def test_metadata_that_describes_nothing(tmp_path: Path) -> None:
    def edit(m: Content, i: Content) -> None:
        for key in list(m):
            if key != "network_data_format":
                del m[key]

    about = _read(_bundle(tmp_path, edit)).recipe.bundle
    assert (about.name, about.version, about.license) == ("b", "unknown", "not stated")


NET = """
import torch
from monai.networks.nets import SegResNet

class Mine(torch.nn.Module):
    def __init__(self, width, inner, head):
        super().__init__()
        self.inner, self.head, self.width = inner, head, width

    def forward(self, x):
        return self.head(self.inner(x)) * self.width

class Head(torch.nn.Conv3d):
    pass
"""


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """A bundle whose network is built by its own code."""
    inner = {"_target_": "SegResNet", "init_filters": 8, "in_channels": 4, "out_channels": 4}
    entry = {
        "_target_": "scripts.net.Mine", "width": "$1 + 1", "inner": inner,
        "head": {"_target_": "scripts.net.Head", "in_channels": 4, "out_channels": 3, "kernel_size": 1},
    }  # fmt: skip

    def edit(m: Content, i: Content) -> None:
        i["network_def"] = entry
        i["inferer"]["roi_size"] = [32, 32, 32]

    folder = _bundle(tmp_path, edit)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').close()\n")
    (folder / "scripts" / "net.py").write_text(NET)
    from monai.networks.nets import SegResNet

    torch.manual_seed(0)
    network = torch.nn.ModuleDict({
        "inner": SegResNet(init_filters=8, in_channels=4, out_channels=4), "head": torch.nn.Conv3d(4, 3, 1),
    })  # fmt: skip
    torch.save({"model": network.state_dict()}, folder / "models" / "model.pt")
    return folder


def test_code_of_a_bundle_runs_if_it_is_trusted(trusted: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"network_def is scripts\.net\.Mine, which is code of the bundle.*--trust-code"
    ):
        _read(trusted)
    assert not (tmp_path / "ran").exists()
    done = run("export", trusted, "-o", tmp_path / "out", "--trust-code", "--config-file", "inference.json")
    assert done.returncode == 0, done.stderr
    assert "code of the bundle built scripts.net.Mine" in " ".join(done.stdout.split())
    assert (tmp_path / "ran").exists()
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.lineage.trusted_code == {
        f"scripts/{name}.py": file_sha256(trusted / "scripts" / f"{name}.py") for name in ("__init__", "net")
    }
    report = json.loads(bundle.file("reports/export.json").read_text())["importer"]
    assert report["options"]["trust_code"] is True
    assert "code of the bundle built scripts.net.Mine" in report["notes"][0]
    assert file_sha256(trusted / "models" / "model.pt") in report["notes"][0]
    assert bundle.manifest.networks["net"].output_shape == (1, 3, 32, 32, 32)


def test_trusted_code_that_fails_says_so(trusted: Path) -> None:
    (trusted / "scripts" / "net.py").write_text("raise ValueError('out of\\norder')")
    with pytest.raises(
        ExportError, match=r"network_def: scripts.net.Mine gave no network \(ValueError: out of order\)$"
    ):
        _read(trusted, trust_code=True)


def test_a_target_relative_to_the_bundle(trusted: Path) -> None:
    (trusted / "net_def.py").write_text(NET)
    path = trusted / "configs" / "inference.json"
    path.write_text(path.read_text().replace("scripts.net.Mine", ".net_def.Mine"))
    found = _read(trusted, trust_code=True)
    assert set(found.trusted_code) == {"net_def.py", "scripts/__init__.py", "scripts/net.py"}
    assert not {"scripts", "net_def"} & set(sys.modules)  # the code ran elsewhere
    # What comes back is the network of those weights.
    state = torch.load(trusted / "models" / "model.pt", weights_only=True)["model"]
    script = torch.jit.load(found.recipe.networks["net"].torchscript)
    assert {name: value.shape for name, value in script.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    assert all(torch.equal(value, state[name]) for name, value in script.state_dict().items())


def test_torchscript_is_taken_where_the_code_is_not_trusted(trusted: Path) -> None:
    (trusted / "models" / "model.ts").touch()
    assert _read(trusted).recipe.networks["net"].torchscript == "models/model.ts"


def test_a_network_within_a_wrapper_of_processes(tmp_path: Path) -> None:
    wrapper = {
        "_target_": "torch.nn.parallel.DistributedDataParallel", "module": "$@network_def.to(@device)",
        "device_ids": ["@device"],
    }  # fmt: skip
    folder = _bundle(
        tmp_path, lambda m, i: i.update(network=wrapper, device="$torch.device(f'cuda:{dist.get_rank()}')")
    )
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    torch.save({"model": state, "state_dict": state}, folder / "models" / "model.pt")
    source = _read(folder).recipe.networks["net"]
    assert (source.factory, source.checkpoint_key) == ("monai:SegResNet", "model")


WRAPPED: Content = {
    "an expression": "$torch.nn.SyncBatchNorm.convert_sync_batchnorm(@network_def.to(@device))",
    "by name": "$torch.nn.SyncBatchNorm.convert_sync_batchnorm(module=@network_def)",
    "a component": {"_target_": "torch.nn.SyncBatchNorm.convert_sync_batchnorm", "module": "@network_def"},
    "of processes": "$torch.nn.parallel.DistributedDataParallel(@network_def.to(@device), device_ids=[@device])",
    "compiled": "$torch.compile(@network_def)",
}


@pytest.mark.parametrize("form", WRAPPED)
def test_a_network_in_an_expression_that_wraps_it(tmp_path: Path, form: str) -> None:
    found = _read(_bundle(tmp_path, lambda m, i: i.update(network=WRAPPED[form])))
    source = found.recipe.networks["net"]
    assert (source.factory, source.checkpoint_key) == ("monai:SegResNet", None)
    assert source.arguments["init_filters"] == 8


def test_a_bundle_without_metadata(tmp_path: Path) -> None:
    folder = _bundle(tmp_path)
    before = _read(folder).recipe
    (folder / "configs" / "metadata.json").unlink()
    found = _read(folder)
    assert found.recipe.channels == ("channel_0", "channel_1", "channel_2", "channel_3")
    assert found.recipe.bundle.name == "b"
    assert [label.name for label in found.recipe.labels] == ["class_0", "class_1", "class_2"]
    assert (found.recipe.stages, found.recipe.networks) == (before.stages, before.networks)
    assert "metadata.json: is missing, so the network's arguments say how many channels" in found.notes[0]


def test_torchscript_that_an_expression_loads(tmp_path: Path) -> None:
    load = "$torch.jit.load(@bundle_root + '/models/trt.ts', map_location=@device)"
    folder = _bundle(tmp_path, lambda m, i: i.update(network_def=load, network="$@network_def.to(@device).eval()"))
    with pytest.raises(ExportError, match=r"network_def: loads \./models/trt\.ts, which is missing"):
        _read(folder)
    (folder / "models" / "trt.ts").touch()
    assert _read(folder).recipe.networks["net"].torchscript == "models/trt.ts"


def test_channels_vouch_for_a_transform_that_joins(tmp_path: Path) -> None:
    def edit(m: Content, i: Content) -> None:
        i["preprocessing"]["transforms"].insert(1, {"_target_": "scripts.join.Join", "keys": ["t1", "t2"]})

    folder = _bundle(tmp_path, edit)
    with pytest.raises(ExportError, match=r"scripts\.join\.Join is code of the bundle.*--channels KEY,KEY"):
        _read(folder)
    found = _read(folder, channels=["A", "b", "c", "d"])
    assert found.recipe.channels == ("a", "b", "c", "d")
    assert found.options["channels"] == ["A", "b", "c", "d"]
    assert "scripts.join.Join was left out: --channels says that it only joins A, b, c, d" in found.notes[0]


#: Bundles of the zoo: class of the network, names of some classes, windows, and what makes their networks small.
ZOO: dict[str, tuple[str, dict[int, str], list[int], Content]] = {
    "brats_mri_segmentation": ("SegResNet", {0: "tumor-core", 2: "enhancing-tumor"}, [240, 240, 160], {}),
    "spleen_ct_segmentation": ("UNet", {1: "spleen"}, [96] * 3, {}),
    "swin_unetr_btcv_segmentation": ("SwinUNETR", {3: "left-kideny", 13: "left-adrenal-gland"}, [96] * 3, {"feature_size": 12}),
    "prostate_mri_anatomy": ("UNet", {2: "peripheral-zone"}, [96] * 3, {"channels": [4, 8, 16, 32, 64, 128]}),
    "multi_organ_segmentation": ("DiNTS", {2: "portal-vein"}, [96] * 3, {}),
    "wholeBody_ct_segmentation": ("SegResNet", {18: "vertebrae_l5", 104: "urinary_bladder"}, [96] * 3, {"init_filters": 8}),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_bundles_of_the_zoo(realdata: Path, tmp_path: Path, name: str) -> None:
    if not (realdata / "monai_zoo" / name).is_dir():
        pytest.skip(f"no configuration of {name}")
    kind, classes, roi, small = ZOO[name]
    folder = tmp_path / name
    shutil.copytree(realdata / "monai_zoo" / name, folder, copy_function=shutil.copyfile)
    (folder / "models").mkdir()
    bundles.search_codes(folder / "models" / "search_code_18590.pt", 12, 4)
    metadata_file = folder / "configs" / "metadata.json"
    metadata = Config([metadata_file], folder, {})
    config = Config(monai_files.chosen(folder, ()), folder, monai_files.read(metadata_file))
    network = monai_network.definitions(config)["pred"]
    assert network.target.rpartition(".")[2] == kind
    assert config.role("inferer").entry["roi_size"] == roi
    for role, keys in (("preprocessing", "image"), ("postprocessing", "pred")):
        found = [given["keys"] for _, _, given in config.transforms(config.role(role).key)]
        assert found == [keys] * len(found)
        assert len(found) > 1
    names = monai_names.names(metadata, "outputs", ["pred"], network.channels("outputs"))
    assert {channel: names[channel] for channel in classes} == classes
    assert len(monai_names.names(metadata, "inputs", ["image"], network.channels("inputs"))) == network.channels(
        "inputs"
    )
    assert monai_weights.weights(config, network.role) == (folder / "models" / "model.pt", ["model"])
    monai_network.plain(config, network)
    given, notes = monai_classes.arguments_taken(kind, json.loads(json.dumps({**network.arguments, **small})))
    assert notes == (
        ["network: SwinUNETR of the installed MONAI takes no img_size (it was 96)"]
        if "img_size" in network.arguments
        else []
    )
    built = monai_classes.network(kind, given).eval()
    with torch.no_grad():
        scores = built(torch.zeros(1, network.channels("inputs"), 64, 64, 64))
    assert scores.shape == (1, len(names), 64, 64, 64)
