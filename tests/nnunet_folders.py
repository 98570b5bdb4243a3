"""Results folders of nnU-Net v2 as its own trainer saves them, made without training, and its own prediction on them.

The oracle of the nnU-Net tests. Needs nnunetv2; nothing of it is imported before a function is called.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np

TRANSFORMERS = (
    "nnunetv2.training.nnUNetTrainer.primus.primus_trainers",
    "dynamic_network_architectures.architectures.dinov2_eva",
    "dynamic_network_architectures.architectures.primus",
)
UNET = "dynamic_network_architectures.architectures.unet."
BLOCKS = {"PlainConvUNet": ("n_conv_per_stage", 2, 2), "ResidualEncoderUNet": ("n_blocks_per_stage", 1, 1)}
#: Of the last layer, as a share of the mean variance of its features.
DECAY = 0.05
INTENSITIES = {
    "max": 1500.0, "mean": 350.0, "median": 330.0, "min": -20.0,
    "percentile_00_5": 20.0, "percentile_99_5": 900.0, "std": 180.0,
}  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[Path]:
    """Give nnU-Net folders of its own for as long as this lasts, and keep what it prints."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        # nnU-Net looks for a class in every module, and these want packages of their own.
        for name in TRANSFORMERS:
            sys.modules.setdefault(name, types.ModuleType(name))
        homes = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folder)
        stack.enter_context(mock.patch.dict(os.environ, homes | {"nnUNet_compile": "false"}))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield Path(folder)


