"""The network of a MONAI bundle: its class, its arguments and its file of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers import monai_classes
from lowres_seg.export.importers.monai_config import Config, Role
from lowres_seg.export.importers.monai_files import whereabouts
from lowres_seg.export.importers.monai_values import Refused, UnreadableError, is_disabled, leaves, short
from lowres_seg.export.recipe import NetworkSource

#: Keys under which MONAI saves the network's state. Without one of them, or with both, the state that fits is found.
CHECKPOINT_KEYS = ("model", "state_dict")
#: Names that the classes of MONAI have for the number of channels of their output.
_OUTPUTS = ("out_channels", "num_classes", "n_classes")
#: Wrappers of several processes around the network, and their argument that holds it.
_WRAPPERS = frozenset({
    "torch.nn.DataParallel", "torch.nn.parallel.DataParallel", "torch.nn.parallel.DistributedDataParallel",
})  # fmt: skip
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
    """

    role: Role
    target: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

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


def definition(config: Config) -> Definition:
    """Read what the network is.

    Raises
    ------
    ExportError
        If it is described by an expression that cannot be read.
    """
    role = config.role("network")
    if role is None:
        return Definition(Role("network_def", None))
    entry = _unwrapped(role.entry)
    if isinstance(entry, Refused):
        return Definition(Role(role.key, entry))
    # The network is often ``$@network_def.to(@device)``; its own key says more.
    named = "network_def" if entry == config.at("network_def") else role.key
    target = entry.get("_target_") if isinstance(entry, dict) else None
    if not isinstance(target, str) or is_disabled(entry):
        return Definition(Role(named, entry))
    _, arguments = config.component(entry, named)
    return Definition(Role(named, entry), target.lstrip("."), arguments)


def source(config: Config, network: Definition) -> NetworkSource:
    """Source of the network: its class and state, or else TorchScript.

    Raises
    ------
    ExportError
        If there is no file of weights; or there is no TorchScript, and the network is none of MONAI's or has an
        argument that cannot be read.
    """
    from lowres_seg.export.frameworks import checkpoints

    folder, script = config.folder, config.folder / "models" / "model.ts"
    if network.target == "torch.jit.load":
        return NetworkSource(torchscript=_below(folder, _script(config, network)))
    checkpoint, keys = weights(config, network)
    where = config.where(network.role.key)
    if checkpoint.is_file() and checkpoints.kind_of(checkpoint) == "torchscript":
        return NetworkSource(torchscript=_below(folder, checkpoint))
    if not network.is_monais or not checkpoint.is_file():
        if script.is_file():
            if not checkpoint.is_file():
                config.notes.append(f"{checkpoint}: is missing, so the TorchScript models/{script.name} was taken")
            return NetworkSource(torchscript=_below(folder, script))
        raise ExportError(_no_network(config, network, checkpoint, where))
    plain(config, network)
    name = network.target.rpartition(".")[2]
    try:
        arguments, notes = monai_classes.arguments_taken(name, network.arguments)
    except ExportError as error:
        raise ExportError(f"{config.path}: {error}") from error
    config.notes += notes
    return NetworkSource(
        checkpoint=_below(folder, checkpoint),
        checkpoint_key=checkpoint_key(checkpoints.checkpoint(checkpoint), keys),
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


def weights(config: Config, network: Definition) -> tuple[Path, Sequence[str]]:
    """File of weights, and keys under which the state may be.

    Raises
    ------
    ExportError
        If the path of a CheckpointLoader cannot be read, or lies outside the bundle.
    """
    loaders = _loaders(config)
    if not loaders:
        _check_no_other_loads(config)
    for key in loaders[-1:]:  # the last one that runs gives the weights
        path = config.used(config.at(f"{key}#load_path"))
        objects = config.at(f"{key}#load_dict")
        where = config.where(f"{key}#load_path")
        if not isinstance(path, str):
            raise ExportError(f"{where}: is {short(path)}, expected the path of a checkpoint")
        try:
            file = config.file(path)
        except UnreadableError as error:
            raise ExportError(
                f"{where}: {error}; put the file into models, and name it relative to the bundle"
            ) from error
        own = (
            [str(name) for name, one in objects.items() if _unwrapped(one) == network.role.entry]
            if isinstance(objects, dict)
            else []
        )
        return file, own[:1] or CHECKPOINT_KEYS
    return config.folder / "models" / "model.pt", CHECKPOINT_KEYS


def checkpoint_key(content: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The one of some keys under which a checkpoint has a state; None if it has none, or several."""
    found = [key for key in keys if isinstance(content.get(key), Mapping)]
    return found[0] if len(found) == 1 else None


def own_code(folder: Path) -> list[Path]:
    """Files of code of a bundle, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix in _CODE and path.is_file())


def is_own(folder: Path, target: str) -> bool:
    """Tell whether a target such as ``scripts.networks.Mine`` names code of the bundle."""
    first = target.lstrip(".").partition(".")[0]
    return bool(first) and ((folder / first).is_dir() or (folder / f"{first}.py").is_file()) and "." in target


def _unwrapped(entry: Any) -> Any:
    """The network within wrappers of several processes."""
    while isinstance(entry, dict) and entry.get("_target_") in _WRAPPERS and "module" in entry:
        entry = entry["module"]
    return entry


def _loaders(config: Config) -> list[str]:
    """Keys of the loaders of checkpoints but those of training, in the order in which they run."""
    found = list(config.components("CheckpointLoader"))
    own = [key for key in found if key.startswith(("handlers#", "evaluator#", "validate#", "val_handlers#"))]
    return own or [key for key in found if not key.startswith("train")]


def _check_no_other_loads(config: Config) -> None:
    """Check that no expression loads weights where no CheckpointLoader does. Raises ExportError if one does."""
    for place, text in leaves(config.content, ""):
        if isinstance(text, str) and text.startswith("$") and "load_state_dict" in text:
            raise ExportError(
                f"{config.where(place.lstrip('#'))} loads weights by the expression {short(text)}, and no code of a "
                "bundle is run; expected a CheckpointLoader with their path"
            )


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


def _no_network(config: Config, network: Definition, checkpoint: Path, where: str) -> str:
    """Why there is nothing to export."""
    if network.is_monais or not checkpoint.is_file():
        there = ", ".join(sorted(p.name for p in (config.folder / "models").glob("*.*"))[:8]) or "nothing"
        said = whereabouts(config.folder, checkpoint) or f"; models has {there}"
        return f"{checkpoint}: is missing, and so is models/model.ts{said}"
    if isinstance(network.role.entry, Refused):
        return network.role.entry.message
    if not network.target:
        return f"{config.path}: has no {network.role.key}; put the network as TorchScript into models/model.ts"
    if is_own(config.folder, network.target):
        return (
            f"{where} is {network.target}, which is code of the bundle, and no code of a bundle is run; run it with "
            "--trust-code if you trust it, or put the network as TorchScript into models/model.ts"
        )
    return (
        f"{where} is {network.target[:100]}, which is not of {monai_classes.NETS}; put the network as TorchScript into "
        "models/model.ts"
    )
