"""MONAI bundles laid out as the model zoo publishes them, with seeded weights, and MONAI's own prediction on them.

The oracle of the MONAI tests. Needs monai; nothing of it is imported before a function is called.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

Config = dict[str, Any]
#: What the published BraTS bundle makes of its three channels.
PAINT = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _metadata(name: str, channels: Sequence[str], scores: Sequence[str], spatial: Sequence[Any]) -> Config:
    def data(names: Sequence[str], kind: str) -> Config:
        return {
            "type": "image", "format": kind, "modality": "MR", "num_channels": len(names),
            "spatial_shape": list(spatial), "dtype": "float32", "value_range": [], "is_patch_data": True,
            "channel_def": {str(index): text for index, text in enumerate(names)},
        }  # fmt: skip

    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json",
        "version": "0.5.3",
        "changelog": {"0.5.3": "for tests"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "name": name,
        "task": f"{name} for tests",
        "description": "Seeded weights in the layout of a published bundle",
        "authors": "MONAI team",
        "copyright": "Copyright (c) MONAI Consortium",
        "intended_use": "This is an example, not to be used for diagnostic purposes",
        "network_data_format": {
            "inputs": {"image": data(channels, "magnitude")},
            "outputs": {"pred": data(scores, "segmentation")},
        },
    }


def _inference(network: Config, before: list[Config], inferer: Config, after: list[Config]) -> Config:
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 4,
        },
        "inferer": {"_target_": "SlidingWindowInferer", **inferer},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
            "val_handlers": "@handlers", "amp": True,
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def brats(roi: Sequence[int] = (240, 240, 160), filters: int = 16, *, paint: bool = True) -> tuple[Config, Config]:
    """metadata.json and inference.json of brats_mri_segmentation."""
    network = {
        "_target_": "SegResNet", "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1], "init_filters": filters,
        "in_channels": 4, "out_channels": 3, "dropout_prob": 0.2,
    }  # fmt: skip
    before = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": False},
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
    ]
    after: list[Config] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {
            "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
            "meta_keys": "pred_meta_dict", "nearest_interp": False, "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {"_target_": "Lambdad", "keys": "pred", "func": PAINT},
        {
            "_target_": "SaveImaged", "keys": "pred", "meta_keys": "pred_meta_dict", "output_dir": "@output_dir",
            "output_postfix": "seg", "output_dtype": "uint8", "resample": False, "squeeze_end_dims": True,
        },
    ]  # fmt: skip
    if not paint:
        del after[3]
    metadata = _metadata(
        "BraTS MRI segmentation",
        ["T1c", "T1", "T2", "FLAIR"],
        ["Tumor core", "Whole tumor", "Enhancing tumor"],
        ["8*n"] * 3,
    )
    inferer = {"roi_size": list(roi), "sw_batch_size": 1, "overlap": 0.5}
    return metadata, _inference(network, before, inferer, after)


def _softmax(intensities: Config) -> tuple[list[Config], list[Config]]:
    """Pre- and postprocessing of the zoo's bundles with softmax and argmax, but for their resampling."""
    before = [
        {"_target_": "LoadImaged", "keys": "@image_key"},
        {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
        {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
        intensities,
        {"_target_": "EnsureTyped", "keys": "@image_key"},
    ]
    after = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key",
            "nearest_interp": False, "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
    ]  # fmt: skip
    return before, after


def unet(roi: Sequence[int] = (96, 96, 96), filters: int = 16) -> tuple[Config, Config]:
    """Those of a UNet as in spleen_ct_segmentation, with windows that weigh by a Gaussian."""
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "channels": [filters * 2**level for level in range(5)], "strides": [2, 2, 2, 2], "num_res_units": 2,
        "norm": "batch",
    }  # fmt: skip
    before, after = _softmax({
        "_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -57, "a_max": 400, "b_min": 0, "b_max": 1,
        "clip": True,
    })  # fmt: skip
    inferer = {"roi_size": list(roi), "sw_batch_size": 4, "overlap": 0.25, "mode": "gaussian", "sigma_scale": 0.25}
    return _metadata("UNet", ["image"], ["background", "Lesion"], roi), _inference(network, before, inferer, after)


def swin_unetr(
    roi: Sequence[int] = (96, 96, 96), features: int = 48, depths: Sequence[int] = (2, 2, 2, 2)
) -> tuple[Config, Config]:
    """Those of a SwinUNETR as in swin_unetr_btcv_segmentation, with an img_size that newer versions of MONAI refuse."""
    network = {
        "_target_": "SwinUNETR", "spatial_dims": 3, "img_size": 96, "in_channels": 1, "out_channels": 4,
        "depths": list(depths), "feature_size": features, "use_checkpoint": False,
    }  # fmt: skip
    before, after = _softmax({
        "_target_": "ScaleIntensityRangePercentilesd", "keys": "@image_key", "lower": 1, "upper": 99, "b_min": -1.0,
        "b_max": 1.0, "clip": True, "relative": True,
    })  # fmt: skip
    inferer = {"roi_size": list(roi), "sw_batch_size": 4, "overlap": 0.5}
    names = ["background", "Grey matter", "White matter", "CSF"]
    return _metadata("Swin UNETR", ["image"], names, roi), _inference(network, before, inferer, after)


