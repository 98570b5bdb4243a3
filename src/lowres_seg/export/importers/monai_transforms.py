"""Transforms and inferers of MONAI, each with the rules of a manifest that compute the same.

The fields of a transform are the arguments that have a counterpart. It applies its effects, or refuses arguments that a
manifest cannot express.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, LargestComponent, PercentileScale, ZScore
from lowres_seg.bundle.stage import Windows
from lowres_seg.export.importers.monai_arguments import Arguments, label_choice
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

_LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]
_CONNECTIVITY: dict[int, Literal[6, 18, 26]] = {1: 6, 2: 18, 3: 26}
_Float32 = Literal["float32", "$np.float32", "$numpy.float32", "$torch.float32"] | None
_Keys = Annotated[list[str], BeforeValidator(lambda keys: [keys] if isinstance(keys, str) else keys)]


@dataclass
class Effects:
    """Effects of the transforms of a bundle so far.

    `preprocessing` is the chain that Invertd must name. `choice` has channels and labels in the order in which they are
    painted.
    """

    channels: Sequence[str]
    scores: int
    preprocessing: Any
    orientation: str = STORED
    rules: list[IntensityRule] = field(default_factory=list)
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    argmax: bool = False
    threshold: float | None = None
    choice: list[tuple[int, int]] | None = None
    cleanup: list[LargestComponent] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """True if scores have become labels."""
        return self.argmax or self.threshold is not None


class SlidingWindowInferer(Arguments):
    """Sliding windows, weighted by `mode`."""

    ignored = "sw_batch_size sw_device device progress cache_roi_weight_map cpu_thresh buffer_steps buffer_dim"
    roi_size: int | list[int]
    overlap: float | list[float] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"
    sigma_scale: float | list[float] = 0.125
    padding_mode: Literal["constant"] = "constant"
    cval: float = 0.0
    with_coord: Literal[False] = False

    def windows(self) -> Windows:
        """Counterpart in a manifest.

        Raises
        ------
        ValueError
            If it cannot be expressed.
        """
        if self.cval != 0:
            raise ValueError(f"cval is {self.cval:g}: a bundle pads with zero")
        roi = [self.roi_size] * 3 if isinstance(self.roi_size, int) else self.roi_size
        if len(roi) != 3 or min(roi) < 1:
            raise ValueError(f"roi_size is {roi}: expected three sizes of at least 1, the same for every scan")
        return Windows(
            roi_size=(roi[0], roi[1], roi[2]),
            overlap=_same(self.overlap, 3, "overlap"),
            weights=self.mode,
            sigma_scale=_same(self.sigma_scale, 3, "sigma_scale"),
            rules="monai",
        )


class _Transform(Arguments):
    """A transform that changes no values, but may change their places."""

    keys: _Keys

    def check(self, item: str) -> None:
        if item not in self.keys:
            raise ValueError(f"its keys are {self.keys}, expected {item!r} alone")

    def apply(self, effects: Effects) -> None:
        """Apply its effects. Raises ValueError if a manifest cannot express them."""


class _Values(_Transform):
    """A transform that changes values."""

    def check(self, item: str) -> None:
        if self.keys != [item]:
            raise ValueError(f"its keys are {self.keys}, expected {item!r} alone")


class _LoadImaged(_Transform):
    ignored = (
        "image_only ensure_channel_first meta_keys meta_key_postfix overwriting simple_keys prune_meta_pattern "
        "prune_meta_sep expanduser"
    )
    reader: Literal["NibabelReader", "ITKReader"] | None = None
    dtype: _Float32 = None


class _EnsureChannelFirstd(_Transform):
    ignored = "strict_check"
    channel_dim: Literal["no_channel"] | None = None


class _EnsureTyped(_Transform):
    ignored = "data_type device wrap_sequence track_meta"
    dtype: _Float32 = None


class _DeleteItemsd(_Transform):
    ignored = "sep"
    use_re: Literal[False] = False

    def check(self, item: str) -> None:
        if item in self.keys:
            raise ValueError(f"deletes {item}")


class _Orientationd(_Transform):
    ignored = "lazy"
    axcodes: str | None = None
    as_closest_canonical: bool = False
    labels: list[list[str]] | None = None

    def apply(self, effects: Effects) -> None:
        effects.orientation = "RAS" if self.as_closest_canonical else str(self.axcodes).upper()
        if effects.orientation not in ORIENTATIONS or self.labels not in (None, _LETTERS):
            raise ValueError(
                f"axcodes {self.axcodes!r} with labels {self.labels}: expected letters such as RAS, and no labels"
            )


class _Intensities(_Values):
    """A transform of intensities."""

    channel_wise: bool = False
    dtype: _Float32 = None

    def check_statistics(self, effects: Effects) -> None:
        if not self.channel_wise and len(effects.channels) > 1:
            raise ValueError(
                f"takes the statistics of {len(effects.channels)} channels together, a bundle each channel's: "
                "channel_wise true"
            )


class _NormalizeIntensityd(_Intensities):
    subtrahend: float | list[float] | None = None
    divisor: float | list[float] | None = None
    nonzero: bool = False

    def apply(self, effects: Effects) -> None:
        if self.subtrahend is None and self.divisor is None:
            self.check_statistics(effects)
            effects.rules.append(ZScore(voxels="nonzero" if self.nonzero else "all"))
            return
        if self.nonzero or self.subtrahend is None or self.divisor is None:
            raise ValueError(
                "one constant alone, or constants for voxels that are not zero, have no exact counterpart in a bundle"
            )
        whose = [(name,) for name in effects.channels] if self.channel_wise else [()]
        shifts, divisors = self._constants(self.subtrahend), self._constants(self.divisor)
        if not len(shifts) == len(divisors) == len(whose) or 0 in divisors:
            raise ValueError(
                f"subtrahend {self.subtrahend} and divisor {self.divisor}: expected a number each, or with "
                f"channel_wise {len(effects.channels)} each, and no divisor of zero"
            )
        for channels, shift, divisor in zip(whose, shifts, divisors, strict=True):
            effects.rules += _affines(-shift, 1 / divisor, 0.0, channels)

    def _constants(self, value: float | list[float]) -> list[float]:
        if isinstance(value, list):
            return value if self.channel_wise else []
        return [] if self.channel_wise else [value]


class _ScaleIntensityd(_Intensities):
    minv: float | None = 0.0
    maxv: float | None = 1.0
    factor: float | None = None

    def apply(self, effects: Effects) -> None:
        if self.minv is None and self.maxv is None:
            effects.rules += _affines(0.0, 1 + (self.factor or 0.0), 0.0)
            return
        self.check_statistics(effects)
        effects.rules.append(PercentileScale(lower=0, upper=100, clip="none"))
        effects.rules += _onto(self.minv, self.maxv, clip=False)


class _ScaleIntensityRanged(_Intensities):
    a_min: float
    a_max: float
    b_min: float | None = None
    b_max: float | None = None
    clip: bool = False

    def apply(self, effects: Effects) -> None:
        if self.a_min == self.a_max:
            raise ValueError(f"a_min and a_max are both {self.a_min:g}, so there is nothing to scale")
        effects.rules += _affines(-self.a_min, 1 / (self.a_max - self.a_min), 0.0)
        effects.rules += _onto(self.b_min, self.b_max, clip=self.clip)


class _ScaleIntensityRangePercentilesd(_Intensities):
    lower: float
    upper: float
    b_min: float | None
    b_max: float | None
    clip: bool = False
    relative: bool = False

    def apply(self, effects: Effects) -> None:
        self.check_statistics(effects)
        low, high = self.b_min, self.b_max
        if self.relative:
            if low is None or high is None:
                raise ValueError("relative needs b_min and b_max")
            low, high = low + (high - low) * self.lower / 100, low + (high - low) * self.upper / 100
        effects.rules.append(PercentileScale(lower=self.lower, upper=self.upper, clip="none"))
        effects.rules += _onto(low, high, clip=self.clip)


class _Activationsd(_Values):
    sigmoid: bool = False
    softmax: bool = False
    other: None = None

    def apply(self, effects: Effects) -> None:
        if effects.decided or effects.activation != "none" or (self.sigmoid and self.softmax):
            raise ValueError("expected one activation, before AsDiscreted")
        effects.activation = "sigmoid" if self.sigmoid else "softmax" if self.softmax else "none"


class _AsDiscreted(_Values):
    ignored = "dtype"
    argmax: bool = False
    threshold: float | list[float] | None = None
    to_onehot: None = None
    rounding: None = None

    def apply(self, effects: Effects) -> None:
        if effects.decided or self.argmax == (self.threshold is not None):
            raise ValueError("expected one AsDiscreted, with either argmax or a threshold")
        effects.argmax = self.argmax
        effects.threshold = None if self.threshold is None else _same(self.threshold, 1, "threshold")


class _Lambdad(_Values):
    """A choice of labels. Its code is parsed, and never run."""

    ignored = "inv_func track_meta"
    func: str
    overwrite: Literal[True] = True

    def apply(self, effects: Effects) -> None:
        if effects.threshold is None or effects.choice is not None:
            raise ValueError("expected at most one, after AsDiscreted with a threshold")
        effects.choice = label_choice(self.func)
        lost = [channel for channel, _ in effects.choice if channel >= effects.scores]
        if lost:
            raise ValueError(f"takes channel {lost[0]}, the network gives {effects.scores}")


class _KeepLargestConnectedComponentd(_Values):
    ignored = "independent"
    applied_labels: int | list[int] | None = None
    is_onehot: Literal[False] | None = None
    connectivity: Literal[1, 2, 3] | None = None
    num_components: Literal[1] = 1

    def apply(self, effects: Effects) -> None:
        one_label = effects.scores == (2 if effects.argmax else 1) and effects.decided and effects.choice is None
        if not one_label or self.applied_labels not in (None, 1, [1]):
            raise ValueError("has a counterpart only where it follows AsDiscreted and there is one label")
        effects.cleanup.append(LargestComponent(connectivity=_CONNECTIVITY[self.connectivity or 3]))


class _Invertd(_Transform):
    ignored = "orig_keys meta_keys orig_meta_keys meta_key_postfix nearest_interp to_tensor device"
    transform: Any
    post_func: None = None

    def apply(self, effects: Effects) -> None:
        if self.transform != effects.preprocessing:
            raise ValueError("inverts something other than @preprocessing")


class _SaveImaged(_Transform):
    """It has no effect: the caller of a bundle chooses type and name of the result."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    scale: None = None


