"""MONAI's transforms of the scan, each with what a stage says instead.

The fields of a transform are the arguments that have a counterpart. It changes the `Scan`, or refuses what a manifest
cannot say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict

from lowres_seg.bundle.grids import Interpolation
from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, Phase, Threshold, ZScore
from lowres_seg.export.importers.monai_arguments import Arguments
from lowres_seg.export.importers.monai_config import JOINED
from lowres_seg.volumes.orientations import STORED

IMAGE = "image"
_Given = TypeVar("_Given")


def _truth(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


#: Some bundles write truth values as text.
Truth = Annotated[bool, BeforeValidator(_truth)]
Keys = Annotated[list[str], BeforeValidator(lambda keys: [keys] if isinstance(keys, str) else keys)]


@dataclass
class Scan:
    """What the transforms of a scan have done so far.

    Attributes
    ----------
    channels : sequence of str
        Names of the channels that the network takes.
    images : dict of str to tuple of str
        Channels of each item that holds a part of the scan.
    later : sequence of str
        Names of the transforms that follow.
    conform : dict
        Keys of a stage's `Conform`.
    region : dict
        Keys of a stage's region.
    rules : list of rule
    phase : str
        Step of the stage at which the next intensity rule applies.
    restores_by : str
        Interpolation of the way back, unless MONAI is told to take the nearest.
    """

    channels: Sequence[str]
    images: dict[str, tuple[str, ...]]
    later: list[str] = field(default_factory=list)
    conform: dict[str, Any] = field(default_factory=lambda: {"orientation": STORED})
    region: dict[str, Any] = field(default_factory=lambda: {"kind": "volume"})
    rules: list[IntensityRule] = field(default_factory=list)
    phase: Phase = "after-conform"
    restores_by: Interpolation = "linear"

    @property
    def is_moved(self) -> bool:
        """True if the scan is no longer the array as it was read, turned at most."""
        return bool(set(self.conform) - {"orientation", "pad", "pad_value"}) or self.region["kind"] != "volume"

    @property
    def is_resampled(self) -> bool:
        """True if the grid was resampled."""
        spacing = self.conform.get("spacing_mm")
        return (spacing is not None and spacing != [None] * 3) or self.restores_by != "linear" or self.is_stretched

    @property
    def is_padded(self) -> bool:
        """True if a transform padded the scan."""
        return any(key in self.conform for key in ("at_least", "multiple_of")) or (
            "shape" in self.conform and not self.is_stretched
        )

    @property
    def is_stretched(self) -> bool:
        """True if the grid was stretched to a shape."""
        return "shape" in self.conform and "spacing_mm" not in self.conform

    def will(self, *names: str) -> bool:
        """Tell whether one of these transforms follows."""
        return any(name in self.later for name in names)

    def add(self, items: Sequence[str], *rules: IntensityRule) -> None:
        """Append intensity rules for the channels of some items."""
        named = [name for item in items for name in self.images[item]]
        whole = set(named) == set(self.channels)
        for rule in rules:
            chosen = rule.channels or (() if whole else tuple(named))
            self.rules.append(rule.model_copy(update={"channels": chosen, "when": self.phase}))
            self._change_padding(rule)

    def _change_padding(self, rule: IntensityRule) -> None:
        """Change the value of a padding as a rule behind it changes it."""
        if not self.is_padded:
            return
        pointwise = isinstance(rule, Affine | Clip | Threshold)
        if self.conform["pad"] not in ("zero", "value"):
            if not pointwise:
                raise ValueError("takes statistics of a scan that was padded before; put it before the padding")
            return
        value = float(self.conform.get("pad_value", 0.0))
        match rule:
            case Affine(voxels="all"):
                value = value * rule.scale + rule.shift
            case Affine():
                value = value * rule.scale + rule.shift if value else value
            case Clip():
                value = min(max(value, rule.lower), rule.upper)
            case Threshold():
                kept = (rule.above is None or value > rule.above) and (rule.below is None or value < rule.below)
                value = value if kept else rule.becomes
            case ZScore(voxels="nonzero") if value == 0:
                pass
            case _:
                raise ValueError("takes statistics of a scan that was padded before; put it before the padding")
        self.conform.pop("pad_value", None)
        self.conform |= padding_by("constant", value)

    def needs_a_grid(self) -> None:
        """Keep the scan's own spacing, so that it may be cropped and padded."""
        if "shape" not in self.conform:
            self.conform.setdefault("spacing_mm", [None] * 3)
            self.conform.setdefault("convention", "monai")
        self.conform.setdefault("pad", "zero")


def padding_by(mode: str, value: float) -> dict[str, Any]:
    """Keys of a stage's `Conform` for a padding. Raises ValueError if it has none for the mode."""
    pads = {"replicate": "edge", "edge": "edge", "reflect": "reflect", "circular": "wrap", "wrap": "wrap"}
    if mode == "constant":
        return {"pad": "value", "pad_value": value} if value else {"pad": "zero"}
    if mode not in pads:
        raise ValueError(f"mode is {mode!r}: expected constant, replicate, reflect or circular")
    return {"pad": pads[mode]}


