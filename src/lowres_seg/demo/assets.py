"""Trained weights and a labelled head, from two published packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowres_seg.errors import ExportError
from lowres_seg.export import importers, packages, recipes, weights

#: The recipe of the networks that the demo shows.
RECIPE = "deepbet"
_NIMARE = packages.Package("nimare", "0.22.1", "16025cbe44c97fb580fe129df230fca62c97c2c6197887abc83b6081552e7bc1")
_TEMPLATES = "nimare/resources/templates"
_HEAD = "tpl-MNI152NLin6Asym_res-01_T1w.nii.gz"
_MASK = "tpl-MNI152NLin6Asym_res-01_desc-brain_mask.nii.gz"


@dataclass(frozen=True)
class Assets:
    """Paths of the demo's inputs.

    Attributes
    ----------
    recipe : pathlib.Path
        deepbet's recipe, which comes with the package.
    weights : pathlib.Path
        Folder of deepbet's two TorchScript files.
    head, mask : pathlib.Path
        Whole-head T1 template, and its brain mask.
    deepbet_wheel : pathlib.Path
        The package of the weights, for comparisons with it.
    """

    recipe: Path
    weights: Path
    head: Path
    mask: Path
    deepbet_wheel: Path


def fetch() -> Assets:
    """Download what is not in the cache yet, and check all of it.

    Raises
    ------
    InputError
        If a package cannot be downloaded, or has another digest than the pinned one.
    """
    path = recipes.named(RECIPE)
    recipe = importers.read(path, {}).recipe
    if recipe.weights is None:
        raise ExportError(f"{path}: names no package of its weights; expected [weights] with pypi")
    files = [weights.published(recipe.weights, entry.file) for entry in recipe.networks.values()]
    nimare = packages.wheel(_NIMARE)
    head, mask = (packages.extracted(nimare, _TEMPLATES, file) for file in (_HEAD, _MASK))
    return Assets(path, files[0].parent, head, mask, packages.wheel(recipe.weights.package))
