"""The codes of recipes that come along are those of DICOM's context groups, as pydicom has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from lowres_seg.bundle.pipeline import Code
from lowres_seg.dicom.codes import coded
from lowres_seg.export import importers

#: Recipes with labels that DICOM's groups have no codes for: gyri, and how many annotators agree.
WITHOUT = {"meshnet_50", "multi_annotator_nnunet"}
FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "export").rglob("recipe.toml"))


def meanings(code: Code) -> set[str]:
    """Meanings of a code in the groups of DICOM: segmentation categories, types, lesions of the brain, regions."""
    groups = (codes.cid7150, codes.cid7151, codes.cid7153, codes.cid7168, codes.cid4)
    found = [getattr(group, name) for group in groups for name in group.dir()]
    return {one.meaning for one in found if (one.value, one.scheme_designator) == (code.value, code.scheme)}


@pytest.mark.parametrize("folder", [path for path in FOLDERS if path.name not in WITHOUT], ids=lambda path: path.name)
def test_every_label_has_codes_of_dicoms_own_groups(folder: Path) -> None:
    labels = coded(importers.read(folder / "recipe.toml", {}).recipe.labels, {}, where=folder.name)
    for label in labels:
        assert label.codes is not None
        parts = (label.codes.category, label.codes.type, label.codes.region)
        assert all(code.meaning in meanings(code) for code in parts if code is not None)
