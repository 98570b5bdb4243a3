"""MONAI's transforms of the network's result, each with what a stage says instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict

from lowres_seg.bundle.rules import CleanupRule, Connectivity, FillHoles, LargestComponent, SmallComponents
from lowres_seg.bundle.stage import Activation
from lowres_seg.export.importers.monai_arguments import label_choice
from lowres_seg.export.importers.monai_config import PRED
from lowres_seg.export.importers.monai_scan import HARMLESS, Keys, Scan, Transform, Truth, just_below

_CONNECTIVITY: dict[int | None, Connectivity] = {None: 26, 1: 6, 2: 18, 3: 26}
Labels = Annotated[list[int], BeforeValidator(lambda given: [given] if isinstance(given, int) else given)]


@dataclass
class Result:
    """What the transforms of the result have done so far.

    Attributes
    ----------
    scan : Scan
        What was done to the scan.
    scores : int
        Number of channels that the network gives.
    preprocessing : value
        The chain that Invertd must name.
    item : str
        Its key.
    ensemble : str
        How the results of several networks are joined.
    activation : str
    argmax : bool
    threshold : float or None
    choice : list of tuple of 2 int or None
        Channels and labels in the order in which they are painted.
    before, after : list of rule
        Clean-up before and after the labels are restored to the scan's grid.
    inverted : bool
    restore : dict
        Keys of a stage's `Restore`.
    notes : list of str
    """

    scan: Scan
    scores: int
    preprocessing: Any
    item: str = PRED
    ensemble: Literal["mean-scores", "mean-probabilities", "vote"] = "mean-scores"
    activation: Activation = "none"
    argmax: bool = False
    threshold: float | None = None
    choice: list[tuple[int, int]] | None = None
    onehot: bool = False
    before: list[CleanupRule] = field(default_factory=list)
    after: list[CleanupRule] = field(default_factory=list)
    inverted: bool = False
    restore: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """True if scores have become labels."""
        return self.argmax or self.threshold is not None

    @property
    def labels(self) -> list[int]:
        """Values of the label map, once there is one; else nothing."""
        if self.argmax:
            return list(range(1, self.scores))
        if self.choice is not None:
            return sorted(label for _, label in self.choice)
        return [1] if self.threshold is not None and self.scores == 1 else []

    def add(self, *rules: CleanupRule) -> None:
        """Append clean-up, before or after the labels are restored."""
        (self.after if self.inverted or not self.scan.is_moved else self.before).extend(rules)

    def finish(self) -> None:
        """Bring labels back to the scan's grid where no transform does. Raises ValueError if there are none."""
        if not self.decided:
            raise ValueError("has no AsDiscreted, so the result would be scores; add one, argmax or threshold")
        if self.ensemble == "vote" and not self.scan.is_moved:
            self.restore = {"what": "labels", "interpolation": "nearest"}
        if self.inverted or not self.scan.is_moved:
            return
        self.notes.append(
            "without Invertd MONAI leaves the label map on the network's grid; the bundle brings it back to the scan's "
            "grid by nearest"
        )
        invert(self, nearest=True)


def invert(result: Result, *, nearest: bool) -> None:
    """Bring scores or labels back to the scan's grid. Raises ValueError if a manifest cannot say it."""
    scan = result.scan
    result.inverted = True
    if not scan.is_moved:
        return
    back = ("floor" if scan.is_stretched else "nearest") if nearest else scan.restores_by
    if scan.conform.get("convention") == "monai" and not scan.is_resampled:
        back = "nearest"  # then nothing lies between two voxels
    restore: dict[str, Any] = {"interpolation": back}
    if any(key in scan.conform for key in ("crop", "at_most")) or scan.is_padded:
        restore["outside"] = "zero"
    if result.decided:
        restore["what"] = "labels"
        if back not in ("nearest", "floor"):
            if not result.labels or result.onehot:
                raise ValueError(
                    "interpolates several thresholded channels; expected nearest_interp true, or Invertd before "
                    "AsDiscreted"
                )
            restore["rounding"] = "nearest"
            result.notes.append(
                "MONAI interpolates the label values themselves (Invertd with nearest_interp false behind AsDiscreted) "
                "and writes fractions at borders; the bundle rounds them to the nearest label"
            )
    result.restore = restore


