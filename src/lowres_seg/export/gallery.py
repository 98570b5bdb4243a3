"""The gallery: what the recipes that come with the package say about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowres_seg.bundle.stage import Classes
from lowres_seg.export import families, importers, recipes
from lowres_seg.export.recipe import Recipe

_CARD = "MODEL_CARD.md"
Weights = Literal["on PyPI", "published", "to train"]


@dataclass(frozen=True)
class Entry:
    """A recipe of the gallery.

    Attributes
    ----------
    id : str or None
        That of the published system which the recipe rebuilds.
    name : str
    task : str
        What it does, in a few words.
    description : str
    parameters, published_parameters : int or None
        Those of one network in full width, and those that its paper states, if the recipe says so.
    weights : str
        Whether they are ``on PyPI``, ``published`` elsewhere, or still ``to train``.
    where : str
        Where they are, in words.
    files : tuple of str
        Names of the files of weights.
    source : str
        Papers and packages that it comes from.
    assumed : tuple of str
        What the paper leaves open, and the recipe takes.
    intended_use : str
    recipe, card : pathlib.Path
        Files of the recipe and of its model card.
    """

    id: str | None
    name: str
    task: str
    description: str
    parameters: int | None
    published_parameters: int | None
    weights: Weights
    where: str
    files: tuple[str, ...]
    source: str
    assumed: tuple[str, ...]
    intended_use: str
    recipe: Path
    card: Path


def entries() -> list[Entry]:
    """Every recipe that comes with the package: those of published systems by id, then the others by name."""
    found = [entry(name) for name in recipes.names()]
    return sorted(found, key=lambda one: (one.id is None, one.id or one.name))


def entry(name: str) -> Entry:
    """One recipe, by its name or id.

    Raises
    ------
    ExportError
        If there is none.
    """
    path = recipes.named(name)
    recipe = importers.read(path, {}).recipe
    system = recipe.system
    return Entry(
        id=None if system is None else system.id,
        name=path.parent.name,
        task=_task(recipe) if system is None else system.task,
        description=recipe.bundle.description,
        parameters=None if system is None else system.parameters,
        published_parameters=None if system is None else system.published_parameters,
        weights=_weights(recipe),
        where=recipe.weights.words if recipe.weights is not None else "beside the recipe",
        files=tuple(dict.fromkeys(source.file for source in recipe.networks.values())),
        source=recipe.bundle.source if system is None else system.paper,
        assumed=() if system is None else system.assumed,
        intended_use=recipe.bundle.intended_use,
        recipe=path,
        card=(families.read(path).files[-1].parent / _CARD).resolve(),
    )


def _task(recipe: Recipe) -> str:
    return "classification" if isinstance(recipe.stages[-1].decode, Classes) else "segmentation"


def _weights(recipe: Recipe) -> Weights:
    if recipe.weights is not None and recipe.weights.pypi is not None:
        return "on PyPI"
    return "published" if recipe.system is None else "to train"
