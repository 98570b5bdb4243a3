"""What nnU-Net found to improve label maps, as clean-up rules. Its pickle is read as data: nothing of it runs."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.bundle.rules import LargestComponent
from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers.files import read_json

#: Names of its files, the one that nnU-Net applies first.
NAMES = ("postprocessing.pkl", "postprocessing.json")
#: Value of the option that leaves it out.
NONE = "none"
_RESULTS, _ENSEMBLES = "crossval_results_folds_", "ensembles"
_KNOWN = "remove_all_but_largest_component_from_segmentation"
_HOME = "nnunetv2.postprocessing.remove_connected_components"
_SCALAR = (("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))


def find(folders: Sequence[Path], folds: Sequence[str]) -> Path | None:
    """File of the cross-validation of exactly these folds, of a results folder or of an ensemble of several."""
    if len(folders) == 1:
        homes = [(home, home.name.removeprefix(_RESULTS)) for home in folders[0].glob(f"{_RESULTS}*")]
    else:
        every = [home.name.split("___") for home in folders[0].absolute().parent.glob(f"{_ENSEMBLES}/ensemble___*___*")]
        names = sorted(folder.absolute().name for folder in folders)
        fitting = [parts for parts in every if sorted(parts[1:-1]) == names]
        homes = [(folders[0].absolute().parent / _ENSEMBLES / "___".join(parts), parts[-1]) for parts in fitting]
    for home, trained in sorted(homes):
        if sorted(trained.split("_")) == sorted(folds):
            return next((home / name for name in NAMES if (home / name).is_file()), None)
    return None


def read(path: Path) -> tuple[LargestComponent, ...]:
    """Read a postprocessing.pkl or postprocessing.json.

    Raises
    ------
    ExportError
        If it cannot be read, or names anything else than `remove_all_but_largest_component_from_segmentation`.
    """
    if not path.is_file():
        raise ExportError(f"{path}: does not exist, expected a {' or '.join(NAMES)}, or {NONE} to leave it out")
    if path.suffix == ".json":
        content = read_json(path)
        functions, arguments = content.get("postprocessing_fns"), content.get("postprocessing_kwargs")
    else:
        functions, arguments = _unpacked(path)
    if not isinstance(functions, list) or not isinstance(arguments, list) or len(functions) != len(arguments):
        raise ExportError(f"{path}: expected as many functions as keyword arguments, found {functions} and {arguments}")
    return tuple(_rule(path, str(one), given) for one, given in zip(functions, arguments, strict=True))


def _rule(path: Path, function: str, given: Any) -> LargestComponent:
    if function not in (_KNOWN, f"{_HOME}.{_KNOWN}"):
        raise ExportError(
            f"{path}: changes label maps by {function}, expected {_KNOWN}; leave it out with --postprocessing {NONE}"
        )
    if not isinstance(given, dict) or set(given) - {"labels_or_regions", "background_label"}:
        raise ExportError(f"{path}: {function} is given {given}, expected labels_or_regions and background_label")
    if given.get("background_label", 0) != 0:
        raise ExportError(f"{path}: gives what it removes the label {given['background_label']}, expected 0")
    labels = sorted(set(_flat(given.get("labels_or_regions"))))
    if not labels or not all(isinstance(label, int) and 1 <= label <= 255 for label in labels):
        raise ExportError(
            f"{path}: keeps the largest component of {given.get('labels_or_regions')}, expected labels from 1 to 255"
        )
    # All labels are taken together, whichever regions name them; full connectivity, and all of the largest size.
    return LargestComponent(labels=tuple(labels), connectivity=26, ties="all")


def _flat(labels: Any) -> list[Any]:
    if isinstance(labels, (list, tuple)):
        return [value for one in labels for value in _flat(one)]
    return [labels]


# -- a pickle as data --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A name of a module, which is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _Kind:
    """A numpy dtype of whole numbers: its text, such as i8, and the order of its bytes."""

    text: str
    order: str = "<"

    def number(self, content: bytes) -> int:
        """The number of some bytes."""
        if self.text[:1] not in ("i", "u") or str(len(content)) != self.text[1:]:
            msg = f"a number of the kind {self.text}"
            raise ValueError(msg)
        return int.from_bytes(content, "big" if self.order == ">" else "little", signed=self.text[0] == "i")


_MARK = object()


def _unpacked(path: Path) -> tuple[Any, Any]:
    """The pair that a pickle holds: lists, dictionaries, texts, numbers and names."""
    try:
        found = _Stack(path).run(path.read_bytes())
    except ExportError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ExportError(f"{path}: is no pickle that nnU-Net writes ({one_line(error)})") from error
    if not isinstance(found, tuple) or len(found) != 2:
        raise ExportError(f"{path}: holds {type(found).__name__}, expected functions and their keyword arguments")
    return found


class _Stack:
    """The stack on which the operations of a pickle build values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Value that the operations build."""
        operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(content)
        for operation, argument, _ in operations:
            name = operation.name
            if name == "STOP":
                return self._values.pop()
            if name in _PLAIN:
                self._values.append(_PLAIN[name](argument))
            elif name in _BUILT:
                _BUILT[name](self)
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                self._memo[int(argument)] = self._values[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                self._values.append(self._memo[int(argument)])
            elif name == "GLOBAL":
                self._values.append(_Name(*argument.split(" ", 1)))
            elif name not in ("PROTO", "FRAME"):
                raise ExportError(f"{self._path}: has the operation {name}, which no postprocessing.pkl of nnU-Net has")
        msg = "it does not end"
        raise ValueError(msg)

    def _pop(self, count: int) -> list[Any]:
        taken = [self._values.pop() for _ in range(count)]
        return taken[::-1]

    def _since_mark(self) -> list[Any]:
        taken = []
        while (value := self._values.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._values[-1]

    def tuple_since_mark(self) -> None:
        self._values.append(tuple(self._since_mark()))

    def tuple_of(self, count: int) -> None:
        self._values.append(tuple(self._pop(count)))

    def list_since_mark(self) -> None:
        self._values.append(self._since_mark())

    def append(self) -> None:
        value = self._values.pop()
        self._values[-1].append(value)

    def extend(self) -> None:
        values = self._since_mark()
        self._values[-1].extend(values)

    def set_item(self) -> None:
        key, value = self._pop(2)
        self._values[-1][key] = value

    def set_items(self) -> None:
        values = self._since_mark()
        self._values[-1].update(zip(values[::2], values[1::2], strict=True))

    def name(self) -> None:
        module, name = self._pop(2)
        self._values.append(_Name(str(module), str(name)))

    def reduce(self) -> None:
        """Of all calls only those that make a numpy number are known; they are not made."""
        function, arguments = self._pop(2)
        called = (function.module, function.name) if isinstance(function, _Name) else None
        if called == ("numpy", "dtype"):
            self._values.append(_Kind(str(arguments[0])))
        elif called in _SCALAR:
            kind, content = arguments
            self._values.append(kind.number(content))
        elif called == ("_codecs", "encode"):  # bytes, in pickles of protocol 2
            self._values.append(str(arguments[0]).encode("latin1"))
        else:
            raise ExportError(f"{self._path}: calls {function}, expected the functions of nnU-Net and numbers alone")

    def build(self) -> None:
        kind, state = self._pop(2)
        self._values.append(_Kind(kind.text, str(state[1])))


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _MARK,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
} | dict.fromkeys(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "SHORT_BINBYTES", "BINBYTES"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    ),
    lambda argument: argument,
)
_BUILT: Mapping[str, Callable[[_Stack], None]] = {
    "MEMOIZE": _Stack.memoize,
    "TUPLE": _Stack.tuple_since_mark,
    "TUPLE1": lambda stack: stack.tuple_of(1),
    "TUPLE2": lambda stack: stack.tuple_of(2),
    "TUPLE3": lambda stack: stack.tuple_of(3),
    "LIST": _Stack.list_since_mark,
    "APPEND": _Stack.append,
    "APPENDS": _Stack.extend,
    "SETITEM": _Stack.set_item,
    "SETITEMS": _Stack.set_items,
    "STACK_GLOBAL": _Stack.name,
    "REDUCE": _Stack.reduce,
    "BUILD": _Stack.build,
}
