"""A first recipe, with comments, from the few facts that no file of weights says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lowres_seg import atomic
from lowres_seg.errors import ExportError
from lowres_seg.export import toml_file
from lowres_seg.export.importers import recipe_file
from lowres_seg.export.importers.files import named
from lowres_seg.export.recipe import Recipe

Framework = Literal["torch", "monai", "torchscript", "onnx"]
Scores = Literal["softmax", "sigmoid"]
Intensities = Literal["z-score", "z-score-nonzero", "percentiles", "none"]
_WINDOWED_SPACING_MM = (1.0, 1.0, 1.0)
#: Arguments of a network of MONAI that follow from the other facts.
_FOLLOWING = ("spatial_dims", "in_channels", "out_channels")
_RULES: dict[str, tuple[str, str]] = {
    "z-score": ("Mean 0 and deviation 1 of each channel.", '[{ rule = "z-score" }]'),
    "z-score-nonzero": (
        "Mean 0 and deviation 1 of the voxels of each channel that are not zero.",
        '[{ rule = "z-score", voxels = "nonzero" }]',
    ),
    "percentiles": (
        "Percentiles 1 and 99 of each channel become 0 and 1; what lies beyond is clipped.",
        '[{ rule = "percentile-scale", lower = 1, upper = 99 }]',
    ),
}


@dataclass(frozen=True)
class Facts:
    """What a recipe needs beside the weights.

    Attributes
    ----------
    framework : str
        ``torch`` and ``monai`` build the network by a factory and load a checkpoint.
    weights : str
        File of weights, relative to the recipe.
    channels : tuple of str
        Images of a scan, in the order of the network's input.
    labels : dict of int to str
        Values and names of the label map, without background.
    factory : str
        ``FILE.py:FUNCTION``, or the name of a network of MONAI.
    arguments : dict of str to value
        Arguments of the factory.
    scores : str
        ``softmax``: channel 0 is background, and one channel for each label follows. ``sigmoid``: one channel for each
        label, which may overlap.
    orientation : str
    spacing_mm : tuple of float, optional
    shape : tuple of int, optional
        Shape that the whole region is brought to.
    patch : tuple of int, optional
        Shape of the windows that cover the region, in place of `shape`.
    intensities : str
    name : str
        Name of the bundle.
    """

    framework: Framework
    weights: str
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    factory: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores = "softmax"
    orientation: str = "RAS"
    spacing_mm: tuple[float, ...] | None = None
    shape: tuple[int, ...] | None = None
    patch: tuple[int, ...] | None = None
    intensities: Intensities = "z-score"
    name: str = ""


def write(facts: Facts, target: Path, *, force: bool = False) -> Recipe:
    """Write a recipe with comments, and check that it is one.

    Raises
    ------
    ExportError
        If the facts make no valid recipe. The message has every fault, and nothing is written.
    InputError
        If `target` exists and not `force`, or cannot be written.
    """
    content = text(facts)
    recipe = recipe_file.checked(str(target), toml_file.parsed(content))
    with atomic.file(target, force=force) as staged:
        staged.write_text(content, encoding="utf-8")
    return recipe


def arguments_lacking(factory: str, given: Mapping[str, Any]) -> list[str]:
    """Arguments of a network of MONAI that are neither given nor follow from channels and labels.

    Raises
    ------
    MissingExtraError
        If MONAI is not installed.
    ExportError
        If there is no such network.
    """
    from lowres_seg.export.importers import monai_classes

    known = {*given, *_FOLLOWING}
    return [name for name in monai_classes.arguments_needed(factory.removeprefix("monai:")) if name not in known]


def text(facts: Facts) -> str:
    """TOML of a recipe.

    Raises
    ------
    ExportError
        If the facts lack what the framework needs, or give both or neither of a shape and a patch.
    """
    _check(facts)
    name = named(facts.name or Path(facts.weights).stem) or "network"
    lines = [
        f"# The recipe of {name}. docs/recipes.md describes every key.",
        "# Images of a scan, in the order of the network's input.",
        f"channels = {_toml(facts.channels)}",
        "",
        "# What a user of the bundle reads. Write your own words here.",
        "[bundle]",
        f"name = {_toml(name)}",
        'version = "1.0.0"',
        f"description = {_toml('Segmentation of ' + ', '.join(facts.labels.values()) + '.')}",
        'license = "unknown"',
        'source = "unknown"',
        'intended_use = "Research. Not a medical device."',
        "",
        "# Values of the label map; 0 is background.",
    ]
    for value, label in facts.labels.items():
        lines += ["[[labels]]", f"value = {value}", f"name = {_toml(label)}", ""]
    return "\n".join([*lines, *_network(facts), "", *_stage(facts), ""])


def _check(facts: Facts) -> None:
    built = facts.framework in ("torch", "monai")
    if built and not facts.factory:
        raise ExportError(
            f"a {facts.framework} network needs a factory, "
            + ("such as UNet" if facts.framework == "monai" else "FILE.py:FUNCTION, such as network.py:build")
        )
    if not built and (facts.factory or facts.arguments):
        raise ExportError(f"a {facts.framework} file holds its network, and a factory with arguments was given")
    if (facts.shape is None) == (facts.patch is None):
        raise ExportError(
            "expected exactly one of a shape (the whole scan at once) and a patch (windows over the scan)"
        )
    if not facts.channels or not facts.labels:
        raise ExportError("expected at least one channel and one label")


def _network(facts: Facts) -> list[str]:
    if facts.framework in ("torchscript", "onnx"):
        return [
            "[networks.net]",
            f"{facts.framework} = {_toml(facts.weights)}  # beside this file, or in the folder of --weights",
        ]
    factory, about = (
        facts.factory,
        "The function of a file beside this one that builds the network, and its checkpoint.",
    )
    arguments = dict(facts.arguments)
    if facts.framework == "monai":
        factory = f"monai:{facts.factory.removeprefix('monai:')}"
        about = "A class of monai.networks.nets with its arguments, and the checkpoint."
        channels = len(facts.labels) + (facts.scores == "softmax")
        arguments = dict(zip(_FOLLOWING, (3, len(facts.channels), channels), strict=True)) | arguments
    lines = ["[networks.net]", f"# {about}", f"factory = {_toml(factory)}"]
    lines += [f"arguments = {_toml(arguments)}"] if arguments else []
    return [*lines, f"checkpoint = {_toml(facts.weights)}  # beside this file, or in the folder of --weights"]


def _stage(facts: Facts) -> list[str]:
    spacing = facts.spacing_mm or (_WINDOWED_SPACING_MM if facts.patch is not None else None)
    keys = {"orientation": facts.orientation, "shape": facts.shape, "spacing_mm": spacing}
    conform = {key: value for key, value in keys.items() if value is not None}
    if facts.patch is not None:
        grid = f"The scan is turned to {facts.orientation} and resampled to this spacing."
    elif spacing is not None:
        grid = "The scan is resampled to this spacing, and padded or cropped about its centre to the shape."
    else:
        grid = "The scan is stretched to this shape."
    lines = ["[[stages]]", 'name = "segment"', 'networks = ["net"]', f"# {grid}", f"conform = {_toml(conform)}"]
    if facts.intensities != "none":
        about, rules = _RULES[facts.intensities]
        lines += [f"# {about}", f"normalise = {{ rules = {rules} }}"]
    if facts.patch is not None:
        lines += [
            "# Windows as those of MONAI's sliding_window_inference; rules = \"nnunet\" are nnU-Net's.",
            f'windows = {{ roi_size = {_toml(facts.patch)}, overlap = 0.5, weights = "gaussian", rules = "monai" }}',
        ]
    return [
        *lines,
        *_decode(facts),
        "# The scores are brought back to the scan's own grid, and become labels there.",
        'restore = { what = "scores", interpolation = "linear" }',
    ]


def _decode(facts: Facts) -> list[str]:
    if facts.scores == "softmax":
        return [
            "# The label of each channel of scores; the highest score wins.",
            f'decode = {{ kind = "argmax", activation = "softmax", labels = {_toml([0, *facts.labels])} }}',
        ]
    regions = [{"channel": place, "threshold": 0.5, "label": value} for place, value in enumerate(facts.labels)]
    return [
        "# The label that each channel of scores writes where it is above the threshold; later ones overwrite.",
        f'decode = {{ kind = "regions", activation = "sigmoid", regions = {_toml(regions)} }}',
    ]


def _toml(value: Any) -> str:
    """A value in TOML, in one line."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str() | bool() | int() | float():
            return json.dumps(value, ensure_ascii=False)
        case _:
            raise ExportError(f"found {value!r} among the arguments, expected texts, numbers, lists and tables of them")


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key, ensure_ascii=False)
