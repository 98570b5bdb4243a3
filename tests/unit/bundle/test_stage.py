"""What a stage may say, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lowres_seg import Manifest, ManifestError
from lowres_seg.bundle.grids import Conform
from lowres_seg.bundle.stage import Stage

Content = Callable[..., dict[str, Any]]
NOTHING = {"what": "nothing"}
LABELS = {"what": "labels", "interpolation": "nearest"}
WINDOWS = {"roi_size": [16, 16, 16]}
CLASSES = {"kind": "classes", "names": ["a", "b"]}
REGION = {"channel": 1, "label": 1}


def conform(**changes: Any) -> dict[str, Any]:
    return {"orientation": "RAS", "shape": [16, 16, 16], **changes}


#: Changes to the one stage of a valid manifest, or to its second, and what the one line must say.
ONE: dict[str, tuple[dict[str, Any], str]] = {
    "windows and shape": ({"windows": WINDOWS}, "stages.0 needs schema version 3, found 2"),
    "neither": ({"conform": {}}, "expected a shape to conform to, or windows"),
    "view of another network": ({"views": {"other": "axial"}}, "has a view for network other, which it does not run"),
    "inputs of another network": (
        {"inputs": {"other": ["t1"]}},
        "has inputs for network other, which it does not run",
    ),
    "input of no channel": ({"inputs": {"net": ["t9"]}}, "stage only names channel t9, the channels are t1"),
    "input twice": ({"inputs": {"net": ["t1", "t1"]}}, "stage only: channel t1 is there twice"),
    "inputs of nothing": ({"inputs": {"net": []}}, "inputs.net"),
    "neighbours of thick windows": (
        {"conform": {}, "windows": {**WINDOWS, "neighbours": 1}},
        "neighbours are of slices, and the windows of network net are thicker",
    ),
    "neighbours along another axis": (
        {"conform": {}, "views": {"net": "axial"}, "windows": {"roi_size": [1, 16, 16], "neighbours": 1}},
        "expected 1 voxel along the first axis of its array",
    ),
    "too many neighbours": ({"conform": {}, "windows": {"roi_size": [1, 16, 16], "neighbours": 65}}, "neighbours"),
    "beyond nothing": ({"conform": {}, "windows": {**WINDOWS, "beyond": "edge"}}, "expected neighbours too"),
    "no such view": ({"views": {"net": "oblique"}}, "views.net"),
    "view of what is stored": (
        {"views": {"net": "axial"}, "conform": conform(orientation="stored")},
        "views need an orientation such as RAS",
    ),
    "mirror twice": ({"mirror_axes": [0, 1, 0]}, "names a mirror axis twice"),
    "no such axis": ({"mirror_axes": [3]}, "mirror_axes.0"),
    "vote for scores": ({"ensemble": "vote"}, "votes give labels and no scores"),
    "STAPLE for scores": ({"ensemble": "staple"}, "votes give labels and no scores"),
    "probabilities that return as scores": (
        {"ensemble": "mean-probabilities", "restore": {"activated": "after"}},
        "activates scores before they are restored",
    ),
    "classes in windows": (
        {"decode": CLASSES, "windows": WINDOWS, "conform": {}, "restore": NOTHING},
        "classes are of the whole region",
    ),
    "votes for classes": (
        {"ensemble": "vote", "decode": CLASSES, "restore": NOTHING},
        "votes are for labels of voxels, and it decodes classes",
    ),
    "classes that return": ({"decode": CLASSES, "restore": LABELS}, "nothing to restore"),
    "classes without a name": ({"decode": {**CLASSES, "names": []}, "restore": NOTHING}, "names"),
    "within no region": (
        {"decode": {"kind": "regions", "regions": [REGION, {"channel": 0, "label": 1, "within": [1, 2]}]}},
        "a region lies within channel 2, which is no region",
    ),
    "rule of no channel": (
        {"normalise": {"rules": [{"rule": "z-score", "channels": ["t1", "t9"]}]}},
        "stage only names channel t9, the channels are t1",
    ),
    "clipped to nothing": (
        {"normalise": {"rules": [{"rule": "clip", "lower": 2, "upper": 2}]}},
        "lower bound 2.0 is not below upper 2.0",
    ),
    "axes with letters": ({"conform": conform(axes=[2, 1, 0])}, "axes reorder a stored array"),
    "no order of axes": ({"conform": conform(orientation="stored", axes=[0, 1, 1])}, r"\[0, 1, 1\] is no order"),
    "MONAI's grid by area": ({"conform": conform(convention="monai", interpolation="area")}, "area is of the convention"),
    "stored spacing between edges": ({"conform": conform(spacing_axes="stored")}, "are of the convention monai"),
    "crop without spacing": ({"conform": conform(crop={}, pad="zero")}, "a crop needs spacing_mm"),
    "rule after no crop": (
        {"normalise": {"rules": [{"rule": "affine", "when": "after-crop"}]}},
        "has a rule after the crop, and no crop",
    ),
    "rules out of order": (
        {"normalise": {"rules": [{"rule": "affine"}, {"rule": "affine", "when": "before-conform"}]}},
        "a rule applies before the conform",
    ),
    "rounded scores": ({"restore": {"what": "scores", "rounding": "nearest"}}, "rounding is for labels"),
    "clean-up of restored scores": (
        {"cleanup_before_restore": [{"rule": "largest-component"}]},
        "labels are cleaned up before they are restored, and scores are restored",
    ),
    "holes of slices along edges": (
        {"cleanup": [{"rule": "fill-holes", "slices_along": 0, "connectivity": 26}]},
        "expected 6 for holes within slices",
    ),
    "no spacing": ({"conform": conform(spacing_mm=[1, 0, 1])}, "spacing_mm"),
    "no anisotropy": ({"conform": conform(separate_above=0.5)}, "separate_above"),
    "full overlap": ({"windows": {**WINDOWS, "overlap": 1}, "conform": {}}, "overlap"),
    "empty window": ({"windows": {"roi_size": [16, 0, 16]}, "conform": {}}, "roi_size"),
    "mask of a later stage": ({"mask_channels": [{"stage": "late"}]}, "refers to stage late, which does not come"),
    "own mask": ({"mask_channels": [{"stage": "only"}]}, "refers to stage only, which does not come before"),
    "inside also, of all voxels": (
        {"normalise": {"rules": [{"rule": "z-score", "inside_also": "late"}]}},
        "inside_also is for voxels inside, found all",
    ),
    "inside also, too late": (
        {"normalise": {"rules": [{"rule": "z-score", "voxels": "inside", "inside_also": "late"}]}},
        "inside_also is known on the scan's own grid only",
    ),
    "inside also of a later stage": (
        {
            "normalise": {
                "when": "before-conform",
                "rules": [{"rule": "z-score", "voxels": "inside", "inside_also": "late"}],
            }
        },
        "refers to stage late, which does not come before it",
    ),
    "mean with a later stage": ({"mean_with": ["late"]}, "refers to stage late, which does not come before it"),
    "onto a later stage": ({"onto": "late"}, "refers to stage late, which does not come before it"),
    "label that clean-up writes": (
        {"cleanup": [{"rule": "small-label", "label": 1, "fewer_than": 9, "becomes": 7}]},
        r"writes labels \[7\], which are not among the named labels",
    ),
    "network of another shape": ({"windows": {"roi_size": [8, 16, 16]}, "conform": {}}, r"gives it \(1, 1, 8, 16, 16\)"),
    "network without a mask": ({}, r"takes \(1, 1, 16, 16, 16\), stage second gives it \(1, 2, 16, 16, 16\)"),
}  # fmt: skip


def refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.parse(json.dumps(content), where="m")
    assert str(caught.value).startswith("m: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ONE)
def test_what_does_not_hang_together_is_refused(content: Content, case: str) -> None:
    changes, message = ONE[case]
    good = content(schema_version=2)
    (only,) = good["stages"]
    second = {**only, "name": "second"}
    if case == "network without a mask":
        second["mask_channels"] = [{"stage": "only"}]
    Manifest.parse(json.dumps({**good, "stages": [only, {**only, "name": "late"}]}), where="m")
    refused({**good, "stages": [{**only, **changes}, second]}, message)


@pytest.mark.parametrize(
    "other",
    [{}, {"region": {"kind": "nonzero"}}, {"decode": {"kind": "argmax", "labels": [1, 0]}}, {"restore": NOTHING}],
)
def test_scores_that_do_not_fit_are_not_averaged(content: Content, other: dict[str, Any]) -> None:
    good = content(schema_version=3)
    (only,) = good["stages"]
    after = {**only, "restore": {"activated": "after"}}
    second = {**after, "name": "second", "mean_with": ["only"]}
    Manifest.parse(json.dumps({**good, "stages": [after, second]}), where="m")
    first = {**after, **other} if other else only
    refused({**good, "stages": [first, second]}, "stage second averages its scores with those of stage only; expected")


@pytest.mark.parametrize("needs", [{"mask_channels": [{"stage": "only"}]}, {"onto": "only"}])
def test_labels_of_a_stage_that_restores_nothing_are_not_to_be_had(content: Content, needs: dict[str, Any]) -> None:
    good = content(schema_version=2)
    (only,) = good["stages"]
    stages = [{**only, "restore": NOTHING}, {**only, "name": "second", **needs}]
    refused({**good, "stages": stages}, "stage second needs labels of stage only, which does not restore its result")


def test_the_last_stage_restores_its_labels_or_tells_classes(content: Content) -> None:
    good = content(schema_version=2)
    (only,) = good["stages"]
    refused({**good, "stages": [{**only, "restore": NOTHING}]}, "is the last one and must restore its result")
    told = {**good, "labels": [], "stages": [{**only, "decode": CLASSES, "restore": NOTHING}]}
    assert Manifest.parse(json.dumps(told), where="m").labels == ()


def test_the_first_schema_is_read_as_it_was(content: Content) -> None:
    """What version 2 adds is off where it is not said."""
    (stage,) = Manifest.parse(json.dumps(content(schema_version=1)), where="m").stages
    assert (stage.windows, stage.views, stage.mirror_axes, stage.mask_channels, stage.onto) == (None, {}, (), (), None)
    assert (stage.ensemble, stage.restore.activated) == ("mean-scores", "before")
    assert (stage.conform.axes, stage.conform.pad, stage.conform.separate_above) == ((0, 1, 2), "minimum", None)


def test_a_manifest_with_everything_reads_what_it_writes(content: Content) -> None:
    good = content(schema_version=2)
    (only,) = good["stages"]
    tall = {
        **only,
        "name": "tall",
        "networks": ["net", "side"],
        "views": {"side": "coronal"},
        "mirror_axes": [0, 2],
        "region": {"kind": "nonzero", "margin_voxels": 3},
        "conform": {"orientation": "SPL", "spacing_mm": [3, None, 1], "interpolation": "cubic", "separate_above": 3, "pad": "noise"},
        "normalise": {
            "when": "before-conform",
            "rules": [
                {"rule": "clip", "lower": -1, "upper": 2, "channels": ["t1"]},
                {"rule": "z-score", "voxels": "inside"},
                {"rule": "noise", "seed": 4},
            ],
        },
        "windows": {"roi_size": [8, 4, 16], "rules": "monai", "weights": "constant"},
        "decode": {"kind": "regions", "regions": [REGION, {"channel": 0, "label": 1, "within": [1]}]},
        "restore": {"what": "scores", "activated": "after"},
        "cleanup": [
            {"rule": "small-components", "label": 1, "fewer_than": 9.5},
            {"rule": "small-label", "label": 1, "fewer_than": 9, "beside": 1, "beside_more_than": 3},
        ],
        "onto": "only",
    }  # fmt: skip
    network = good["networks"]["net"]
    shapes = {"net": [1, 1, 8, 4, 16], "side": [1, 1, 4, 8, 16], "small": network["input_shape"]}
    networks = {name: {**network, "input_shape": shape} for name, shape in shapes.items()}
    good |= {"stages": [{**only, "networks": ["small"]}, tall], "networks": networks}
    good["regions"] = [{"name": "whole", "labels": [1, 5]}]
    manifest = Manifest.parse(json.dumps(good), where="m")
    assert Manifest.parse(manifest.to_json(), where="m") == manifest
    assert manifest.evaluated == {"whole": (1, 5)}
    assert manifest.known_labels == [1, 5]
    assert manifest.stages[1].axis_order("side") == (1, 0, 2)


@pytest.mark.parametrize(
    ("orientation", "view", "order"),
    [
        ("RAS", "axial", (2, 0, 1)),
        ("RAS", "coronal", (1, 0, 2)),
        ("RAS", "sagittal", (0, 1, 2)),
        ("PIR", "axial", (1, 0, 2)),
        ("PIR", "coronal", (0, 1, 2)),
        ("PIR", "sagittal", (2, 0, 1)),
    ],
)
def test_the_axis_of_a_view_comes_first(orientation: str, view: str, order: tuple[int, ...]) -> None:
    stage = Stage(
        name="s",
        networks=("n", "m"),
        views={"n": view},
        conform=Conform(orientation=orientation, shape=(4, 5, 6)),
        decode={"kind": "argmax", "labels": (0, 1)},
        mask_channels=({"stage": "other"},),
    )
    assert stage.axis_order("n") == order
    assert stage.input_shape("n", 3) == (1, 4, *((4, 5, 6)[axis] for axis in order))
    assert stage.input_shape("m", 3) == (1, 4, 4, 5, 6)
