"""The one output of a network that holds the scores, where it gives several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowres_seg.errors import ExportError

Shape = tuple[int, ...]
Path = tuple[int | str, ...]


@dataclass
class Outputs:
    """Which output holds the scores.

    Attributes
    ----------
    key : int or str or None
        Name or index that the recipe gives; names within a list or a dictionary are joined by dots.
    taken : str
        What was taken of several outputs, in words; empty as long as the network gave one tensor.
    path : tuple
        Indices and names that lead to it.
    """

    key: int | str | None = None
    taken: str = ""
    path: Path = ()

    def one(self, result: Any, shape: Sequence[int]) -> Any:
        """The tensor of scores among what a network gives for an input of `shape`.

        Raises
        ------
        ExportError
            If the network has no such output, or it does not follow which one it is.
        """
        if _is_tensor(result) and self.key in (None, 0, "0"):
            return result
        found = dict(_leaves(result))
        shapes = {_name(path): tuple(int(n) for n in tensor.shape) for path, tensor in found.items()}
        chosen = self.of(shapes, shape, in_order=not any(isinstance(step, str) for path in found for step in path))
        self.path = next(path for path in found if _name(path) == chosen)
        return found[self.path]

    def of(self, shapes: Mapping[str, Shape | None], shape: Sequence[int], *, in_order: bool = True) -> str:
        """The name of that output, by the names and shapes of all.

        Parameters
        ----------
        shapes : mapping of str to shape
        shape : sequence of int
            Shape of the input.
        in_order : bool
            Whether the order of the outputs means something, as in a list and not in a dictionary.

        Raises
        ------
        ExportError
            As `one`.
        """
        chosen = _choose(shapes, self.key, shape, in_order=in_order)
        if len(shapes) > 1:
            why = "first of a list, at full resolution: deep supervision" if self.key is None else "named by the recipe"
            self.taken = f"output {chosen} of {len(shapes)} ({why})"
        return chosen


def _choose(shapes: Mapping[str, Shape | None], key: int | str | None, shape: Sequence[int], *, in_order: bool) -> str:
    """Name of the output that holds the scores.

    A list whose first item has the full resolution is deep supervision, and the first item holds the scores. Another
    item of full resolution with another number of channels makes it a choice.
    """
    names = list(shapes)
    if key is not None:
        wanted = str(key)
        names = [name for name in names if name == wanted or name.startswith(f"{wanted}.")]
        if not names and wanted.isdigit() and int(wanted) < len(shapes):
            names = [list(shapes)[int(wanted)]]
        if not names:
            raise ExportError(f"the network has no output {key!r}, it gives {_listed(shapes)}")
    if len(names) == 1:
        return names[0]
    full = [name for name in names if _is_full(shapes[name], shape)]
    channels = {(shapes[name] or (0, 0))[1] for name in full}
    if names and in_order and full[:1] == names[:1] and len(channels) == 1:
        return names[0]
    raise ExportError(
        f"the network gives {_listed(shapes)}, expected one output (1, C, D, H, W); "
        "say which one in the recipe: output = NAME or INDEX in the network's entry"
    )


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_full(found: Shape | None, shape: Sequence[int]) -> bool:
    return found is not None and len(found) == len(shape) and tuple(found[2:]) == tuple(shape[2:])


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Tensors in nested lists and dictionaries. What is no tensor, such as None, is no output."""
    if _is_tensor(value):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))


def _name(path: Path) -> str:
    return ".".join(map(str, path)) or "0"


def _listed(shapes: Mapping[str, Shape | None], most: int = 8) -> str:
    texts = [f"{name} {'of unknown shape' if shape is None else shape}" for name, shape in shapes.items()]
    return (", ".join(texts[:most]) + (", …" if len(texts) > most else "")) or "no tensor"
