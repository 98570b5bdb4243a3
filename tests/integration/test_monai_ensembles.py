"""Bundles of several networks, run by MONAI's own EnsembleEvaluator, against what is made of the same folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowres_seg import Segmenter, host
from lowres_seg.errors import ExportError
from lowres_seg.export import export
from lowres_seg.export.importers import monai_bundle
from lowres_seg.export.loading import load_network

from .conftest import beside

pytest.importorskip("monai")
pytest.importorskip("ignite")
bundles = beside("monai_bundles")

Config = dict[str, Any]
Chain = list[Config]
Edit = Callable[[Config], object]
RAS = {"_target_": "Orientationd", "axcodes": "RAS"}
SPACING = {"_target_": "Spacingd", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"}
ZSCORE = {"_target_": "NormalizeIntensityd", "nonzero": True}
GRID = [RAS, SPACING, ZSCORE]
SOFTMAX = {"_target_": "Activationsd", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "sigmoid": True}
ARGMAX = {"_target_": "AsDiscreted", "argmax": True}
HALF = {"_target_": "AsDiscreted", "threshold": 0.5}
MEAN = {"_target_": "MeanEnsembled", "output_key": "pred"}
VOTE = {"_target_": "VoteEnsembled", "output_key": "pred"}
ROI: Config = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "overlap": 0.25}


def invert(*, nearest: bool) -> Config:
    return {
        "_target_": "Invertd", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": nearest,
        "to_tensor": True,
    }  # fmt: skip


#: Number of networks and of channels, transforms of the image, those of the result, and what joins the results. Keys of
#: a transform are those of all results until they are joined.
CASES: dict[str, tuple[int, int, Chain, Chain, str]] = {
    "mean of scores": (2, 3, GRID, [MEAN, SOFTMAX, invert(nearest=False), ARGMAX], "mean-scores"),
    "mean of scores that came back": (3, 3, GRID, [invert(nearest=False), MEAN, SOFTMAX, ARGMAX], "mean-scores"),
    "mean of scores on the scan's grid": (2, 3, [ZSCORE], [MEAN, ARGMAX], "mean-scores"),
    "mean of probabilities": (3, 3, GRID, [SOFTMAX, MEAN, invert(nearest=False), ARGMAX], "mean-probabilities"),
    "mean of probabilities that came back": (
        2, 3, GRID, [SOFTMAX, invert(nearest=False), {**MEAN, "weights": [2.0, 2.0]}, ARGMAX], "mean-probabilities",
    ),
    "mean of sigmoids": (2, 1, GRID, [SIGMOID, MEAN, invert(nearest=False), HALF], "mean-probabilities"),
    "mean of scores, then sigmoid": (2, 1, [ZSCORE], [MEAN, SIGMOID, HALF], "mean-scores"),
    "vote": (3, 3, GRID, [SOFTMAX, ARGMAX, {**VOTE, "num_classes": 3}, invert(nearest=True)], "vote"),
    "vote with ties": (2, 3, [ZSCORE], [ARGMAX, {**VOTE, "num_classes": 5}], "vote"),
    "vote of labels that came back": (
        4, 3, GRID, [ARGMAX, invert(nearest=True), {**VOTE, "num_classes": 3}], "vote",
    ),
    "vote of one-hot labels": (
        4, 3, GRID, [{**ARGMAX, "to_onehot": 3}, {**VOTE, "num_classes": 3}, invert(nearest=True)], "vote",
    ),
    "vote of two one-hot labels, with ties": (
        2, 2, [ZSCORE], [{**ARGMAX, "to_onehot": 2}, VOTE, ARGMAX], "vote",
    ),
    "vote of masks, with ties": (4, 1, GRID, [SIGMOID, HALF, VOTE, invert(nearest=True)], "vote"),
    "vote of masks": (3, 1, [ZSCORE], [SIGMOID, HALF, VOTE], "vote"),
    "clean-up of what is joined": (
        3, 3, GRID,
        [
            ARGMAX, {**VOTE, "num_classes": 3}, {"_target_": "KeepLargestConnectedComponentd"}, invert(nearest=True),
            {"_target_": "FillHolesd"},
        ],
        "vote",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of smooth bright blobs in air."""
    path: Path = bundles.blobs(tmp_path_factory.mktemp("scan") / "scan.nii.gz")
    return path