class Values(Transform):
    """A transform of the network's result. `each` names the arguments that may be given once for each of its keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    each: ClassVar[str] = ""

    def check(self, item: str) -> None:
        """Check that it changes the network's result. Raises ValueError if not."""
        if self.keys != [item]:
            raise ValueError(f"its keys are {self.keys}, expected {item!r} alone")

    def change(self, result: Result) -> None:
        """Apply its effects. Raises ValueError if a manifest cannot express them."""


class Activationsd(Values):
    """Scores become probabilities."""

    each = "sigmoid softmax other"
    sigmoid: Truth = False
    softmax: Truth = False
    other: None = None

    def change(self, result: Result) -> None:
        """Activate."""
        if result.decided or result.activation != "none" or (self.sigmoid and self.softmax):
            raise ValueError("expected one activation, before AsDiscreted")
        if result.inverted and result.scan.is_moved and (self.sigmoid or self.softmax):
            result.restore["activated"] = "after"
        result.activation = "sigmoid" if self.sigmoid else "softmax" if self.softmax else "none"


class AsDiscreted(Values):
    """Scores become labels."""

    ignored = "dtype keepdim dim"
    each = "argmax threshold to_onehot rounding"
    argmax: Truth = False
    threshold: float | list[float] | None = None
    to_onehot: int | None = None
    rounding: Literal["torchrounding"] | None = None

    def change(self, result: Result) -> None:
        """Decide."""
        if result.decided:
            if (self.argmax, self.threshold, self.to_onehot) == (False, None, None):
                return  # rounded labels are what the bundle gives
            of_onehot = (self.argmax, self.to_onehot) == (True, None)
            of_labels = (self.argmax, self.to_onehot) == (False, result.scores)
            if result.argmax and self.threshold is None and (of_onehot if result.onehot else of_labels):
                result.onehot = of_labels
                return
            raise ValueError("expected one AsDiscreted with argmax or a threshold")
        if self.argmax == (self.threshold is not None):
            raise ValueError("expected either argmax or a threshold")
        if self.to_onehot is not None and (not self.argmax or self.to_onehot != result.scores):
            raise ValueError(f"to_onehot is {self.to_onehot}: expected {result.scores}, with argmax")
        result.argmax = self.argmax
        if self.threshold is not None:
            result.threshold = just_below(_one(self.threshold, result.scores))
        if self.to_onehot is not None:
            result.onehot = True
            result.notes.append("MONAI writes a channel for each label; the bundle writes one label map")


class Lambdad(Values):
    """A choice of labels. Its code is parsed, and never run."""

    ignored = "inv_func track_meta"
    each = "func overwrite"
    func: str
    overwrite: Literal[True] = True

    def change(self, result: Result) -> None:
        """Choose."""
        if result.threshold is None or result.choice is not None:
            raise ValueError("expected at most one, after AsDiscreted with a threshold")
        result.choice = label_choice(self.func)
        lost = [channel for channel, _ in result.choice if channel >= result.scores]
        if lost:
            raise ValueError(f"takes channel {lost[0]}, the network gives {result.scores}")


class _Cleanup(Values):
    """Clean-up of a label map."""

    applied_labels: Labels | None = None
    connectivity: Literal[1, 2, 3] | None = None

    def cleaned(self, result: Result) -> list[int]:
        """Labels that it changes. Raises ValueError where there is no label map."""
        if not result.labels:
            raise ValueError("expected behind AsDiscreted, where every voxel has one label")
        wanted = result.labels if self.applied_labels is None else [label for label in self.applied_labels if label]
        strange = [label for label in wanted if label not in result.labels]
        if strange:
            raise ValueError(f"applied_labels names {strange[0]}, the labels are {result.labels}")
        return wanted


