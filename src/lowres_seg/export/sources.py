"""What can be exported: a recipe, a file that a recipe describes, a folder of nnU-Net or MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lowres_seg.errors import ExportError
from lowres_seg.export import recipe as recipes
from lowres_seg.export.frameworks import torch_network
from lowres_seg.export.importers import nnunet
from lowres_seg.export.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """How to read an nnU-Net folder; see `nnunet.recipe`."""

    folds: Sequence[str] = ()
    mirror: bool = True
    orientation: str | None = None
    plans_network: bool = False


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes
    ----------
    home : pathlib.Path
        Folder in which its files of weights, and the code of its factories, are looked for first.
    recipe : Recipe
    digest : str
        Of what was read.
    """

    home: Path
    recipe: Recipe
    digest: str


def load(source: Path, options: Options | None = None) -> Source:
    """Read a ``recipe.toml``, or what a framework's folder says instead of one.

    Raises
    ------
    ExportError
        If it is none of them, or holds what cannot be expressed.
    """
    of_nnunet = source.is_dir() and nnunet.is_folder(source) and not (source / "configs").is_dir()
    if not of_nnunet and options not in (None, Options()):
        raise ExportError(f"{source}: folds, mirroring, orientation and trainers are options of an nnU-Net folder")
    if not source.is_dir():
        return Source(source.parent, recipes.load(source), recipes.digest(source))
    if of_nnunet:
        return Source(source, nnunet.recipe(source, **asdict(options or Options())), recipes.digest(source))
    if (source / "configs").is_dir():
        from lowres_seg.export.importers import monai_bundle

        return Source(source, monai_bundle.recipe(source), recipes.digest(source))
    raise ExportError(
        f"{source}: is a folder of neither nnU-Net v2 (plans.json, dataset.json, fold_0) nor MONAI "
        "(configs/metadata.json, configs/inference.json, models); name a recipe.toml or a file"
    )


def of_bundle(source: Path, networks: Sequence[str]) -> Source:
    """Read again what a bundle with these networks was exported from.

    Raises
    ------
    ExportError
        As `load`.
    """
    if source.is_dir() and not (source / "configs").is_dir():
        # What was asked for then: those folds, and a trainer that was taken for nnU-Net's own.
        return load(source, Options(folds=nnunet.folds_of(networks), plans_network=True))
    return load(source)


def plan(source: Path, described_by: Path | None, options: Options) -> Source:
    """What to export: a recipe, a folder, or a recipe with `source` in it.

    Raises
    ------
    ExportError
        As `load`; or if a file of weights comes without a recipe, or a recipe with another.
    """
    if source.is_dir() or source.suffix == ".toml":
        if described_by is not None:
            raise ExportError(f"{source}: says all that is needed itself; --recipe goes with a file of weights")
        return load(source, options)
    kind = "onnx" if source.suffix == ".onnx" else torch_network.kind_of(source)
    if described_by is None:
        raise ExportError(
            f"{source}: does not say which channels, grid and intensities its network expects; "
            "name a recipe.toml with --recipe"
        )
    found = load(described_by, options)
    return Source(found.home, recipes.with_source(found.recipe, source, kind), found.digest)
