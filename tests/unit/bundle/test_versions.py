"""The lowest schema version that can say a manifest is written, and keys of newer ones are refused in older ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from lowres_seg import Manifest, ManifestError
from lowres_seg.bundle.part import Part
from lowres_seg.bundle.rules import CleanupRule, IntensityRule
from lowres_seg.bundle.versions import Since, needed, written

Content = Callable[..., dict[str, Any]]

#: Changes that only version 3 can say, and the key that needs it.
NEWER: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a key": (lambda c: c["stages"][0]["conform"].update(convention="monai"), "stages.0.conform.convention"),
    "a value": (lambda c: c["stages"][0]["conform"].update(pad="edge"), "stages.0.conform.pad"),
    "another kind of value": (
        lambda c: (
            c["stages"][0]["conform"].update(shape=None),
            c["stages"][0].update(windows={"roi_size": [16, 16, 16], "overlap": [0.5, 0.25, 0.5]}),
        ),
        "stages.0.windows.overlap",
    ),
    "a rule": (
        lambda c: c["stages"][0].update(normalise={"rules": [{"rule": "threshold", "above": 1}]}),
        "stages.0.normalise.rules.0",
    ),
    "a key of a rule": (
        lambda c: c["stages"][0].update(normalise={"rules": [{"rule": "affine", "voxels": "nonzero"}]}),
        "stages.0.normalise.rules.0.voxels",
    ),
    "a clean-up": (
        lambda c: c["stages"][0].update(cleanup=[{"rule": "largest-component", "each": True}]),
        "stages.0.cleanup.0.each",
    ),
    "an average of stages": (
        lambda c: (
            c["stages"][0].update(restore={"activated": "after"}),
            c["stages"].append({**c["stages"][0], "name": "second", "mean_with": ["only"]}),
        ),
        "stages.1.mean_with",
    ),
    "precision of restored scores": (
        lambda c: c["stages"][0].update(restore={"precision": "single"}),
        "stages.0.restore.precision",
    ),
    "another spline": (
        lambda c: c["stages"][0]["conform"].update(interpolation="quintic"),
        "stages.0.conform.interpolation",
    ),
    "windows over one shape": (
        lambda c: c["stages"][0].update(windows={"roi_size": [16, 16, 16]}),
        "stages.0",
    ),
    "limits of a label": (lambda c: c["labels"][0].update(volume_ml=[900, 2200]), "labels.0.volume_ml"),
    "trusted code": (lambda c: c["lineage"].update(trusted_code={"scripts/net.py": "0" * 64}), "lineage.trusted_code"),
    "windows of each view": (
        lambda c: (
            c["stages"][0]["conform"].update(shape=None),
            c["stages"][0].update(windows={"roi_size": [16, 16, 16], "axes": "view"}),
        ),
        "stages.0.windows.axes",
    ),
    "neighbouring slices": (
        lambda c: (
            c["stages"][0]["conform"].update(shape=None),
            c["stages"][0].update(windows={"roi_size": [1, 16, 16], "neighbours": 1}),
            c["networks"]["net"].update(input_shape=[1, 3, 1, 16, 16], output_shape=[1, 2, 1, 16, 16]),
        ),
        "stages.0.windows.neighbours",
    ),
    "dropout": (
        lambda c: (
            c["stages"][0].update(samples={"count": 2}),
            c["networks"]["net"].update(dropout=[{"layer": "drop", "shape": [1, 2, 1, 1, 1], "probability": 0.5}]),
        ),
        "stages.0.samples",
    ),
    "STAPLE": (
        lambda c: c["stages"][0].update(ensemble="staple", restore={"what": "labels", "interpolation": "nearest"}),
        "stages.0.ensemble",
    ),
    "inputs of a network": (lambda c: c["stages"][0].update(inputs={"net": ["t1"]}), "stages.0.inputs"),
    "threads": (lambda c: c.update(threads=4), "threads"),
}


def test_a_plain_manifest_is_written_as_version_2_without_newer_keys(content: Content) -> None:
    text = Manifest.model_validate(content(schema_version=3)).to_json()
    assert json.loads(text)["schema_version"] == 2
    for key in (
        "convention",
        "crop",
        "cleanup_before_restore",
        "trusted_code",
        "volume_ml",
        "threads",
        "inputs",
        "neighbours",
    ):
        assert f'"{key}"' not in text
    assert Manifest.parse(text, where="m").stages == Manifest.model_validate(content()).stages


@pytest.mark.parametrize("case", NEWER)
def test_what_only_version_3_says_is_written_as_version_3_and_refused_in_version_2(content: Content, case: str) -> None:
    change, key = NEWER[case]
    wanted = content(schema_version=3)
    change(wanted)
    manifest = Manifest.model_validate(wanted)
    again = Manifest.parse(manifest.to_json(), where="m")
    assert json.loads(manifest.to_json())["schema_version"] == again.schema_version == 3
    assert again == manifest
    with pytest.raises(ManifestError, match=f"m: {key} needs schema version 3, found 2"):
        Manifest.parse(json.dumps({**json.loads(manifest.to_json()), "schema_version": 2}), where="m")


def kinds(kind: type[Part]) -> Iterator[type[Part]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


def test_every_key_of_a_version_has_a_default_that_says_nothing() -> None:
    """An older file leaves the key out, so its default must be what the older version did."""
    marked = [
        (kind, info)
        for kind in kinds(Part)
        for info in kind.model_fields.values()
        if any(isinstance(one, Since) for one in info.metadata)
    ]
    assert len(marked) > 20
    assert all(not info.is_required() for _, info in marked)


@pytest.mark.parametrize("rule", [*get_args(get_args(IntensityRule)[0]), *get_args(get_args(CleanupRule)[0])])
def test_what_is_left_out_of_an_older_file_is_read_back(rule: type[Part]) -> None:
    given = {"lower": 1, "upper": 2, "above": 1, "label": 1, "fewer_than": 3}
    part = rule.model_validate({key: value for key, value in given.items() if key in rule.model_fields})
    version = max([2, *(since for since, _ in needed(part))])
    assert rule.model_validate(written(part, version)) == part