class KeepLargestConnectedComponentd(_Cleanup):
    """The largest components."""

    is_onehot: bool | None = None
    independent: Truth = True
    num_components: int = 1

    def change(self, result: Result) -> None:
        """Append its rule."""
        labels = self.cleaned(result)
        if self.is_onehot not in (None, result.onehot):
            raise ValueError(
                f"is_onehot is {self.is_onehot}, and the label map is {'' if result.onehot else 'not '}one-hot"
            )
        each = self.independent and len(result.labels) > 1
        named = () if labels == result.labels else tuple(labels)
        connectivity = _CONNECTIVITY[self.connectivity]
        result.add(LargestComponent(connectivity=connectivity, labels=named, each=each, count=self.num_components))


class FillHolesd(_Cleanup):
    """Filled holes."""

    def change(self, result: Result) -> None:
        """Append a rule for each label."""
        connectivity = _CONNECTIVITY[self.connectivity]
        if result.onehot and len(result.labels) > 1:
            raise ValueError("fills holes of one-hot channels, which may overlap then; expected a label map")
        for label in sorted(self.cleaned(result)):
            result.add(FillHoles(label=label, connectivity=connectivity, over="all"))


class RemoveSmallObjectsd(Values):
    """Removed small components."""

    ignored = "pixdim"
    min_size: int = 64
    connectivity: Literal[1, 2, 3] = 1
    independent_channels: Truth = True
    by_measure: Truth = False

    def change(self, result: Result) -> None:
        """Append its rule."""
        if not result.labels:
            raise ValueError("expected behind AsDiscreted, where every voxel has one label")
        if len(result.labels) > 1 and not (result.onehot and self.independent_channels and self.connectivity == 1):
            raise ValueError(
                "removes components of a map of several labels, which MONAI takes for components themselves; expected "
                "one label, or to_onehot before, with independent_channels and connectivity 1"
            )
        unit: Literal["voxels", "mm3"] = "mm3" if self.by_measure else "voxels"
        connectivity = _CONNECTIVITY[self.connectivity]
        for label in result.labels:
            result.add(SmallComponents(label=label, fewer_than=self.min_size, connectivity=connectivity, unit=unit))


class Invertd(Values):
    """The way back to the scan's grid."""

    ignored = "meta_keys orig_meta_keys meta_key_postfix to_tensor device"
    each = "transform orig_keys nearest_interp post_func"
    transform: Any
    orig_keys: Keys | None = None
    nearest_interp: Truth = True
    post_func: None = None

    def change(self, result: Result) -> None:
        """Restore."""
        if self.transform != result.preprocessing:
            raise ValueError("inverts something other than the preprocessing")
        if result.inverted:
            raise ValueError("inverts once more; expected one Invertd")
        invert(result, nearest=self.nearest_interp)


class SaveImaged(Values):
    """The caller of a bundle chooses name and place of the result."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    scale: None = None
    output_dtype: Any = "float32"

    def check(self, item: str) -> None:
        """Any item may be saved."""

    def change(self, result: Result) -> None:
        """Labels that were interpolated are cut off where they are saved as whole numbers."""
        if result.item in self.keys and result.restore.get("rounding") and "int" in str(self.output_dtype):
            result.restore["rounding"] = "down"
            result.notes[:] = [
                note.replace("rounds them to the nearest", "cuts them off to the lower") for note in result.notes
            ]


class Ignored(Values):
    """A transform that changes nothing of the result."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def check(self, item: str) -> None:
        """Any item may be meant."""


class Removed(Ignored):
    """A transform that removes items, but not the result."""

    def check(self, item: str) -> None:
        """Check that the result stays."""
        if item in self.keys:
            raise ValueError(f"deletes {item}")


_KINDS: tuple[type[Values], ...] = (
    Activationsd,
    AsDiscreted,
    Lambdad,
    KeepLargestConnectedComponentd,
    FillHolesd,
    RemoveSmallObjectsd,
    Invertd,
    SaveImaged,
)
#: Transforms of the result, by name.
RESULTS: dict[str, type[Values]] = {
    **dict.fromkeys(HARMLESS, Ignored),
    "DeleteItemsd": Removed,
    **{kind.__name__: kind for kind in _KINDS},
}


def _one(value: float | list[float], count: int) -> float:
    """Number that is given once, or once for each channel with one value."""
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, count) or len(set(values)) != 1:
        raise ValueError(f"threshold is {value}: expected one number, the same for all channels")
    return values[0]
