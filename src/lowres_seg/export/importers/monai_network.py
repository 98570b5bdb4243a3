"""The network of a MONAI bundle: its class, its arguments and its file of weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers import monai_classes, monai_weights
from lowres_seg.export.importers.monai_config import PRED, Config, Role
from lowres_seg.export.importers.monai_files import whereabouts
from lowres_seg.export.importers.monai_values import (
    Component,
    Refused,
    UnreadableError,
    is_disabled,
    leaves,
    short,
)
from lowres_seg.export.recipe import NetworkSource

#: Names that the classes of MONAI have for the number of channels of their output.
_OUTPUTS = ("out_channels", "num_classes", "n_classes")
_CODE = (".py", ".pyd", ".so")


@dataclass(frozen=True)
class Definition:
    """The network as the configuration describes it.

    Attributes
    ----------
    role : Role
    target : str
        Full or short name of its class; empty if the configuration has no network.
    arguments : dict
    place, count : int
        Which member of an ensemble of how many networks it is.
    """

    role: Role
    target: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    place: int = 0
    count: int = 1

    @property
    def is_monais(self) -> bool:
        """True if its class is one of ``monai.networks.nets``."""
        return bool(self.target) and monai_classes.is_network(self.target)

    @property
    def is_flat(self) -> bool:
        """True if the network takes slices."""
        if self.is_monais:
            return monai_classes.is_flat(self.target.rpartition(".")[2], self.arguments)
        return 2 in (self.arguments.get("spatial_dims"), self.arguments.get("dimensions"))

    def channels(self, side: str) -> int | None:
        """Number of channels of the ``inputs`` or the ``outputs``; None if no argument says it."""
        names = ("in_channels",) if side == "inputs" else _OUTPUTS
        given = (self.arguments.get(name) for name in names)
        return next((n for n in given if isinstance(n, int) and n > 0), None)


def definitions(config: Config) -> dict[str, Definition]:
    """Read what the networks are, by the item that holds the result of each.

    Raises
    ------
    ExportError
        If the evaluator cannot be read.
    """
    members = config.members()
    if not members:
        return {PRED: _definition(config, config.role("network") or Role("network_def", None))}
    return {
        item: replace(_definition(config, role), place=place, count=len(members))
        for place, (item, role) in enumerate(members.items())
    }


def _definition(config: Config, role: Role) -> Definition:
    entry = monai_weights.unwrapped(role.entry)
    # The network is often ``$@network_def.to(@device)``; its own key says more.
    key = entry.key if isinstance(entry, Component) else role.key
    target = entry.get("_target_") if isinstance(entry, dict) else None
    if not isinstance(target, str) or is_disabled(entry):
        return Definition(Role(key, entry))
    _, arguments = config.component(entry, key)
    return Definition(Role(key, entry), target.lstrip("."), arguments)


def source(config: Config, network: Definition) -> NetworkSource:
    """Source of the network: its class and state, or else TorchScript.

    Raises
    ------
    ExportError
        If there is no file of weights; or there is no TorchScript, and the network is none of MONAI's or has an
        argument that cannot be read.
    """
    from lowres_seg.export.frameworks import checkpoints

    folder = config.folder
    if network.target == "torch.jit.load":
        return NetworkSource(torchscript=_below(folder, _script(config, network)))
    checkpoint, keys = monai_weights.weights(config, network.role, network.place, network.count)
    script = folder / "models" / "model.ts" if network.count == 1 else checkpoint.with_suffix(".ts")
    if checkpoint.is_file() and checkpoints.kind_of(checkpoint) == "torchscript":
        return NetworkSource(torchscript=_below(folder, checkpoint))
    if not network.is_monais or not checkpoint.is_file():
        if script.is_file():
            if not checkpoint.is_file():
                config.notes.append(f"{checkpoint}: is missing, so the TorchScript {_below(folder, script)} was taken")
            return NetworkSource(torchscript=_below(folder, script))
        raise ExportError(_no_network(config, network, checkpoint, script))
    plain(config, network)
    name = network.target.rpartition(".")[2]
    try:
        arguments, notes = monai_classes.arguments_taken(name, network.arguments)
    except ExportError as error:
        raise ExportError(
            f"{config.path}: network_def: {error}; install the version that metadata.json names, or save the network "
            "as models/model.ts"
        ) from error
    config.notes += notes
    return NetworkSource(
        checkpoint=_below(folder, checkpoint),
        checkpoint_key=monai_weights.checkpoint_key(checkpoints.checkpoint(checkpoint), keys),
        factory=f"monai:{name}",
        arguments=arguments,
    )


def plain(config: Config, network: Definition) -> None:
    """Check that every argument of the network is plain data. Raises ExportError if one is not."""
    config.used(network.arguments)
    for place, value in leaves(network.arguments, network.role.key):
        if isinstance(value, str) and value.startswith("$"):
            raise ExportError(
                f"{config.where(place)} is {short(value)}, and no code of a bundle is run; write its value"
            )


def own_code(folder: Path) -> list[Path]:
    """Files of code of a bundle, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix in _CODE and path.is_file())


def is_own(folder: Path, target: str) -> bool:
    """Tell whether a target such as ``scripts.networks.Mine`` names code of the bundle."""
    first = target.lstrip(".").partition(".")[0]
    return bool(first) and ((folder / first).is_dir() or (folder / f"{first}.py").is_file()) and "." in target


def _script(config: Config, network: Definition) -> Path:
    """File of a network that is loaded as TorchScript."""
    where, path = config.where(network.role.key), str(config.used(network.arguments.get("f")))
    try:
        file = config.file(path)
    except UnreadableError as error:
        raise ExportError(f"{where}: {error}") from error
    if not file.is_file():
        raise ExportError(f"{where}: loads {path}, which is missing{whereabouts(config.folder, file)}")
    return file


def _below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _no_network(config: Config, network: Definition, checkpoint: Path, script: Path) -> str:
    """Why there is nothing to export."""
    where, instead = config.where(network.role.key), _below(config.folder, script)
    if network.is_monais or not checkpoint.is_file():
        there = ", ".join(sorted(p.name for p in (config.folder / "models").glob("*.*"))[:8]) or "nothing"
        said = whereabouts(config.folder, checkpoint) or f"; models has {there}"
        return f"{checkpoint}: is missing, and so is {instead}{said}"
    if isinstance(network.role.entry, Refused):
        return network.role.entry.message
    if not network.target:
        return f"{config.path}: has no {network.role.key}; put the network as TorchScript into {instead}"
    if is_own(config.folder, network.target):
        return (
            f"{where} is {network.target}, which is code of the bundle, and no code of a bundle is run; run it with "
            f"--trust-code if you trust it, or put the network as TorchScript into {instead}"
        )
    return (
        f"{where} is {network.target[:100]}, which is not of {monai_classes.NETS}; put the network as TorchScript into "
        f"{instead}"
    )