def keyed(after: Chain, items: list[str]) -> Chain:
    """The transforms with their keys: all results, until they are joined."""
    found: Chain = []
    for one in after:
        joined = any(done["_target_"].endswith("Ensembled") for done in found)
        found.append({"keys": "pred" if joined else items, **one})
    return found


def written(
    folder: Path, image: Path, case: tuple[int, int, Chain, Chain, str], edit: Edit = lambda i: None
) -> tuple[Path, list[torch.nn.Module]]:
    """A bundle of several seeded networks that give every label."""
    count, channels, before, after, _ = case
    items = [f"pred_{place}" for place in range(count)]

    def change(metadata: Config, inference: Config) -> None:
        load = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
        inference["preprocessing"]["transforms"] = load + [{"keys": "image", **one} for one in before]
        inference["inferer"] = ROI
        inference["postprocessing"]["transforms"] = keyed(after, items)
        del inference["network"]
        for place in range(count):
            inference[f"net_{place}"] = "%network_def"
        inference["handlers"] = [
            {
                "_target_": "CheckpointLoader", "load_path": f"$@bundle_root + '/models/fold{place}.pt'",
                "load_dict": {"model": f"@net_{place}"},
            }
            for place in range(count)
        ]  # fmt: skip
        evaluator = inference["evaluator"]
        del evaluator["network"]
        evaluator |= {
            "_target_": "EnsembleEvaluator", "networks": [f"$@net_{place}.to(@device)" for place in range(count)],
            "amp": False,
        }  # fmt: skip
        names = {str(c): f"label {c}" for c in range(channels)}
        metadata["network_data_format"]["outputs"]["pred"] |= {"num_channels": channels, "channel_def": names}

    metadata, inference = bundles.unet(filters=2)
    inference["network_def"] |= {"out_channels": channels, "num_res_units": 0, "channels": [4, 8], "strides": [2]}
    definition = inference["network_def"]
    bundles.write(folder, (metadata, inference), [], change)
    (folder / "models" / "model.pt").unlink()
    networks = [_network(place, channels, definition, folder, image) for place in range(count)]
    for place, network in enumerate(networks):
        torch.save({"model": network.state_dict()}, folder / "models" / f"fold{place}.pt")
    path = folder / "configs" / "inference.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return folder, networks


#: Networks that were made before, by their seed and the number of their channels.
_NETWORKS: dict[tuple[int, int], torch.nn.Module] = {}


def _network(seed: int, channels: int, definition: Config, folder: Path, image: Path) -> torch.nn.Module:
    if (seed, channels) not in _NETWORKS:
        torch.manual_seed(seed)
        kind = {key: value for key, value in definition.items() if key != "_target_"}
        network = monai_bundle.network("UNet", kind).eval()
        bundles.spread(network, folder, [image])
        _NETWORKS[seed, channels] = network
    return _NETWORKS[seed, channels]


