"""How nnU-Net resamples scans, label maps and scores, in the words of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.nnunet_plans import Plan

#: Interpolation for each order of B-splines of scikit-image's resize, and along an axis that is resampled apart.
_ORDERS = {0: "nearest", 1: "linear", 2: "quadratic", 3: "cubic", 4: "quartic", 5: "quintic"}
_ORDERS_ACROSS = {0: "nearest", 1: "linear", 2: "spline-2", 3: "spline-3", 4: "spline-4", 5: "spline-5"}
#: Interpolation of torch along an axis that is resampled apart.
_MODES_ACROSS = {"nearest-exact": "nearest", "nearest": "floor", "linear": "linear"}
_DEFAULT, _TORCH, _NONE = "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"
#: What each function takes if plans.json does not say.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    _DEFAULT: {
        "is_seg": False,
        "order": 3,
        "order_z": 0,
        "force_separate_z": False,
        "separate_z_anisotropy_threshold": 3,
    },
    _TORCH: {
        "is_seg": False,
        "num_threads": 4,
        "device": "cpu",
        "memefficient_seg_resampling": False,
        "force_separate_z": None,
        "separate_z_anisotropy_threshold": 3,
        "mode": "linear",
        "aniso_axis_mode": "nearest-exact",
    },
    _NONE: {},
}


@dataclass(frozen=True)
class Apart:
    """Which axis is resampled apart from the others: `above` which anisotropy, None for none, and in which spacing."""

    above: float | None = None
    spacing: str = "either"


@dataclass(frozen=True)
class Resampling:
    """How scans, label maps or scores are resampled.

    Attributes
    ----------
    interpolation : str or None
        None if nothing is resampled.
    apart : Apart
    across : str
        Interpolation along the axis that is resampled apart.
    single : bool
        Whether scores become single precision.
    ties : str
        Which of the labels with equal scores wins.
    """

    interpolation: str | None
    apart: Apart = Apart()
    across: str = "nearest"
    single: bool = False
    ties: str = "nearest"

    @classmethod
    def of(cls, plan: Plan, kind: str) -> Resampling:
        """Resampling of ``data``, of ``seg`` or of ``probabilities``.

        Raises
        ------
        ExportError
            If it has no counterpart in a manifest.
        """
        function, given = str(plan.content[f"resampling_fn_{kind}"]), dict(plan.content[f"resampling_fn_{kind}_kwargs"])

        def refuse(key: str, expected: str) -> NoReturn:
            raise ExportError(
                f"{plan.file}: {kind} is resampled by {function} with {key} {given.get(key)!r}, expected {expected}; "
                "export the network with a recipe.toml that says what it does"
            )

        if function not in _ARGUMENTS:
            raise ExportError(
                f"{plan.file}: {kind} is resampled by {function}, expected {', '.join(_ARGUMENTS)}; "
                "export the network with a recipe.toml that says what it does"
            )
        known = _ARGUMENTS[function]
        for key in given:
            if key not in known:
                refuse(key, f"one of its arguments, {', '.join(known) or 'of which it has none'}")
        if function == _NONE:
            return cls(None)
        said = known | given
        if said["is_seg"] is not (kind == "seg"):
            refuse("is_seg", str(kind == "seg"))
        apart = _apart(said["force_separate_z"], said["separate_z_anisotropy_threshold"])
        if function == _TORCH:
            if said["memefficient_seg_resampling"] and kind == "seg":
                refuse("memefficient_seg_resampling", "False")
            across = str(said["aniso_axis_mode"])
            if apart.above is not None and said["mode"] != "linear":
                refuse("mode", "linear")
            if apart.above is not None and across not in (_MODES_ACROSS if kind != "seg" else ("nearest-exact",)):
                refuse("aniso_axis_mode", "nearest-exact" if kind == "seg" else ", ".join(_MODES_ACROSS))
            along = _MODES_ACROSS[across] if apart.above is not None else "nearest"
            return cls("linear", apart, along, single=kind == "probabilities", ties="lowest")
        if said["order"] not in _ORDERS:
            refuse("order", "a whole number from 0 to 5")
        if apart.above is not None and said["order_z"] not in ([0] if kind == "seg" else _ORDERS_ACROSS):
            refuse("order_z", "0" if kind == "seg" else "a whole number from 0 to 5")
        along = _ORDERS_ACROSS[said["order_z"]] if apart.above is not None else "nearest"
        return cls(_ORDERS[said["order"]], apart, along)


def _apart(force: Any, threshold: Any) -> Apart:
    """Rule of force_separate_z: always by the spacing that is there, never, or by the anisotropy of both spacings."""
    if force is None:
        return Apart(float(threshold))
    return Apart(1.0, "before") if force else Apart()


def alike(plan: Plan, first: tuple[str, Resampling], second: tuple[str, Resampling]) -> None:
    """Check that two kinds are resampled along the same axes together: a stage has one rule for it.

    Raises
    ------
    ExportError
        If they are not.
    """
    (name, one), (other_name, other) = first, second
    if (one.apart, one.interpolation is None) != (other.apart, other.interpolation is None):
        said = [_said(plan.content, kind) for kind in (name, other_name)]
        raise ExportError(
            f"{plan.file}: {name} and {other_name} are resampled by different rules ({said[0]}; {said[1]}), expected "
            "the same function, force_separate_z and separate_z_anisotropy_threshold"
        )


def _said(content: Mapping[str, Any], kind: str) -> str:
    return f"{content[f'resampling_fn_{kind}']} with {content[f'resampling_fn_{kind}_kwargs']}"