def just_below(value: float) -> float:
    """Largest float32 below a threshold: MONAI marks what equals its threshold, a bundle what exceeds it."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


class Transform(Arguments):
    """A transform that changes no values, but may change their places."""

    keys: Keys

    def items(self, scan: Scan) -> list[str]:
        """Items among its keys that hold a part of the scan."""
        return [key for key in self.keys if key in scan.images]

    def apply(self, scan: Scan) -> None:
        """Apply its effects. Raises ValueError if a manifest cannot express them."""

    def all_items(self, scan: Scan) -> list[str]:
        """Items among its keys, which must be all parts of the scan."""
        items = self.items(scan)
        if set(items) != set(scan.images):
            left = [item for item in scan.images if item not in items]
            raise ValueError(f"changes the grid of {', '.join(items)} and not of {', '.join(left)}; expected all")
        return items

    def of_item(self, value: _Given | list[_Given], item: str) -> _Given:
        """Argument that is given once, or once for each key."""
        if not isinstance(value, list):
            return value
        if len(value) != len(self.keys):
            raise ValueError(f"{value} are {len(value)} values for {len(self.keys)} keys")
        return value[self.keys.index(item)]

    def same_for_all(self, value: _Given | list[_Given], items: Sequence[str]) -> _Given:
        """Argument that is the same for all parts of the scan."""
        found = [self.of_item(value, item) for item in items]
        if any(one != found[0] for one in found):
            raise ValueError(f"{value} differ between {', '.join(items)}; expected one value for all parts of the scan")
        return found[0]


def check_type(transform: Transform, dtype: Any, items: Sequence[str]) -> None:
    """Check that parts of the scan become or stay real numbers. Raises ValueError if not."""
    for item in items:
        found = transform.of_item(dtype, item)
        if found not in (None, "float32", "float64", "float"):
            raise ValueError(f"dtype is {found!r}: expected float32")


class LoadImaged(Transform):
    """The caller of a bundle reads the scan."""

    ignored = (
        "image_only ensure_channel_first meta_keys meta_key_postfix overwriting simple_keys prune_meta_pattern "
        "prune_meta_sep expanduser"
    )
    reader: Literal["NibabelReader", "ITKReader", "NibabelReader()", "ITKReader()"] | dict[str, Any] | None = None
    dtype: Any = None

    def apply(self, scan: Scan) -> None:
        """Check the reader and the type."""
        check_type(self, self.dtype, self.items(scan))
        reader = self.reader
        if isinstance(reader, dict):
            name = str(reader.get("_target_", "")).rpartition(".")[2]
            others = [key for key in reader if not key.startswith("_")]
            if name not in ("NibabelReader", "ITKReader") or others:
                raise ValueError(f"reader is {reader}: expected NibabelReader or ITKReader without arguments")


class Same(Transform):
    """A transform that changes neither values nor their places."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    dtype: Any = None

    def apply(self, scan: Scan) -> None:
        """Check that values stay real numbers."""
        check_type(self, self.dtype, self.items(scan))


class DeleteItemsd(Transform):
    """A transform that removes items."""

    ignored = "sep"
    use_re: Literal[False] = False

    def apply(self, scan: Scan) -> None:
        """Check that the scan is not removed."""
        lost = [item for item in self.items(scan) if item == IMAGE]
        if lost:
            raise ValueError(f"deletes {lost[0]}")


def named(*kinds: type[Transform]) -> dict[str, type[Transform]]:
    """Transforms by name."""
    return {kind.__name__: kind for kind in kinds}


#: Transforms that change nothing, before and after the network.
HARMLESS: dict[str, type[Transform]] = named(DeleteItemsd) | dict.fromkeys(
    (
        "EnsureTyped", "ToTensord", "CastToTyped", "ToDeviced", "Identityd", "AddChanneld", "AsChannelFirstd",
        "EnsureChannelFirstd", "SelectItemsd", "CopyItemsd", "FlattenSubKeysd", "ToNumpyd",
    ),
    Same,
)  # fmt: skip


def starting(channels: Sequence[str], chain: Iterable[tuple[str, dict[str, Any]]]) -> Scan:
    """The scan before its transforms: which items hold which channels.

    The network takes the item ``image``. If it is joined from others, each of them holds one channel.

    Raises
    ------
    ValueError
        If there are as many items as the network does not take channels.
    """
    parts: tuple[str, ...] = (IMAGE,)
    loaded: set[str] = set()
    for name, given in chain:
        keys = given.get("keys")
        named_keys = [str(key) for key in keys] if isinstance(keys, list) else [str(keys)]
        if name in ("ConcatItemsd", JOINED) and given.get("name") == IMAGE and loaded.issuperset(named_keys):
            parts = tuple(dict.fromkeys(named_keys))
        if name == "LoadImaged":
            loaded.update(named_keys)
    if parts == (IMAGE,):
        return Scan(channels, {IMAGE: tuple(channels)})
    if len(parts) != len(channels):
        raise ValueError(
            f"ConcatItemsd joins {', '.join(parts)} into image, and the network takes {len(channels)} channels; "
            "expected a key for each channel"
        )
    return Scan(channels, {part: (name,) for part, name in zip(parts, channels, strict=True)})
