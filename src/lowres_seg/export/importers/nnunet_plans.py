"""What plans.json says about a configuration: its network, its grid, its intensities.

Each function gives parts of a recipe, or refuses by name what a manifest cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, PercentileScale, ZScore
from lowres_seg.errors import ExportError

_PREPROCESSOR, _LABEL_MANAGER = "DefaultPreprocessor", "LabelManager"
#: Package of the networks that are built here. No other module of a file is imported.
_NETWORKS = "dynamic_network_architectures"
_UNET = f"{_NETWORKS}.architectures.unet"
#: Networks of plans from before 2.4, and what such plans call blocks.
_BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


@dataclass(frozen=True)
class Plan:
    """A configuration of plans.json with all that it inherits.

    Attributes
    ----------
    file : pathlib.Path
        The plans.json, for messages.
    name : str
    plans : mapping
        The whole of plans.json.
    content : mapping
        The configuration.
    """

    file: Path
    name: str
    plans: Mapping[str, Any]
    content: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, plans: Mapping[str, Any], name: str) -> Plan:
        """Find a configuration, and refuse what would treat a scan in a way that is not known.

        Raises
        ------
        ExportError
            If it is not there, inherits in a circle, or names code that is not nnU-Net's own.
        """
        file, every = folder / "plans.json", plans.get("configurations", {})
        if name not in every:
            raise ExportError(f"{file}: has no configuration {name}, which its checkpoints were trained in")
        content, line = dict(every[name]), [name]
        while (parent := content.pop("inherits_from", None)) is not None:
            if parent not in every or parent in line:
                raise ExportError(
                    f"{file}: configuration {line[-1]} inherits from {parent}, which "
                    + ("inherits from it" if parent in line else "is not there")
                )
            line.append(parent)
            content = {**every[parent], **content}
        plan = cls(file, name, plans, content)
        plan._check()
        return plan

    def _check(self) -> None:
        for what, found, expected in (
            ("scans are preprocessed", self.content.get("preprocessor_name"), _PREPROCESSOR),
            ("labels are managed", self.plans.get("label_manager", _LABEL_MANAGER), _LABEL_MANAGER),
        ):
            if found != expected:
                raise ExportError(
                    f"{self.file}: {what} by {found} in {self.name}, expected {expected}; "
                    "export the network with a recipe.toml that says what it does"
                )

    def network(self, *, batch_norm: bool) -> tuple[str, dict[str, Any]]:
        """Class of its network, and the arguments of `nnunet_network.network` that plans.json has.

        Parameters
        ----------
        batch_norm : bool
            Whether the network was trained with batch norm in place of its norm.

        Raises
        ------
        ExportError
            If the network is none of dynamic-network-architectures.
        """
        found = self.content.get("architecture")
        architecture = _before_2_4(self) if found is None else found
        path, arguments = str(architecture["network_class_name"]), dict(architecture["arch_kwargs"])
        module, _, kind = path.rpartition(".")
        if module.partition(".")[0] != _NETWORKS:
            raise ExportError(
                f"{self.file}: the network of {self.name} is {path}, expected a U-Net of {_UNET}; "
                "export another one with a recipe.toml whose factory builds it"
            )
        if batch_norm:
            if "norm_op" not in arguments:
                raise ExportError(f"{self.file}: the network of {self.name} has no norm_op to replace by batch norm")
            dimension = str(arguments["conv_op"])[-2:]
            arguments |= {"norm_op": f"torch.nn.BatchNorm{dimension}", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
        return kind, {"arguments": arguments, "by_name": architecture["_kw_requires_import"]}

    @property
    def previous(self) -> str | None:
        """Configuration whose labels the network takes as further channels."""
        return self.content.get("previous_stage")

    @property
    def patch_size(self) -> list[int]:
        """Shape of a window: two numbers for a network of slices, else three."""
        return list(self.content["patch_size"])


def _before_2_4(plan: Plan) -> dict[str, Any]:
    """The entry ``architecture`` of a configuration that nnU-Net planned before 2.4, as nnU-Net 2.8 reads it."""
    content = plan.content
    if "UNet_class_name" not in content:
        raise ExportError(
            f"{plan.file}: configuration {plan.name} has no architecture, nor the UNet_class_name of plans "
            "from before 2.4; expected one of them"
        )
    kind = str(content["UNet_class_name"])
    if kind not in _BLOCKS:
        raise ExportError(
            f"{plan.file}: the network of {plan.name} is {kind}, expected one of {', '.join(_BLOCKS)}; "
            "export another one with a recipe.toml whose factory builds it"
        )
    encoder, dimension = content["n_conv_per_stage_encoder"], len(plan.patch_size)
    first, most = content["UNet_base_num_features"], content["unet_max_num_features"]
    return {
        "network_class_name": f"{_UNET}.{kind}",
        "arch_kwargs": {
            "n_stages": len(encoder),
            "features_per_stage": [min(first * 2**stage, most) for stage in range(len(encoder))],
            "conv_op": f"torch.nn.Conv{dimension}d",
            "kernel_sizes": content["conv_kernel_sizes"],
            "strides": content["pool_op_kernel_sizes"],
            _BLOCKS[kind]: encoder,
            "n_conv_per_stage_decoder": content["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def intensities(plan: Plan, channels: Sequence[str], previous: str | None = None) -> tuple[IntensityRule, ...]:
    """Intensity rules of each channel.

    Parameters
    ----------
    plan : Plan
    channels : sequence of str
    previous : str or None
        Stage whose labels nnU-Net takes as inside the scan too.

    Raises
    ------
    ExportError
        If a channel has none, or one that is not known.
    """
    schemes, masked = plan.content["normalization_schemes"], plan.content["use_mask_for_norm"]
    if len(schemes) != len(channels) or len(masked) != len(channels):
        raise ExportError(
            f"{plan.file.parent}: plans.json normalises {len(schemes)} channels, dataset.json has {len(channels)}"
        )
    rules: list[IntensityRule] = []
    for index, (channel, scheme, mask) in enumerate(zip(channels, schemes, masked, strict=True)):
        one = (channel,)
        if scheme == "ZScoreNormalization":
            where: Any = {"voxels": "inside", "inside_also": previous} if mask else {"voxels": "all"}
            rules.append(ZScore(channels=one, **where))
        elif scheme == "CTNormalization":
            known = _foreground(plan)[str(index)]
            scale = 1 / max(known["std"], 1e-8)
            rules.append(Clip(channels=one, lower=known["percentile_00_5"], upper=known["percentile_99_5"]))
            rules.append(Affine(channels=one, scale=scale, shift=-known["mean"] * scale))
        elif scheme == "RescaleTo01Normalization":
            rules.append(PercentileScale(channels=one, lower=0, upper=100, clip="none"))
        elif scheme == "RGBTo01Normalization":
            rules.append(Affine(channels=one, scale=1 / 255))
        elif scheme != "NoNormalization":
            raise ExportError(
                f"{plan.file}: channel {channel} is normalised by {scheme}, unknown here; expected ZScore, "
                "CT, RescaleTo01, RGBTo01 or NoNormalization"
            )
    return tuple(rules)


def _foreground(plan: Plan) -> Mapping[str, Any]:
    """Statistics of the training cases by number of channel. The first plans of version 2 have them by modality."""
    name = "foreground_intensity_properties_per_channel"
    old = "foreground_intensity_properties_by_modality"
    found: Mapping[str, Any] = plan.plans[old if name not in plan.plans and old in plan.plans else name]
    return found
