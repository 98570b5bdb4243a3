from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lowres_seg import Manifest, ManifestError
from lowres_seg.bundle.manifest import json_schema
from lowres_seg.volumes.orientations import ORIENTATIONS

Content = Callable[..., dict[str, Any]]


def stage(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**content["stages"][0], **changes}


def test_reads_what_it_writes(content: Content) -> None:
    manifest = Manifest.model_validate(content(schema_version=2))
    assert Manifest.parse(manifest.to_json(), where="m") == manifest


def test_the_published_schema_is_the_codes(checkout: Path) -> None:
    published = json.loads((checkout / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "run: scripts/schema"


def test_the_schema_accepts_a_manifest_and_refuses_a_wrong_one(content: Content) -> None:
    manifest = json.loads(Manifest.model_validate(content()).to_json())
    jsonschema.validate(manifest, json_schema())
    manifest["stages"][0]["decode"]["kind"] = "guess"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, json_schema())


def test_there_are_48_orientations() -> None:
    assert len(ORIENTATIONS) == 48


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "newer": (lambda c: {"schema_version": 4}, "schema version 4.*install a newer"),
    "older": (lambda c: {"schema_version": 0}, "schema version 0.*export the bundle again"),
    "unknown field": (lambda c: {"surprise": 1}, "surprise: this lowres-seg knows no such key"),
    "unknown field of a stage": (
        lambda c: {"stages": [stage(c, surprise=1)]},
        "stages.0.surprise: this lowres-seg knows no such key",
    ),
    "no channel": (lambda c: {"channels": []}, "channels"),
    "code as a name": (lambda c: {"name": "__import__('os')"}, "name"),
    "no such network": (lambda c: {"stages": [stage(c, networks=["other"])]}, "names network other"),
    "stage twice": (lambda c: {"stages": [stage(c), stage(c)]}, "there twice"),
    "later stage": (
        lambda c: {"stages": [stage(c, region={"kind": "box-of", "stage": "late"}), stage(c, name="late")]},
        "does not come before",
    ),
    "own box": (lambda c: {"stages": [stage(c, region={"kind": "box-of", "stage": "only"})]}, "does not come before"),
    "last restores nothing": (lambda c: {"stages": [stage(c, restore={"what": "nothing"})]}, "must restore"),
    "interpolated labels": (
        lambda c: {"stages": [stage(c, restore={"what": "labels", "interpolation": "linear"})]},
        "only be restored with nearest",
    ),
    "unnamed label": (lambda c: {"labels": [{"value": 2, "name": "other"}]}, r"labels \[1\]"),
    "orientation": (
        lambda c: {"stages": [stage(c, conform={"orientation": "RAR", "shape": [16, 16, 16]})]},
        "RAR.*no orientation",
    ),
    "percentiles": (
        lambda c: {"stages": [stage(c, normalise={"rules": [{"rule": "percentile-scale", "lower": 9, "upper": 1}]})]},
        "not below",
    ),
    "no digest": (lambda c: {"files": {"reference.npz": "0" * 64}}, "without a digest"),
    "outside": (lambda c: {"files": {**c["files"], "../../etc/passwd": "0" * 64}}, "outside the bundle"),
    "absolute": (lambda c: {"files": {**c["files"], "/etc/passwd": "0" * 64}}, "outside the bundle"),
    "windows path": (lambda c: {"files": {**c["files"], "a\\..\\b": "0" * 64}}, "outside the bundle"),
    "bad digest": (lambda c: {"files": {**c["files"], "x": "abc"}}, "files"),
    "channels of the network": (lambda c: {"channels": ["t1", "t2"]}, r"takes \(1, 1, 16, 16, 16\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_manifests_are_refused_in_one_line(content: Content, case: str) -> None:
    changes, message = BAD[case]
    wrong = content()
    wrong.update(changes(wrong))
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.parse(json.dumps(wrong), where="b/manifest.json")
    assert str(caught.value).startswith("b/manifest.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"not JSON|expected a JSON object"):
        Manifest.parse(text, where="m")