def write(
    folder: Path,
    configs: tuple[Config, Config],
    images: Sequence[Path] = (),
    edit: Callable[[Config, Config], None] = lambda m, i: None,
) -> Path:
    """Write a bundle whose seeded network gives every label on `images`."""
    metadata, inference = copy.deepcopy(configs)
    network = _built(inference["network_def"])
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
    edit(metadata, inference)
    for place in ("configs", "models"):
        (folder / place).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference, indent=4))
    if images:
        spread(network, folder, images)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def _built(definition: Config) -> torch.nn.Module:
    with _quiet():
        from monai.networks import nets

        torch.manual_seed(0)
        given = {key: value for key, value in definition.items() if key not in ("_target_", "img_size")}
        return getattr(nets, definition["_target_"])(**given).eval()


def spread(network: torch.nn.Module, folder: Path, images: Sequence[Path]) -> None:
    """Move the last bias so that every channel is above its threshold, or above the others, somewhere."""
    parser = _parser(folder)
    with _quiet(), torch.no_grad():
        x = parser.get_parsed_content("preprocessing")({"image": [str(path) for path in images]})["image"]
        scores = parser.get_parsed_content("inferer")(x[None].float(), network)[0].flatten(1)
        bias = [value for name, value in network.named_parameters() if name.endswith("bias")][-1]
        assert bias.shape == (len(scores),)
        bias -= torch.stack([row.float().quantile(0.6) for row in scores.as_tensor()])


def _parser(folder: Path) -> Any:
    with _quiet():
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser["bundle_root"] = str(folder)
        parser["network_def"].pop("img_size", None)
        parser["postprocessing"]["transforms"] = [
            entry for entry in parser["postprocessing"]["transforms"] if entry["_target_"] != "SaveImaged"
        ]
        return parser


def predict(folder: Path, images: Sequence[Path]) -> np.ndarray:
    """What MONAI's own transforms, network and inferer make of a scan, (C, I, J, K) on its stored grid."""
    parser = _parser(folder)
    with _quiet(), torch.no_grad():
        from monai.data import decollate_batch, list_data_collate

        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
        batch = list_data_collate(
            [parser.get_parsed_content("preprocessing")({"image": [str(path) for path in images]})]
        )
        batch["pred"] = parser.get_parsed_content("inferer")(batch["image"], network)
        (case,) = decollate_batch(batch)
        return np.asarray(parser.get_parsed_content("postprocessing")(case)["pred"])


def blobs(path: Path) -> Path:
    """Write a scan of smooth bright blobs in air, stored as PLS, a little oblique."""
    import nibabel
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    data = np.zeros((58, 66, 29), np.float32)
    data[6:50, 9:60, 3:25] = gaussian_filter(random.random((44, 51, 22)), 2) * 900 - 380
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, -1.31, 0], [-1.17, 0, 0], [0, 0, 2.37]])
    nibabel.save(nibabel.Nifti1Image(np.clip(data, 0, None).round(), affine), path)
    return path


def search_codes(path: Path, blocks: int, depths: int) -> dict[str, np.ndarray]:
    """Write the checkpoint of a search of DiNTS: which paths and cells it found, as numpy arrays, by shape."""
    rng = np.random.default_rng(0)
    paths = 3 * depths - 2
    codes = {
        "arch_code_a": np.ones((blocks, paths), np.int64),
        "arch_code_c": rng.integers(0, 4, (blocks, paths)),
        "node_a": np.ones((blocks + 1, depths), np.int64),
    }
    torch.save({**codes, "iter_num": 18590}, path)
    return codes


def dints(blocks: int = 2, depths: int = 2, multiplier: float = 0.25) -> Config:
    """Changes of a configuration that make its network a DiNTS as in multi_organ_segmentation."""
    return {
        "arch_ckpt_path": "$@bundle_root + '/models/search_code.pt'",
        "arch_ckpt": "$torch.load(@arch_ckpt_path, map_location=torch.device('cuda'))",
        "dints_space": {
            "_target_": "monai.networks.nets.TopologyInstance", "channel_mul": multiplier, "num_blocks": blocks,
            "num_depths": depths, "use_downsample": True,
            "arch_code": ["$@arch_ckpt['arch_code_a']", "$@arch_ckpt['arch_code_c']"], "device": "$torch.device('cuda')",
        },
        "network_def": {
            "_target_": "monai.networks.nets.DiNTS", "dints_space": "@dints_space", "in_channels": 4, "num_classes": 3,
            "use_downsample": True, "node_a": "$torch.from_numpy(@arch_ckpt['node_a'])",
        },
    }  # fmt: skip