def _named(*kinds: type[_Transform]) -> dict[str, type[_Transform]]:
    return {kind.__name__[1:]: kind for kind in kinds}


_ANYWHERE = _named(_EnsureTyped, _DeleteItemsd) | dict.fromkeys(("ToTensord", "CastToTyped", "ToDeviced"), _EnsureTyped)
#: Transforms of preprocessing, by name.
BEFORE = _ANYWHERE | _named(
    _LoadImaged,
    _EnsureChannelFirstd,
    _Orientationd,
    _NormalizeIntensityd,
    _ScaleIntensityd,
    _ScaleIntensityRanged,
    _ScaleIntensityRangePercentilesd,
)
#: Transforms of postprocessing, by name.
AFTER = _ANYWHERE | _named(
    _Activationsd, _AsDiscreted, _Lambdad, _KeepLargestConnectedComponentd, _Invertd, _SaveImaged
)


def _affines(shift: float, scale: float, then: float, channels: tuple[str, ...] = ()) -> list[IntensityRule]:
    """Rules for ``(x + shift) · scale + then``, without those that change nothing."""
    first = [Affine(shift=shift, channels=channels)] if shift else []
    return [*first, *([Affine(scale=scale, shift=then, channels=channels)] if (scale, then) != (1, 0) else [])]


def _onto(low: float | None, high: float | None, *, clip: bool) -> list[IntensityRule]:
    """Rules that map 0 and 1 to `low` and `high`."""
    if low is None or high is None:
        if clip and (low, high) != (None, None):
            raise ValueError("clips to one end alone, which has no exact counterpart; name both b_min and b_max")
        return []
    return [*_affines(0.0, high - low, low), *([Clip(lower=low, upper=high)] if clip else [])]


def _same(value: float | list[float], count: int, what: str) -> float:
    """Number that is given once, or `count` times with one value."""
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count or len(set(values)) != 1:
        raise ValueError(f"{what} is {value}: expected one number, or {count} that are the same")
    return values[0]
