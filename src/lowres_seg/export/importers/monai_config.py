"""Configurations of MONAI bundles, with their references and expressions resolved. No code of a bundle is run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export.importers import monai_expressions
from lowres_seg.export.importers.monai_files import (
    DEEPEST,
    META,
    inside,
    merged,
    parts,
    resolve_macros,
    step,
    whereabouts,
)
from lowres_seg.export.importers.monai_resolution import NOTHING, REFERENCE, Resolution
from lowres_seg.export.importers.monai_values import (
    Refused,
    UnreadableError,
    first_refused,
    is_disabled,
    leaves,
    natives,
    plain,
    short,
)

#: Keys of a component that are no arguments.
_ABOUT = frozenset({"_target_", "_desc_", "_requires_", "_disabled_", "_mode_"})
#: Name of a transform of the bundle's own that only joins images, as the user vouches.
JOINED = "--channels"
#: Item of the network's result.
PRED = "pred"
_EVALUATORS = ("evaluator", "validate#evaluator")
#: Keys under which a part of inference usually stands, for bundles without an evaluator.
_USUAL = {
    "network": ("network", "network_def", "net", "model"),
    "inferer": ("inferer", "validate#inferer"),
    "preprocessing": (
        "preprocessing", "dataset#transform", "validate#preprocessing", "validate#dataset#transform", "pre_transforms",
        "transforms", "transform",
    ),
    "postprocessing": (
        "postprocessing", "validate#postprocessing", "post_processing", "post_transforms", "post_transform",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Role:
    """A part of inference, and where it is described.

    Attributes
    ----------
    key : str
        Such as ``inferer``, or ``evaluator#inferer`` if it is described there.
    entry : value
        What stands there, with references resolved.
    """

    key: str
    entry: Any


class Config:
    """The configuration of a bundle: its files merged, with references and expressions resolved on demand.

    Attributes
    ----------
    path : pathlib.Path
        The last of the files; without any, the one that is `missing`.
    folder : pathlib.Path
        The bundle.
    content : dict
        References and expressions in it are kept; `at` resolves them.
    notes : list of str
        What whoever exports the bundle is told.

    Raises
    ------
    ExportError
        If a file is missing, or holds anything but an object.
    """

    def __init__(
        self, files: Sequence[Path], folder: Path, metadata: Mapping[str, Any], missing: Path | None = None
    ) -> None:
        self.path = missing or files[-1]
        self.folder = folder
        self.notes: list[str] = []
        self.content, self._origins = merged(files, dict(metadata))
        # MONAI is told the folder where a bundle lies; paths are relative to it.
        self.content["bundle_root"] = "."
        resolve_macros(self.content, folder, self.path)
        self._imported: dict[str, str] = {}
        for _, text in leaves(self.content, ""):
            if isinstance(text, str) and re.match(r"\$\s*(import|from)\s", text):
                self._imported |= monai_expressions.imports(text)
        self._loaded: dict[Path, Any] = {}

    def where(self, key: str) -> str:
        """File and key, for messages."""
        return f"{self._origins.get(parts(key)[0], self.path)}: {key.replace('::', '#')}"

    def at(self, key: str) -> Any:
        """Value of a key, with references and expressions resolved; None if there is no such key.

        Tuples are lists in it, devices are ``"cpu"``, and dtypes are names such as ``"float32"``. Arrays are components
        ``numpy.array`` and ``torch.tensor``. A function stays the text of its ``$lambda``. In the place of what cannot
        be read stands a `Refused`, which `validated` and `used` raise.
        """
        found = self.raw(key)
        return None if found is NOTHING else self._plain(found, key)

    def used(self, value: Any) -> Any:
        """The value itself, for a place where all of it is needed.

        Raises
        ------
        ExportError
            If a part of it cannot be read.
        """
        refused = first_refused(value)
        if refused is not None:
            raise ExportError(refused.message)
        return value

    def role(self, name: str) -> Role | None:
        """The part of inference that plays a role: as the evaluator says, else by its usual key; None if there is none.

        Parameters
        ----------
        name : str
            ``network``, ``inferer``, ``preprocessing`` or ``postprocessing``.

        Raises
        ------
        ExportError
            If the evaluator is none of MONAI's, or is given what changes its inputs.
        """
        evaluator = self._evaluator()
        if evaluator is not None and name == "preprocessing":
            key = evaluator
            for part in ("val_data_loader", "dataset", "transform"):
                key = self.followed(f"{key}#{part}")
                if self.raw(key) is NOTHING:
                    break
            else:
                return Role(key, self.at(key))
        elif evaluator is not None:
            key = f"{evaluator}#{name}"
            if self.raw(key) not in (NOTHING, None):
                key = self.followed(key)
                return Role(key, self.at(key))
            if name == "inferer":  # what SupervisedEvaluator does without one
                return Role(key, {"_target_": "SimpleInferer"})
            if name == "postprocessing":
                return None
        usual = next((key for key in _USUAL[name] if self.raw(key) not in (NOTHING, None)), None)
        if usual is None:
            return None
        key = self.followed(usual)
        return Role(key, self.at(key))

    def members(self) -> dict[str, Role]:
        """Networks of an EnsembleEvaluator, by the item that holds the result of each; nothing without one.

        Raises
        ------
        ExportError
            If they or their items cannot be read, or the evaluator is another one.
        """
        evaluator = self._evaluator()
        if evaluator is None or not str(self.raw(evaluator)["_target_"]).endswith("EnsembleEvaluator"):
            return {}
        key = self.followed(f"{evaluator}#networks")
        written, found = self.raw(key), self.at(key)
        self.used(found if isinstance(found, Refused) else None)
        entries = list(enumerate(found if isinstance(found, list) else [found]))
        if isinstance(written, list):
            entries = [pair for pair in entries if not (isinstance(written[pair[0]], dict) and is_disabled(pair[1]))]
        if found is None or not entries:
            raise ExportError(f"{self.where(key)}: has no networks, expected a list of those of the ensemble")
        given = self.used(self.at(f"{evaluator}#pred_keys"))
        names = [given] if isinstance(given, str) else given
        if names is None:
            names = [f"{PRED}_{place}" for place in range(len(entries))]
        if not isinstance(names, list) or len(names) != len(entries) or len(set(map(str, names))) != len(names):
            raise ExportError(
                f"{self.where(evaluator)}#pred_keys: is {short(given)}, expected a key for each of {len(entries)} "
                "networks"
            )
        roles = ((f"{key}#{place}" if isinstance(written, list) else key, one) for place, one in entries)
        return {str(name): Role(self.followed(role), one) for name, (role, one) in zip(names, roles, strict=True)}

    def followed(self, key: str) -> str:
        """Key that a key leads to by references alone."""
        for _ in range(DEEPEST):
            found = self.raw(key)
            match = REFERENCE.fullmatch(found) if isinstance(found, str) else None
            if match is None or self.raw(match[1]) is NOTHING:
                break
            key = match[1]
        return key.replace("::", "#")

    def components(self, last: str) -> Iterator[str]:
        """Keys of components whose target ends with `last`, but for those that say that they are switched off."""
        stack = [(str(key), value) for key, value in reversed(self.content.items()) if key != META]
        while stack:
            key, value = stack.pop()
            if isinstance(value, dict):
                if str(value.get("_target_")).endswith(last) and not self._is_disabled(value, key):
                    yield key
                stack += [(f"{key}#{part}", one) for part, one in reversed(value.items())]
            elif isinstance(value, list):
                stack += [(f"{key}#{place}", one) for place, one in reversed(list(enumerate(value)))]

    def component(self, entry: Any, where: str) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the component that an entry describes.

        Returns
        -------
        name : str
            Without its module if that is a module of MONAI.
        arguments : dict

        Raises
        ------
        ExportError
            If `entry`, found at `where`, describes no component.
        """
        if isinstance(entry, Refused):
            raise ExportError(entry.message)
        target = entry.get("_target_") if isinstance(entry, dict) else None
        if not isinstance(target, str) or not re.fullmatch(r"[\w.]+", target):
            raise ExportError(f"{self.where(where)}: expected an object with a _target_, found {short(entry)}")
        self.used(entry.get("_disabled_"))
        mode = entry.get("_mode_", "default")
        if mode not in ("default", "debug"):
            raise ExportError(f"{self.where(where)}: _mode_ is {short(mode)}, expected default")
        name = target.rpartition(".")[2] if target.startswith("monai.") else target
        return name, {key: value for key, value in entry.items() if key not in _ABOUT}

    def transforms(self, key: str, joined: Sequence[str] | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Transforms of a Compose: the place of each, its name, which ends in d, and its arguments.

        Parameters
        ----------
        key : str
        joined : sequence of str, optional
            Keys of images that transforms of the bundle's own only join, as the user vouches. Such a transform is given
            the name `JOINED`. Without it they are given as others are.

        Raises
        ------
        ExportError
            If the key holds anything else, or no key is vouched for and a transform is the bundle's own.
        """
        yield from self._chain(self.at(key), key, joined)

    def _chain(self, chain: Any, where: str, joined: Sequence[str] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        if isinstance(chain, dict):
            name, given = self.component(chain, where)
            if given.get("lazy") not in (None, False):
                raise ExportError(f"{self.where(where)}: lazy is {short(given['lazy'])}; expected false")
            harmless = {"lazy": (None, False), "map_items": (True,), "unpack_items": (False,), "log_stats": (False,)}
            others = {one for one, value in given.items() if one not in harmless or value not in harmless[one]}
            if name != "Compose" or others != {"transforms"}:
                raise ExportError(
                    f"{self.where(where)}: {name} of {', '.join(given)}, expected a Compose of transforms"
                )
            chain, where = given["transforms"], f"{where}#transforms"
        self.used(chain if isinstance(chain, Refused) else None)
        if not isinstance(chain, list):
            raise ExportError(f"{self.where(where)}: expected a list of transforms, found {short(chain)}")
        for place, entry in enumerate(chain):
            if isinstance(entry, dict) and is_disabled(entry):
                continue
            name, given = self.component(entry, f"{where}#{place}")
            if name == "Compose":
                yield from self._chain(entry, f"{where}#{place}", joined)
                continue
            here = f"{self.where(where)}#{place} {name}"
            if joined is not None and "." in name:
                if not joined:
                    raise ExportError(
                        f"{here} is code of the bundle, and no code of a bundle is run; if it only joins images into "
                        "one, name their keys in its order: --channels KEY,KEY"
                    )
                self.notes.append(f"{here} was left out: --channels says that it only joins {', '.join(joined)}")
                yield here, JOINED, {"keys": list(joined), "name": "image"}
                continue
            yield here, re.sub("(D|Dict)$", "d", name), given

    def _evaluator(self) -> str | None:
        """Key of the evaluator; None if the configuration has none."""
        usual = [key for key in _EVALUATORS if isinstance(self.raw(key), dict)]
        key = usual[0] if usual else next(self.components("Evaluator"), None)
        entry = None if key is None else self.raw(key)
        if not isinstance(entry, dict) or key is None:
            return None
        target = str(entry.get("_target_"))
        if not re.fullmatch(r"(monai\.[\w.]+\.)?(Supervised|Ensemble)Evaluator", target):
            raise ExportError(
                f"{self.where(key)}: the evaluator is {target[:100]}, expected MONAI's SupervisedEvaluator or "
                "EnsembleEvaluator"
            )
        if str(self.at(f"{key}#mode")).rpartition(".")[2].lower() == "train":
            raise ExportError(f"{self.where(key)}#mode is train, and a bundle evaluates; expected eval")
        for changed in ("prepare_batch", "iteration_update"):
            if entry.get(changed) is not None:
                raise ExportError(
                    f"{self.where(key)}#{changed} is {short(entry[changed])}, which changes what the network is given, "
                    "and has no counterpart in a bundle"
                )
        return key

    def raw(self, key: str) -> Any:
        """Value of a key as it is written; `NOTHING` if there is none."""
        found: Any = self.content
        try:
            for part in parts(key):
                found = step(found, part)
        except LookupError:
            return NOTHING
        return found

    def _is_disabled(self, entry: dict[str, Any], key: str) -> bool:
        """Tell whether a component is switched off. Raises ExportError if that cannot be read."""
        return is_disabled({"_disabled_": self.used(self._plain(entry.get("_disabled_"), f"{key}#_disabled_"))})

    def _plain(self, raw: Any, key: str) -> Any:
        try:
            return plain(Resolution(self).value(raw, key, ()), self.where(key))
        except RecursionError:
            return Refused(f"{self.where(key)}: is nested too deeply")

    def file(self, path: str) -> Path:
        """Path of a file that the configuration names, below the bundle's folder.

        Raises
        ------
        UnreadableError
            If it lies outside.
        """
        found = Path(os.path.normpath(self.folder / path))
        if not found.is_relative_to(os.path.normpath(self.folder)):
            raise UnreadableError(f"names {path[:100]}, which lies outside the bundle", of_a_file=True)
        return found

    def load(self, path: str) -> Any:
        """Content of a file of the bundle, read as weights. Raises UnreadableError if it is outside or missing."""
        from lowres_seg.export.frameworks.checkpoints import checkpoint

        file = self.file(path)
        if not inside(self.folder, file):
            raise UnreadableError(f"loads {path[:100]}, which leads outside the bundle", of_a_file=True)
        if not file.is_file():
            raise UnreadableError(
                f"loads {path[:100]}, which is missing{whereabouts(self.folder, file)}", of_a_file=True
            )
        if file not in self._loaded:
            try:
                self._loaded[file] = natives(checkpoint(file))
            except ExportError as error:
                raise UnreadableError(f"loads what cannot be read: {error}", of_a_file=True) from error
        return self._loaded[file]

    def exists(self, path: str) -> bool:
        """Tell whether a file of the bundle exists. Raises UnreadableError for a path outside."""
        return self.file(path).exists()

    @property
    def imported(self) -> Mapping[str, str]:
        """Full names of what the configuration imports under other names."""
        return self._imported
