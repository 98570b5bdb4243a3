"""What other frameworks write, read as data and turned into a recipe.

One module and one entry of a table for each framework. No code of what is read runs here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import ExportError

if TYPE_CHECKING:
    from lowres_seg.export.recipe import Recipe

#: Module of each importer. They are asked in this order.
IMPORTERS = {"recipe": "recipe_file", "monai": "monai_bundle", "nnunet": "nnunet"}


class Importer(Protocol):
    """What the module of an importer offers.

    Attributes
    ----------
    TITLE : str
        What it reads, for messages.
    Options : type
        Dataclass of its options, each with a default.
    """

    TITLE: str
    Options: type[Any]

    def matches(self, path: Path) -> bool:
        """Tell whether a file or folder looks like one that it reads."""
        ...

    def recipe(self, path: Path, options: Any) -> Recipe:
        """Read it. Raises ExportError if it cannot be expressed."""
        ...

    def home(self, path: Path) -> Path:
        """Folder of its files of weights, and of the code of its factories."""
        ...

    def files(self, path: Path, options: Any) -> list[Path]:
        """Files that say there what a recipe says."""
        ...

    def options_again(self, networks: Sequence[str]) -> Any:
        """Options with which a bundle with these networks was read."""
        ...

    def network(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Build a torch.nn.Module for the factory ``importer:NAME``. Raises ExportError if it cannot."""
        ...


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes
    ----------
    home : pathlib.Path
        Folder of its files of weights, and of the code of its factories.
    recipe : Recipe
    digest : str
        Digest of the files that were read.
    importer : str
        Name of the importer that read them.
    options : dict of str to value
        Options that it used.
    notes : sequence of str
        What the importer tells: what it passed over, and what it made up.
    trusted_code : mapping of str to str
        Digests of the files of code that ran because the user trusts them, by path relative to `home`.
    """

    home: Path
    recipe: Recipe
    digest: str
    importer: str
    options: dict[str, Any]
    notes: Sequence[str] = ()
    trusted_code: Mapping[str, str] = field(default_factory=dict)


def importer(name: str) -> Importer:
    """Module of an importer.

    Raises
    ------
    ExportError
        If there is none of this name.
    """
    if name not in IMPORTERS:
        raise ExportError(f"importer {name!r}: not known, expected one of {', '.join(IMPORTERS)}")
    module: Importer = import_module(f"{__name__}.{IMPORTERS[name]}")
    return module


def reads(path: Path) -> bool:
    """Tell whether an importer reads `path`."""
    return any(importer(name).matches(path) for name in IMPORTERS)


def read(path: Path, options: Mapping[str, Any]) -> Source:
    """Read a ``recipe.toml``, or the files of a framework that say the same.

    Parameters
    ----------
    path : pathlib.Path
    options : mapping of str to value
        Options that were given. An option that the importer does not have is refused.

    Raises
    ------
    ExportError
        If no importer reads it, an option is of another importer, or it says what cannot be expressed.
    """
    name = _name_of(path)
    module = importer(name)
    known = [field.name for field in fields(module.Options)]
    strange = [option for option in options if option not in known]
    if strange:
        owners = [module.TITLE for module in map(importer, IMPORTERS) if strange[0] in _options_of(module)]
        raise ExportError(
            f"{path}: is {module.TITLE}, and {strange[0]} is no option of it"
            + (f" but of {' or '.join(owners)}" if owners else "")
        )
    return _read(path, name, module.Options(**options))


def read_again(path: Path, networks: Sequence[str]) -> Source:
    """Read again what a bundle with these networks was exported from.

    Raises
    ------
    ExportError
        As `read`.
    """
    name = _name_of(path)
    return _read(path, name, importer(name).options_again(networks))


def digest(path: Path, options: Any = None) -> str:
    """Digest of the files that say what a recipe says, when they are read with some options of their importer.

    Raises
    ------
    ExportError
        If no importer reads `path`.
    """
    module = importer(_name_of(path))
    found = [file for file in module.files(path, options or module.Options()) if file.is_file()]
    if found == [path]:
        return file_sha256(path)
    return hashlib.sha256("".join(map(file_sha256, found)).encode()).hexdigest()


def home(path: Path) -> Path:
    """Folder of the files of weights that go with a recipe, or with what says the same.

    Raises
    ------
    ExportError
        If no importer reads `path`.
    """
    return importer(_name_of(path)).home(path)


def _read(path: Path, name: str, options: Any) -> Source:
    from lowres_seg.export.recipe import Imported

    recipe = importer(name).recipe(path, options)
    told = recipe if isinstance(recipe, Imported) else None
    return Source(
        importer(name).home(path),
        recipe,
        digest(path, options),
        name,
        asdict(options),
        told.notes if told else (),
        told.trusted_code if told else {},
    )


def _name_of(path: Path) -> str:
    for name in IMPORTERS:
        if importer(name).matches(path):
            return name
    if not path.exists():
        raise ExportError(f"{path}: does not exist; name what was trained: a recipe, a folder or a file of weights")
    expected = ", ".join(importer(name).TITLE for name in IMPORTERS)
    what = "a folder that no importer reads" if path.is_dir() else "no recipe"
    raise ExportError(f"{path}: is {what}; expected {expected}, or a file of weights")


def _options_of(module: Importer) -> list[str]:
    return [field.name for field in fields(module.Options)]