def evaluated(folder: Path, image: Path) -> np.ndarray:
    """Result of MONAI's own evaluator, (C, I, J, K)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser["bundle_root"] = str(folder)
        parser["device"] = "$torch.device('cpu')"
        parser["dataset"]["data"] = [{"image": str(image)}]
        parser["dataloader"]["num_workers"] = 0
        evaluator = parser.get_parsed_content("evaluator", instantiate=True)
        evaluator.run()
    (case,) = evaluator.state.output
    return np.asarray(case["pred"])


def predicted(folder: Path, image: Path) -> tuple[np.ndarray, Any]:
    recipe = monai_bundle.recipe(folder, monai_bundle.Options())
    networks = {
        name: load_network(source, folder / source.file, folder) for name, source in recipe.networks.items()
    }  # fmt: skip
    engines = [networks[name] for name in recipe.stages[0].networks]
    found = Segmenter(recipe, {"segment": engines}, threads=host.inspect().threads).predict(image)
    return found.labels.data, recipe


def agrees(folder: Path, image: Path, labels: set[int]) -> Any:
    found, recipe = predicted(folder, image)
    (expected,) = evaluated(folder, image)
    assert set(np.unique(found)) == labels
    assert np.mean(found == expected) >= 0.9999
    return recipe


@pytest.mark.parametrize("case", CASES)
def test_the_joined_result_is_monais(case: str, image: Path, tmp_path: Path) -> None:
    count, channels, _, _, ensemble = CASES[case]
    folder, _ = written(tmp_path / "b", image, CASES[case])
    recipe = agrees(folder, image, set(range(max(channels, 2))))
    (stage,) = recipe.stages
    assert (stage.ensemble, stage.networks) == (ensemble, tuple(f"net_{place}" for place in range(count)))
    assert [source.checkpoint for source in recipe.networks.values()] == [
        f"models/fold{place}.pt" for place in range(count)
    ]


def _apart(content: Config) -> None:
    """A transform for each key, and arguments for each key."""
    first, second, *others = content["postprocessing"]["transforms"]
    softmax, back = ({key: value for key, value in one.items() if key != "keys"} for one in (first, second))
    content["postprocessing"]["transforms"] = [
        {**softmax, "keys": "pred_1"},
        {**back, "keys": ["pred_1", "pred_0"], "nearest_interp": [False, False], "orig_keys": ["image", "image"]}, *others,
    ]  # fmt: skip
    content["postprocessing"]["transforms"].insert(0, {**softmax, "keys": "pred_0", "softmax": [True]})


def _by_comprehension(content: Config) -> None:
    """Networks and keys that expressions make."""
    items = [f"fold{place}" for place in range(2)]
    content["imports"].append("$import copy")
    content["networks"] = "$[copy.deepcopy(@network_def).to(@device) for _ in range(2)]"
    content["evaluator"] |= {"networks": "@networks", "pred_keys": "$[f'fold{i}' for i in range(len(@networks))]"}
    for place, handler in enumerate(content["handlers"]):
        handler["load_dict"] = {"model": f"$@networks[{place}]"}
    for one in content["postprocessing"]["transforms"]:
        one["keys"] = items if isinstance(one["keys"], list) else one["keys"]


def _one_file(content: Config) -> None:
    """One checkpoint of all networks, by one loader that stands elsewhere."""
    content["loader"] = {
        "_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/all.pt'",
        "load_dict": {"a": "@net_0", "b": "@net_1"},
    }  # fmt: skip
    content["handlers"] = ["@loader"]


def _twice(content: Config) -> None:
    """One network is there twice: what loads last gives the weights of both."""
    content["net_1"] = "$@net_0.to(@device)"


FORMS: dict[str, tuple[Edit, str]] = {
    "a transform for each key": (_apart, "models/fold1.pt"),
    "comprehensions": (_by_comprehension, "models/fold1.pt"),
    "one file": (_one_file, "models/all.pt"),
    "one network twice": (_twice, "models/fold1.pt"),
    "what comes after on results that were joined": (
        lambda i: i["postprocessing"]["transforms"].append({**SIGMOID, "keys": ["pred_0", "pred_1"]}),
        "models/fold1.pt",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_say_the_same(form: str, image: Path, tmp_path: Path) -> None:
    edit, file = FORMS[form]
    folder, networks = written(tmp_path / "b", image, CASES["mean of probabilities that came back"], edit)
    states = dict(zip("ab", (network.state_dict() for network in networks), strict=True))
    torch.save(states, folder / "models" / "all.pt")
    recipe = agrees(folder, image, {0, 1, 2})
    assert [*recipe.networks.values()][-1].checkpoint == file
    assert len(recipe.networks) == (1 if form == "one network twice" else 2)
    assert len(recipe.stages[0].networks) == 2


def test_an_ensemble_is_exported(image: Path, tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "b", image, CASES["vote"])
    (expected,) = evaluated(folder, image)
    bundle = export(folder, tmp_path / "out")
    assert [*bundle.manifest.networks] == ["net_0", "net_1", "net_2"]
    found = Segmenter.load(tmp_path / "out").predict(image).labels.data
    assert np.mean(found == expected) >= 0.9999


def _numbered(folder: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        (folder / "models" / name).write_bytes((folder / "models" / f"fold{place % 2}.pt").read_bytes())


@pytest.mark.parametrize(
    "names", [["model_0.pt", "model_1.pt"], ["model0.pth", "model1.pth"], ["model-1.pt", "model-2.pt"]]
)
def test_numbered_files_of_weights(names: list[str], image: Path, tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "b", image, CASES["mean of scores"], lambda i: i.update(handlers=[]))
    _numbered(folder, names)
    recipe = monai_bundle.recipe(folder, monai_bundle.Options())
    assert [source.checkpoint for source in recipe.networks.values()] == [f"models/{name}" for name in names]
    assert any(f"models/{names[0]} to {names[1]} are the weights" in note for note in recipe.notes)


@pytest.mark.parametrize(
    "names",
    [
        ["model_0.pt"],
        ["model_0.pt", "model_1.pt", "model_2.pt"],
        ["model_0.pt", "model_1.pt", "model0.pt", "model1.pt"],
    ],
)
def test_numbered_files_that_are_not_clear_are_refused(names: list[str], image: Path, tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "b", image, CASES["mean of scores"], lambda i: i.update(handlers=[]))
    _numbered(folder, names)
    with pytest.raises(ExportError, match=r"inference\.json: has no CheckpointLoader for 2 networks, and models has"):
        monai_bundle.recipe(folder, monai_bundle.Options())


def _result(*transforms: Config) -> Edit:
    return lambda i: i["postprocessing"].update(transforms=keyed(list(transforms), ["pred_0", "pred_1"]))


def _supervised(content: Config) -> None:
    content["evaluator"] |= {"_target_": "SupervisedEvaluator", "network": "@net_0"}
    content["postprocessing"]["transforms"] = [{**MEAN, "keys": "pred"}, {**ARGMAX, "keys": "pred"}]


def _different(content: Config) -> None:
    content["postprocessing"]["transforms"].insert(0, {**SIGMOID, "keys": "pred_1"})


BAD: dict[str, tuple[Edit, str]] = {
    "unequal weights": (_result({**MEAN, "weights": [0.7, 0.3]}, ARGMAX), "MeanEnsembled: weights are [0.7, 0.3], and a bundle weighs its networks alike"),
    "unequal weights of classes": (_result({**MEAN, "weights": [[1, 1, 1], [1, 2, 1]]}, ARGMAX), "MeanEnsembled: weights are"),
    "a network that gives an ensemble": (_supervised, "MeanEnsembled: joins pred, which one network gives"),
    "never joined": (_result(SOFTMAX), "leaves pred_0, pred_1 apart; expected a MeanEnsembled or VoteEnsembled"),
    "joined twice": (_result(MEAN, MEAN, ARGMAX), "MeanEnsembled: joins pred, which one network gives or which were joined before"),
    "treated differently": (_different, "MeanEnsembled: joins pred_0 and pred_1, which were treated differently before (nothing, postprocessing#transforms#0 Activationsd)"),
    "some of them": (_result({**MEAN, "keys": ["pred_0", "image"]}, ARGMAX), "its keys are ['pred_0', 'image'], expected those of all networks: pred_0, pred_1"),
    "another item": (_result({**SOFTMAX, "keys": ["pred_0", "label"]}, MEAN, ARGMAX), "its keys are ['pred_0', 'label'], expected some of pred_0, pred_1"),
    "no output_key": (_result({**MEAN, "output_key": None}, ARGMAX), "MeanEnsembled: has no output_key"),
    "a result deleted": (_result({"_target_": "DeleteItemsd", "keys": "pred_1"}, MEAN, ARGMAX), "DeleteItemsd: deletes pred_1"),
    "a mean of labels": (_result(ARGMAX, MEAN), "MeanEnsembled: takes the mean of labels"),
    "a vote on scores": (_result(VOTE, ARGMAX), "VoteEnsembled: votes on scores"),
    "a vote of label values": (_result(ARGMAX, VOTE), "VoteEnsembled: rounds the mean of label values [1, 2]; expected num_classes 3"),
    "a vote of fewer classes": (_result(ARGMAX, {**VOTE, "num_classes": 2}), "num_classes is 2, and the labels are [1, 2]"),
    "a vote of one-hot labels": (_result({**ARGMAX, "to_onehot": 3}, VOTE), "VoteEnsembled: gives no label where none of 3 has more than half of the votes"),
    "a vote of thresholded channels": (_result(HALF, VOTE), "VoteEnsembled: votes on 3 thresholded channels apart"),
    "a vote behind a clean-up": (_result(ARGMAX, {"_target_": "KeepLargestConnectedComponentd"}, {**VOTE, "num_classes": 3}), "VoteEnsembled: votes on labels that were cleaned up"),
    "a vote on scores that came back": (_result(invert(nearest=False), ARGMAX, {**VOTE, "num_classes": 3}), "VoteEnsembled: votes on labels of scores or values that Invertd interpolated"),
    "activated behind Invertd": (_result(invert(nearest=False), SOFTMAX, MEAN, ARGMAX), "MeanEnsembled: takes the mean of scores that were activated behind Invertd"),
    "no networks": (lambda i: i["evaluator"].pop("networks"), "evaluator#networks: has no networks"),
    "networks by code": (lambda i: i["evaluator"].update(networks="$mine()"), "evaluator#networks is the expression '$mine()', which calls mine"),
    "keys of another number": (lambda i: i["evaluator"].update(pred_keys=["a"]), "evaluator#pred_keys: is ['a'], expected a key for each of 2 networks"),
    "one key twice": (lambda i: i["evaluator"].update(pred_keys=["a", "a"]), "evaluator#pred_keys: is ['a', 'a']"),
    "a network without weights": (lambda i: i["handlers"].pop(), "net_1: is a network of the ensemble, and no CheckpointLoader has it"),
    "a network of another loader": (lambda i: i["handlers"][1].update(load_dict={"model": "@network_def"}), "net_1: is a network of the ensemble, and no CheckpointLoader has it"),
    "loaders by code": (lambda i: i.update(handlers="$[monai.handlers.CheckpointLoader(p, n) for p, n in @pairs]"), "handlers loads weights by the expression"),
    "networks of other channels": (lambda i: i.update(net_1={**i["network_def"], "out_channels": 4}), "net_0: the networks of the ensemble give 3, 4 channels"),
    "another evaluator": (lambda i: i["evaluator"].update(_target_="monai.apps.EnsembleEvaluators"), "expected MONAI's SupervisedEvaluator or EnsembleEvaluator"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two networks."""
    return written(tmp_path_factory.mktemp("plain") / "b", image, CASES["mean of scores"])[0]


@pytest.mark.parametrize("case", BAD)
def test_what_a_stage_cannot_say_is_refused_by_name(case: str, plain: Path) -> None:
    edit, message = BAD[case]
    path = plain / "configs" / "inference.json"
    before = path.read_text()
    content = json.loads(before)
    edit(content)
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(ExportError) as caught:
            monai_bundle.recipe(plain, monai_bundle.Options())
    finally:
        path.write_text(before)
    told = str(caught.value)
    assert message in told
    assert told.startswith(str(plain))
    assert "\n" not in told
    assert len(told) < 700
