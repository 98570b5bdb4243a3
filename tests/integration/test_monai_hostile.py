"""MONAI bundles that try to run code, to read other files or to take all memory. Each is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lowres_seg.errors import ExportError
from lowres_seg.export import export, importers

from .conftest import beside

pytest.importorskip("monai")
bundles = beside("monai_bundles")

Config = dict[str, Any]
Edit = Callable[[Config, Config], object]
#: What code would do here: leave a file. EVIL is replaced by its path.
RUN = "__import__('os').system('touch EVIL')"


def _refused(folder: Path, evil: Path, message: str) -> None:
    """The bundle is refused quickly and in one line, and no code ran."""
    began = time.perf_counter()
    with pytest.raises(ExportError) as caught:
        importers.read(folder, {})
    assert time.perf_counter() - began < 10
    told = str(caught.value)
    assert message.replace("EVIL", str(evil)) in told
    assert str(folder) in told
    assert "\n" not in told
    assert len(told) < 900
    assert not evil.exists()


def _written(tmp_path: Path, edit: Edit = lambda m, i: None) -> tuple[Path, Path]:
    """A bundle with EVIL replaced by the path of the file that nothing may make."""
    folder, evil = bundles.write(tmp_path / "b", bundles.brats(filters=8), edit=edit), tmp_path / "evil"
    for name in ("metadata.json", "inference.json"):
        path = folder / "configs" / name
        path.write_text(path.read_text().replace("EVIL", str(evil)))
    return folder, evil


def _net(**changes: Any) -> Edit:
    return lambda m, i: i["network_def"].update(changes)


def _transform(**changes: Any) -> Edit:
    return lambda m, i: i["preprocessing"]["transforms"][1].update(changes)


def _meta(**changes: Any) -> Edit:
    return lambda m, i: m.update(changes)


def _load_path(path: Any) -> Edit:
    return lambda m, i: i["handlers"][0].update(load_path=path)


def _laughs(key: str) -> Edit:
    """References that name 2⁴⁰ values."""

    def edit(m: Config, i: Config) -> None:
        i["l0"] = [1, 1]
        i.update({f"l{n}": [f"{key}l{n - 1}"] * 2 for n in range(1, 41)})
        i["network_def"]["blocks_down"] = "@l40"

    return edit


def _nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


CODE: dict[str, tuple[Edit, str]] = {
    "an argument of the network": (_net(init_filters="$" + RUN), "network_def#init_filters is the expression"),
    "an argument of a transform": (_transform(nonzero="$" + RUN), "transforms#1#nonzero is the expression"),
    "an argument of the inferer": (lambda m, i: i["inferer"].update(overlap="$" + RUN), "inferer#overlap is the expression"),
    "the whole pre-processing": (lambda m, i: i.update(preprocessing="$" + RUN), "preprocessing is the expression"),
    "the whole network": (lambda m, i: i.update(network="$" + RUN), "network is the expression"),
    "the path of the weights": (_load_path("$" + RUN), "handlers#0#load_path is the expression"),
    "a switch": (_transform(_disabled_="$" + RUN), "transforms#1#_disabled_ is the expression"),
    "a target that is an expression": (_net(_target_="$" + RUN), "network_def"),
    "a reference to code": (lambda m, i: (i.update(bad="$" + RUN), _net(init_filters="@bad")(m, i)), "bad is the expression"),
    "code in an expression's reference": (lambda m, i: (i.update(bad="$" + RUN), _net(init_filters="$@bad + 1")(m, i)), "bad is the expression"),
    "an import under another name": (lambda m, i: (i["imports"].append("$from os import system as abs"), _net(init_filters="$abs('touch EVIL')")(m, i)), "which calls os.system"),
    "the name of the bundle": (_meta(name="$" + RUN), "metadata.json: name is the expression"),
    "its version": (_meta(version="$" + RUN), "metadata.json: version is the expression"),
    "the name of a class": (lambda m, i: m["network_data_format"]["outputs"]["pred"]["channel_def"].update({"0": "$" + RUN}), "channel_def#0 is the expression"),
    "the metadata by reference": (lambda m, i: (m.update(size="$" + RUN), _net(init_filters="@_meta_#size")(m, i)), "_meta_#size is the expression"),
    "os.system for a network": (lambda m, i: i.update(network_def={"_target_": "os.system", "command": "touch EVIL"}), "network_def is os.system, which is not of monai.networks.nets"),
    "eval for a network": (lambda m, i: i.update(network_def={"_target_": "builtins.eval", "source": RUN}), "network_def is builtins.eval, which is not of"),
    "a short eval": (lambda m, i: i.update(network_def={"_target_": "eval", "source": RUN}), "eval is no network of monai.networks.nets"),
    "os.system for a layer": (_net(act={"_target_": "os.system", "command": "touch EVIL"}), "network_def#act: is os.system, expected a layer"),
    "a function of MONAI for a layer": (_net(act={"_target_": "monai.networks.utils.eval_mode"}), "is monai.networks.utils.eval_mode, expected a layer"),
    "os.system for a transform": (_transform(_target_="os.system"), "preprocessing#transforms#1 os.system is code of the bundle"),
    "os.system after": (lambda m, i: i["postprocessing"]["transforms"][0].update(_target_="os.system"), "os.system has no exact counterpart"),
    "os.system for an inferer": (lambda m, i: i.update(inferer={"_target_": "os.system", "command": "touch EVIL"}), "inferer os.system: has no exact counterpart"),
    "os.system for an evaluator": (lambda m, i: i["evaluator"].update(_target_="os.system"), "the evaluator is os.system"),
    "a debugger": (_transform(_mode_="$" + RUN), "_mode_ is"),
}  # fmt: skip


@pytest.mark.parametrize("case", CODE)
def test_code_in_a_configuration_does_not_run(tmp_path: Path, case: str) -> None:
    edit, message = CODE[case]
    _refused(*_written(tmp_path, edit), message)


#: Expressions, and what each is told to be.
EXPRESSIONS = {
    "().__class__.__base__.__subclasses__()": "calls the method __subclasses__",
    "().__class__": "takes the attribute __class__",
    "@image_key.__class__": "takes the attribute __class__",
    "@image_key.format(1)": "calls the method format",
    "'{0.__class__}'.format(1)": "calls the method format",
    "f'{1:>999999999}'": "formats a value in a text",
    "f'{1!r}'": "formats a value in a text",
    "f'{@inferer}'": "formats a value in a text",
    "'%1000000000d' % 1": "has Mod of str and int",
    "9**9**9": "makes a number that is too large",
    "9.0**9999": "cannot be computed (OverflowError",
    "(-8)**0.5": "makes a complex number",
    "1 << 10**9": "has LShift of int and int",
    "'a' * 10**9": "makes more than 10000 values",
    "10**9 * [0]": "makes more than 10000 values",
    "[[0] * 9999] * 9999": "makes more than 10000 values",
    "round(1, -10**9)": "calls round of several values",
    "int('9' * 9000)": "",
    "(lambda: 1)()": "no code of a bundle is run",
    "1 + (lambda: 1)()": "calls what an expression gives",
    "[x for x in range(10**9)]": "makes more than 10000 values",
    "[x for x in [0] * 9000]": "is too long or nested too deeply",
    "[[0 for y in [0] * 90] for x in [0] * 90]": "is too long or nested too deeply",
    "[0 for x in [0] * 400 for y in [0] * 400 if y]": "is too long or nested too deeply",
    "[[0] * 9999 for x in [0] * 90]": "makes more than 10000 values",
    "[x.__class__ for x in (1, 2)]": "takes the attribute __class__",
    "[open for open in (1, 2)][0]('EVIL', 'w')": "calls what an expression gives",
    "[open(x, 'w') for x in ['EVIL']]": "calls open",
    "[1 for x.y in (1, 2)]": "repeats something for int",
    "[x for x in @inferer]": "repeats something for Component",
    "[x for x, y in [(1, 2, 3)]]": "cannot be computed (ValueError",
    "{x for x in (1, 2)}": "has a comprehension",
    "(x for x in (1, 2))": "has a generator",
    "copy.deepcopy(@image_key)": "calls copy.deepcopy",
    "torch.nn.SyncBatchNorm.convert_sync_batchnorm(1)": "calls torch.nn.SyncBatchNorm.convert_sync_batchnorm of int",
    "monai.networks.layers.Norm.__class__": "uses monai.networks.layers.Norm.__class__",
    "monai.networks.layers.factories.torch": "uses monai.networks.layers.factories.torch",
    "(x := 1)": "has an assignment",
    "max(*[1, 2])": "calls max",
    "{**@network_def}": "has ** in an object",
    "@inferer['roi_size']": "takes a part of a component",
    "open('EVIL', 'w')": "calls open",
    "eval('1')": "calls eval",
    "getattr(1, 'real')": "calls getattr",
    "torch.hub.load('a', 'b')": "calls torch.hub.load of str",
    "torch.ops": "uses torch.ops",
    "monai.utils.misc.os": "uses monai.utils.misc.os",
    "monai.utils.CommonKeys.__class__": "uses monai.utils.CommonKeys.__class__",
    "os.environ['HOME']": "uses os.environ",
    "os.path.exists('/etc/passwd')": "names /etc/passwd, which lies outside the bundle",
    "torch.load('../../secret.pt')": "names ../../secret.pt, which lies outside the bundle",
    "torch.load('/etc/passwd')": "names /etc/passwd, which lies outside the bundle",
    "torch.load('models/link.pt')": "loads models/link.pt, which leads outside the bundle",
    "torch.load(@bundle_root + '/models/evil.pt')": "holds more than weights",
    "'me@image_key'": "has an @ within a text",
    "(" * 90 + "1" + ")" * 90 + "+" * 90 + "1": "is too long or nested too deeply",
    "-" * 1500 + "1": "",
    "1" + "+1" * 3000: "has 6001 characters, more than 2000",
    "import os": "is no expression of Python",
    "1; 2": "is no expression of Python",
    "1 +": "is no expression of Python",
    "b'x'": "has a constant of another kind",
    "...": "has a constant of another kind",
    "1 / 0": "cannot be computed (ZeroDivisionError",
}


class _Evil:
    """Something whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with a link that leads out of it, and with a pickle that makes a file."""
    folder, evil = _written(tmp_path_factory.mktemp("hostile"))
    torch.save({"a": torch.ones(2)}, folder.parent / "secret.pt")
    (folder / "models" / "link.pt").symlink_to(folder.parent / "secret.pt")
    torch.save({"a": _Evil(evil)}, folder / "models" / "evil.pt")
    return folder, evil


@pytest.mark.parametrize("code", EXPRESSIONS)
def test_expressions_that_are_not_computed(hostile: tuple[Path, Path], code: str) -> None:
    folder, evil = hostile
    path = folder / "configs" / "inference.json"
    content = json.loads(path.read_text())
    content["network_def"]["init_filters"] = "$" + code.replace("EVIL", str(evil))
    path.write_text(json.dumps(content))
    _refused(folder, evil, EXPRESSIONS[code] or "network_def#init_filters")


BOMBS: dict[str, tuple[Edit, str]] = {
    "references to references": (_laughs("@"), "makes more than 10000 values"),
    "macros of macros": (_laughs("%"), "more than 100000 values"),
    "deep lists": (_net(blocks_down=_nested(400)), "is nested deeper than 50 levels"),
    "a cycle": (lambda m, i: (i.update(a="@b", b="$@a"), _net(init_filters="@a")(m, i)), "b refers to @a, which refers to itself"),
    "a cycle of objects": (lambda m, i: (i.update(a={"b": "@a"}), _net(blocks_down="@a")(m, i)), "a#b refers to @a, which refers to itself"),
    "a long chain": (lambda m, i: (i.update({f"c{n}": f"@c{n + 1}" for n in range(500)}), _net(init_filters="@c0")(m, i)), "nested too deeply"),
    "a long chain of expressions": (lambda m, i: (i.update({f"c{n}": f"$(((((@c{n + 1}))))) + 1" for n in range(500)}), _net(init_filters="@c0")(m, i)), "nested too deeply"),
    "a million sums": (lambda m, i: (i.update({f"c{n}": f"$len([0] * 9000 + @d) + @c{n + 1} + @c{n + 1}" for n in range(40)}, d=[0] * 900, c40=1), _net(init_filters="@c0")(m, i)), "takes too long to compute"),
    "relative ids in a long text": (lambda m, i: (i.update({"y" * 100_000: "$" + "@#a" * 100_000}), _net(init_filters="$@nothing")(m, i)), "network_def#init_filters refers to @nothing"),
    "a macro of another file": (lambda m, i: i.update(x="%/etc/secret.json::a"), "the macro %/etc/secret.json::a names no file of the bundle"),
    "a macro above the bundle": (lambda m, i: i.update(x="%../other.json"), "the macro %../other.json names no file of the bundle"),
    "a macro of nothing": (lambda m, i: i.update(x="%nothing"), "the macro %nothing leads to no value"),
    "a relative id above the top": (lambda m, i: i.update(x="@###a"), "leads above the configuration"),
    "weights above the bundle": (_load_path("../other.pt"), "load_path: names ../other.pt, which lies outside the bundle"),
    "weights elsewhere": (_load_path("/etc/passwd"), "load_path: names /etc/passwd, which lies outside the bundle"),
    "weights that are no path": (_load_path(["a"]), "load_path: is ['a'], expected the path of a checkpoint"),
    "a file too large": (lambda m, i: i.update(x="x" * 5_000_000), "expected a configuration of at most 4000000"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_configurations_that_lead_too_far(tmp_path: Path, case: str) -> None:
    (tmp_path / "other.json").write_text("{}")
    edit, message = BOMBS[case]
    _refused(*_written(tmp_path, edit), message)


def test_a_file_of_many_macros_is_read_once(tmp_path: Path) -> None:
    folder, evil = _written(
        tmp_path, lambda m, i: (i.update(x=["%configs/big.json::a"] * 20_000), _net(init_filters="@b")(m, i))
    )
    (folder / "configs" / "big.json").write_text(json.dumps({"a": 1, "b": "x" * 1_000_000}))
    _refused(folder, evil, "network_def#init_filters refers to @b, which leads to no value")


def test_json_of_endless_depth(tmp_path: Path) -> None:
    folder, evil = _written(tmp_path)
    (folder / "configs" / "inference.json").write_text("[" * 200_000)
    _refused(folder, evil, "inference.json: cannot be read as JSON")


#: Texts of an inference.yaml.
YAML = {
    "a call": ("x: !!python/object/apply:os.system ['touch EVIL']", "has the tag !!python/object/apply:os.system, and no code of a bundle is run"),
    "an object": ("x: !!python/object:os.popen {}", "has the tag !!python/object:os.popen"),
    "a name": ("x: !!python/name:os.system", "has the tag !!python/name:os.system"),
    "a tag of its own": ("x: !evil [1]", "has the tag !evil"),
    "an alias of itself": ("x: &a [*a]", "nested deeper than 50 levels"),
    "aliases of aliases": ("l0: &l0 [1, 1]\n" + "\n".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 40)), "names more than 100000 values"),
    "merges of merges": ("l0: &l0 {a: 1}\n" + "\n".join(f"l{n}: &l{n} {{<<: [*l{n - 1}, *l{n - 1}]}}" for n in range(1, 40)), "names more than 100000 values"),
    "depth": ("x: " + "[" * 5000, "cannot be read as YAML"),
    "no object": ("- 1", "is list, expected an object"),
    "nothing": ("", "is NoneType, expected an object"),
    "no YAML": ("a: [1", "cannot be read as YAML"),
    "a key that is a list": ("? [1]\n: 2", "cannot be read as YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_yaml_is_plain_data(tmp_path: Path, case: str) -> None:
    folder, evil = _written(tmp_path)
    text, message = YAML[case]
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(text.replace("EVIL", str(evil)))
    _refused(folder, evil, message)


@pytest.mark.parametrize("place", ["network", "transform", "evaluator"])
def test_scripts_of_a_bundle_are_not_imported(tmp_path: Path, place: str) -> None:
    def edit(m: Config, i: Config) -> None:
        if place == "network":
            i["network_def"]["_target_"] = "scripts.net.Net"
        elif place == "transform":
            i["preprocessing"]["transforms"][1]["_target_"] = "scripts.net.Join"
        else:
            i["evaluator"]["_target_"] = "scripts.net.Evaluator"
        i["imports"].append("$import scripts")

    folder, evil = _written(tmp_path, edit)
    (folder / "scripts").mkdir()
    for name in ("__init__", "net"):
        (folder / "scripts" / f"{name}.py").write_text(f"open({str(evil)!r}, 'w').close()\n")
    message = {
        "network": "--trust-code",
        "transform": "--channels KEY,KEY",
        "evaluator": "the evaluator is scripts.net.",
    }
    _refused(folder, evil, message[place])


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_for_weights_does_not_run(tmp_path: Path, protocol: str) -> None:
    folder, evil = _written(tmp_path)
    path = folder / "models" / "model.pt"
    if protocol == "torch":
        torch.save({"model": _Evil(evil)}, path)
    else:
        path.write_bytes(pickle.dumps(_Evil(evil)))
    _refused(folder, evil, "model.pt: holds more than weights")
    with pytest.raises(ExportError, match="holds more than weights"):
        export(folder, tmp_path / "out")
    assert not evil.exists()


def test_what_is_not_needed_is_not_evaluated(tmp_path: Path) -> None:
    def edit(m: Config, i: Config) -> None:
        for key in ("datalist", "device", "output_dir"):
            i[key] = "$" + RUN
        i["initialize"] = i["run"] = ["$" + RUN]
        i["handlers"].append({"_target_": "os.system", "command": "touch EVIL"})
        i["dataset"]["data"] = "$" + RUN
        i["postprocessing"]["transforms"][4]["output_dir"] = "$" + RUN
        m["changelog"] = {"0": "$" + RUN}

    folder, evil = _written(tmp_path, edit)
    assert importers.read(folder, {}).recipe.channels == ("t1c", "t1", "t2", "flair")
    assert not evil.exists()