def _architecture(
    name: str, patch_size: Sequence[int], spacing: Sequence[float], features: Sequence[int]
) -> tuple[dict[str, Any], list[int]]:
    """Choose strides and kernels as the planner does; a patch that they do not divide grows."""
    from dynamic_network_architectures.building_blocks import helper
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, patch, _ = get_pool_and_conv_props(spacing, patch_size, 4, len(features) - 1)
    stages = len(strides)
    conv = helper.convert_dim_to_conv_op(len(patch))
    norm = helper.get_matching_instancenorm(conv)
    blocks, encoder, decoder = BLOCKS[name]
    keywords = {
        "n_stages": stages,
        "features_per_stage": list(features[:stages]),
        "conv_op": f"{conv.__module__}.{conv.__name__}",
        "kernel_sizes": kernels,
        "strides": strides,
        blocks: [encoder] * stages,
        "n_conv_per_stage_decoder": [decoder] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"{norm.__module__}.{norm.__name__}",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    requires = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return {"network_class_name": UNET + name, "arch_kwargs": keywords, "_kw_requires_import": requires}, [
        int(n) for n in patch
    ]


def _as_before_2_4(plan: dict[str, Any], network: str) -> None:
    """Write the architecture of a plan as nnU-Net wrote it before 2.4."""
    keywords = plan.pop("architecture")["arch_kwargs"]
    strides = keywords["strides"]
    plan |= {
        "UNet_class_name": network,
        "UNet_base_num_features": keywords["features_per_stage"][0],
        "n_conv_per_stage_encoder": keywords[BLOCKS[network][0]],
        "n_conv_per_stage_decoder": keywords["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [sum(stride[axis] > 1 for stride in strides) for axis in range(len(strides[0]))],
        "pool_op_kernel_sizes": strides,
        "conv_kernel_sizes": keywords["kernel_sizes"],
        "unet_max_num_features": keywords["features_per_stage"][-1],
    }


def _phantom(shape: Sequence[int], channels: int) -> np.ndarray:
    """Draw a normalised scan: a smooth ball in nothing."""
    import torch

    shape = (*[8] * (3 - len(shape)), *shape)
    smooth = torch.randn(channels, *shape)
    for _ in range(4):
        smooth = torch.nn.functional.avg_pool3d(smooth, 5, stride=1, padding=2)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = sum(axis**2 for axis in axes[-2:]) < 0.7
    return (torch.where(ball, 1 + smooth / smooth.std(), 0) + 0.02 * torch.randn(smooth.shape)).numpy()


def _preprocessed(trainer: Any, files: Sequence[Path], previous: Path | None) -> np.ndarray:
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    plans, plan = trainer.plans_manager, trainer.configuration_manager
    preprocessor = plan.preprocessor_class(verbose=False)
    labels = None if previous is None else str(previous)
    scan, seg, _ = preprocessor.run_case([str(f) for f in files], labels, plans, plan, trainer.dataset_json)
    if previous is not None:
        scan = np.vstack(
            (scan, convert_labelmap_to_one_hot(seg[0], trainer.label_manager.foreground_labels, np.float32))
        )
    return np.ascontiguousarray(scan, np.float32)


def preprocessed(folder: Path, configuration: str, files: Sequence[Path], previous: Path | None) -> np.ndarray:
    """What nnU-Net gives the network of a folder: channels, and the previous stage's labels one by one."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    with _quiet():
        manager = PlansManager(plans)
        trainer = types.SimpleNamespace(
            plans_manager=manager,
            configuration_manager=manager.get_configuration(configuration),
            label_manager=manager.get_label_manager(dataset),
            dataset_json=dataset,
        )
        return _preprocessed(trainer, files, previous)


def _tiles(data: Any, patch: Sequence[int]) -> Iterator[Any]:
    """Yield at most a dozen tiles that do not overlap much, as the network takes them."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    data = pad_nd_image(data, patch)
    slices = [range(data.shape[1])] if len(patch) == 2 else []
    steps = compute_steps_for_sliding_window(data.shape[-len(patch) :], patch, 1.0)
    corners = list(itertools.product(*slices, *steps))
    for corner in corners[:: math.ceil(len(corners) / 12)]:
        box = (slice(at, at + size) for at, size in zip(corner[-len(patch) :], patch, strict=True))
        yield data[(slice(None), *corner[: -len(patch)], *box)][None]


def _settle(
    network: Any,
    data: np.ndarray,
    patch: Sequence[int],
    heads: Sequence[set[int]],
    labels: Sequence[int],
    plain: bool,
    channels: int,
) -> None:
    """Make every parameter matter, and the last layer follow the intensity, so that each label occurs in `data`.

    The intensity is that of the first `channels` channels of `data`.
    """
    import torch

    for name, value in network.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(value, 0.5, 1.5)
        elif value.ndim == 1:
            torch.nn.init.normal_(value, 0, 0.1)
        else:  # smoother than He's, as trained kernels are
            value.mul_(0.2).add_(value.mean(tuple(range(2, value.ndim)), keepdim=True), alpha=4)

    scan = torch.from_numpy(data)
    seen_first = scan[:channels]
    mean = seen_first - seen_first.mean((1, 2, 3), keepdim=True)
    mean = (mean / seen_first.std((1, 2, 3), keepdim=True)).mean(0, keepdim=True)
    mean[:, (seen_first.abs() < 1e-3).all(0)] = -3  # outside the mask that the normalisation had
    for _ in range(2):
        mean = torch.nn.functional.avg_pool3d(mean, (1, 9, 9), stride=1, padding=(0, 4, 4))

    norms = [part for part in network.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # a plain mean
        network.train()
        for tile in _tiles(scan, patch):
            network(tile)
    last = network.decoder.seg_layers[-1]
    seen: list[Any] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(2)[0].T[::7]))
    network.eval()
    wanted = []
    for tile in _tiles(torch.cat([scan, mean]), patch):
        network(tile[:, :-1])
        wanted.append(tile[0, -1].flatten()[::7])
    hook.remove()
    features, target = torch.cat(seen).double(), torch.cat(wanted).double()
    apart = features - features.mean(0)
    # Weight decay, as training has: weights that cancel each other would amplify what rounding does.
    product = apart.T @ apart
    product += DECAY * product.diagonal().mean() * torch.eye(len(product))
    weight = torch.linalg.solve(product, apart.T @ (target - target.mean()))
    weight = torch.cat([weight, (target.mean() - features.mean(0) @ weight)[None]])
    features = torch.nn.functional.pad(features, (0, 1), value=1.0)
    bands = np.linspace(float((mean <= 0).double().mean()), 1, len(labels))[:-1]
    edges = dict(zip(labels[1:], np.quantile((features @ weight).numpy(), bands), strict=True))
    for n, head in enumerate(heads):
        # of plain labels the highest that the fit passes wins; a region is where it passes the region's first label
        passed = [edge for value, edge in edges.items() if (value <= max(head) if plain else value == min(head))]
        row = len(passed) * weight
        row[-1] -= sum(passed)
        last.weight[n] = 4 * row[:-1].reshape(last.weight[n].shape)
        last.bias[n] = 4 * row[-1]


def make_folder(
    folder: Path,
    *,
    channels: Sequence[str],
    patch_size: Sequence[int],
    spacing: Sequence[float],
    labels: dict[str, Any],
    configuration: str = "3d_fullres",
    regions_class_order: Sequence[int] | None = None,
    normalization: Sequence[str] | None = None,
    use_mask_for_norm: Sequence[bool] | None = None,
    intensities: Sequence[dict[str, float]] | None = None,
    network: str = "PlainConvUNet",
    features: Sequence[int] = (8, 16, 32, 32),
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "final",
    mirroring: tuple[int, ...] | None = (0, 1, 2),
    transpose_forward: Sequence[int] = (0, 1, 2),
    reader: str = "SimpleITKIO",
    example: Sequence[Path] = (),
    before_2_4: bool = False,
    trainer: str = "nnUNetTrainer",
    resampling: str = "default",
    resampling_keywords: dict[str, dict[str, Any]] | None = None,
    refines: str | None = None,
    previous: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write dataset.json, plans.json and a checkpoint for each fold, as `nnUNetTrainer` writes them.

    `patch_size` and `spacing` are those of the plans: axes of the reader (k, j, i) after `transpose_forward`, and the
    last two of them for "2d". The patch grows to what the strides divide. Each label occurs in the scan `example`, one
    file per channel; without one, in a phantom. `resampling_keywords` change those of data, seg and probabilities.
    `refines` is the previous configuration of a cascade, and `previous` the labels that it gave `example`.
    """
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    architecture, patch = _architecture(network, patch_size, spacing, features)
    planner = ExperimentPlanner
    if resampling in ("torch", "all in torch"):
        from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import (
            nnUNetPlannerResEncL_torchres_sepz as planner,
        )
    elif resampling == "no":
        from nnunetv2.experiment_planning.experiment_planners.resampling.planners_no_resampling import (
            nnUNetPlannerResEncL_noResampling as planner,
        )
    data, data_keywords, seg, seg_keywords = planner.determine_resampling(None)
    if resampling == "torch":  # of scans alone
        planner = ExperimentPlanner
    scores, scores_keywords = planner.determine_segmentation_softmax_export_fn(None)
    if resampling == "linear":
        data_keywords = data_keywords | {"order": 1}
    plan = {
        "data_identifier": f"nnUNetPlans_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": list(spacing),
        "normalization_schemes": list(normalization or ["ZScoreNormalization"] * len(channels)),
        "use_mask_for_norm": list(use_mask_for_norm or [False] * len(channels)),
        "resampling_fn_data": data.__name__,
        "resampling_fn_seg": seg.__name__,
        "resampling_fn_data_kwargs": data_keywords,
        "resampling_fn_seg_kwargs": seg_keywords,
        "resampling_fn_probabilities": scores.__name__,
        "resampling_fn_probabilities_kwargs": scores_keywords,
        "architecture": architecture,
        "batch_dice": configuration == "2d",
    }
    for kind, changes in (resampling_keywords or {}).items():
        plan[f"resampling_fn_{kind}_kwargs"] |= changes
    if before_2_4:
        _as_before_2_4(plan, network)
    if refines is not None:
        plan["previous_stage"] = refines
    full = [1.0] * (3 - len(spacing)) + list(spacing)
    plans = {
        "dataset_name": "Dataset999_Seeded",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": full,
        "original_median_shape_after_transp": [155] * (3 - len(patch)) + patch,
        "image_reader_writer": reader,
        "transpose_forward": list(transpose_forward),
        "transpose_backward": np.argsort(transpose_forward).tolist(),
        "configurations": {configuration: plan},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(n): dict(own) for n, own in enumerate(intensities or [INTENSITIES] * len(channels))
        },
    }
    dataset = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": labels,
        "numTraining": 20,
        "file_ending": ".nii.gz",
    }
    if regions_class_order is not None:
        dataset["regions_class_order"] = list(regions_class_order)
    recursive_fix_for_json_export(plans)
    return seed_folder(
        folder, plans, dataset, configuration, folds=folds, checkpoint=checkpoint, mirroring=mirroring, trainer=trainer,
        example=example, previous=previous, seed=seed,
    )  # fmt: skip


def seed_folder(
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str,
    *,
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "final",
    mirroring: tuple[int, ...] | None = (0, 1, 2),
    trainer: str = "nnUNetTrainer",
    example: Sequence[Path] = (),
    previous: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write the files of a results folder with these plans, and a checkpoint with seeded weights for each fold."""
    import torch
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    channels = len(dataset["channel_names"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=4), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=4), encoding="utf-8")

    for number, fold in enumerate(folds):
        with _quiet(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed * 100 + number)
            copies = json.loads(json.dumps([plans, dataset]))
            kind = recursive_find_trainer_class_by_name(trainer)
            made = kind({**copies[0], "continue_training": False}, configuration, fold, copies[1], torch.device("cpu"))
            manager = made.label_manager
            values = [int(v) for v in manager.all_labels]
            heads = (
                [set(np.atleast_1d(r).tolist()) for r in manager.foreground_regions]
                if manager.has_regions
                else [{v} for v in values]
            )
            made.network = made.build_network_architecture(
                made.plans_manager,
                made.configuration_manager,
                determine_num_input_channels(made.plans_manager, made.configuration_manager, copies[1]),
                manager.num_segmentation_heads,
            )
            patch = made.configuration_manager.patch_size
            scan = _preprocessed(made, example, previous) if example else _phantom(patch, channels)
            _settle(made.network, scan, patch, heads, values, not manager.has_regions, channels)
            _pretend_to_have_trained(made, len(heads))
            made.inference_allowed_mirroring_axes = None if mirroring is None else mirroring[: len(patch)]
            (folder / f"fold_{fold}").mkdir(exist_ok=True)
            made.save_checkpoint(str(folder / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth"))
    return folder


def _pretend_to_have_trained(trainer: Any, heads: int) -> None:
    """Leave the optimizer's momenta and a log of the NumPy scalars that a trainer logs."""
    import torch

    trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
    for value in trainer.network.parameters():
        value.grad = torch.zeros_like(value)
    trainer.optimizer.step()
    for epoch in range(2):
        trainer.logger.log("epoch_start_timestamps", time.time(), epoch)
        trainer.logger.log("lrs", 0.01, epoch)
        trainer.logger.log("train_losses", np.float32(-0.5), epoch)
        trainer.logger.log("val_losses", np.float32(-0.4), epoch)
        trainer.logger.log("mean_fg_dice", np.float64(0.8), epoch)
        trainer.logger.log("dice_per_class_or_region", [np.float32(0.8)] * heads, epoch)
        trainer.logger.log("epoch_end_timestamps", time.time(), epoch)
    trainer._best_ema = np.float64(0.8)
    trainer.current_epoch = 1


def predict_with_nnunet(
    folder: Path,
    files: Sequence[Path],
    *,
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "checkpoint_final.pth",
    mirroring: bool = False,
    step_size: float = 0.5,
    gaussian: bool = True,
    previous: Path | None = None,
    probabilities: Path | None = None,
    out: Path | None = None,
) -> np.ndarray:
    """Labels in the axis order of nibabel, by `nnUNetPredictor` in this process; one file per channel, in order.

    `previous` is what the previous stage of a cascade gave. Probabilities are written to the .npz `probabilities`, and
    the labels to `out`, if they are named.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with _quiet() as scratch:
        predictor = nnUNetPredictor(
            tile_step_size=step_size,
            use_gaussian=gaussian,
            use_mirroring=mirroring,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), checkpoint)
        reader = predictor.plans_manager.image_reader_writer_class()
        images, properties = reader.read_images([str(f) for f in files])
        before = None if previous is None else reader.read_seg(str(previous))[0]
        case = str(scratch / "case")
        predictor.predict_single_npy_array(images, properties, before, case, probabilities is not None)
        if probabilities is not None:
            shutil.move(f"{case}.npz", probabilities)
        found = np.asanyarray(nibabel.load(f"{case}.nii.gz").dataobj)
        if out is not None:
            shutil.move(f"{case}.nii.gz", out)
        return found
