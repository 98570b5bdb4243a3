"""Expressions of MONAI bundles, such as ``$@bundle_root + '/models/model.pt'``. Their code is parsed, and never run.

A small part of Python is computed here by its own rules: what is not listed is refused by name. Sizes are bounded, so
that no expression takes long.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lowres_seg.export.importers.monai_operations import (
    ARITHMETIC,
    COMPARISONS,
    DTYPES,
    FUNCTIONS,
    MOST_VALUES,
    OF_GENERATORS,
    OF_SEVERAL,
    OTHER_DTYPES,
    SIGNS,
    WRAPPERS,
    kind_of,
    plain_value,
    size_of,
    truth,
)
from lowres_seg.export.importers.monai_values import Device, Refused, Tensor, UnreadableError

ALLOWED = (
    "references, indices, arithmetic, comparisons, conditions, lists, comprehensions of lists, len, range, "
    "os.path.join, torch.device, dtypes, "
    "torch.from_numpy, and torch.load of a file of the bundle"
)
_REFERENCE = re.compile(r"@(\w+(?:::\w+)*)")
_PLACEHOLDER = "_reference_{}_"
_LONGEST, _DEEPEST, _MOST_STEPS = 2000, 30, 500
#: Names that a configuration knows without importing them.
_KNOWN = {"np": "numpy"}
#: Methods of a network that move it, or switch to inference, which is done anyway.
_MOVES = frozenset({"to", "cpu", "cuda", "eval", "float"})


class World(Protocol):
    """What an expression may ask for."""

    def reference(self, key: str) -> Any:
        """Value of another key. Raises UnreadableError if it has none."""
        ...

    def load(self, path: str) -> Any:
        """Content of a file of the bundle, read by torch as weights. Raises UnreadableError if it is none."""
        ...

    def exists(self, path: str) -> bool:
        """Tell whether a file of the bundle exists. Raises UnreadableError for a path outside."""
        ...

    def constant(self, name: str) -> str | None:
        """Value of a constant of monai.utils; None if there is no such constant."""
        ...

    def spend(self, amount: int) -> None:
        """Count the values that were looked at. Raises UnreadableError if they are too many."""
        ...


def is_lambda(text: str) -> bool:
    """Tell whether an expression is a function, which other modules read."""
    return re.match(r"\$\s*\(*\s*lambda\b", text) is not None


def imports(text: str) -> dict[str, str]:
    """Names that ``$import numpy as np`` or ``$from os import path`` gives, with the full name of each."""
    try:
        body = ast.parse(text[1:].strip()[:_LONGEST]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def evaluate(text: str, world: World, imported: Mapping[str, str]) -> Any:
    """Compute an expression.

    Parameters
    ----------
    text : str
        With its ``$``.
    world : World
    imported : mapping of str to str
        Full names of what the configuration imports.

    Raises
    ------
    UnreadableError
        If it is none, uses anything that is not allowed, or becomes too large.
    """
    code = text[1:].strip().replace("#", "::")
    if len(code) > _LONGEST:
        raise UnreadableError(f"has {len(code)} characters, more than {_LONGEST}")
    keys: list[str] = []

    def named(match: re.Match[str]) -> str:
        keys.append(match[1])
        return _PLACEHOLDER.format(len(keys) - 1)

    try:
        tree = ast.parse(_REFERENCE.sub(named, code), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError("is no expression of Python") from error
    references = {_PLACEHOLDER.format(index): key for index, key in enumerate(keys)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not set(references) <= used:
        raise UnreadableError("has an @ within a text")
    return _Evaluation(world, imported, references).value(tree)


class _Evaluation:
    """The computation of one expression."""

    def __init__(self, world: World, imported: Mapping[str, str], references: Mapping[str, str]) -> None:
        self.world = world
        self.imported = imported
        self.references = references
        self.names: dict[str, Any] = {}
        self.steps = self.depth = 0

    def value(self, node: ast.AST) -> Any:
        self.steps += 1
        self.depth += 1
        if self.steps > _MOST_STEPS or self.depth > _DEEPEST:
            raise UnreadableError("is too long or nested too deeply")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise UnreadableError(f"has {kind_of(node)}")
        try:
            found = method(node)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UnreadableError(f"cannot be computed ({type(error).__name__}: {str(error)[:80]})") from error
        self.depth -= 1
        self.world.spend(1 + size_of(found) // 16)
        return found

    def _constant(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, (bool, int, float, str)):
            return node.value
        raise UnreadableError(f"has {kind_of(node)}")

    def _list(self, node: ast.List) -> Any:
        return [self.value(one) for one in node.elts]

    def _tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.value(one) for one in node.elts)

    def _dict(self, node: ast.Dict) -> Any:
        if any(key is None for key in node.keys):
            raise UnreadableError("has ** in an object")
        pairs = zip(node.keys, node.values, strict=True)
        return {plain_value(self.value(key), "a key"): self.value(one) for key, one in pairs if key is not None}

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp) -> Any:
        found: list[Any] = []
        outer = self.names

        def run(generators: list[ast.comprehension]) -> None:
            if not generators:
                found.append(self.value(node.elt))
                return
            first, *others = generators
            within = self.names
            for one in self._iterated(first):
                self.names = within | _bound(first.target, one)
                if all(truth(self.value(test)) for test in first.ifs):
                    run(others)
            self.names = within

        run(node.generators)
        self.names = outer
        return found

    def _iterated(self, generator: ast.comprehension) -> list[Any]:
        values = self.value(generator.iter)
        if generator.is_async or not isinstance(values, (list, tuple, str)):
            raise UnreadableError(f"repeats something for {type(values).__name__}")
        if len(values) > _MOST_STEPS:
            raise UnreadableError("is too long or nested too deeply")
        return list(values)

    def _joinedstr(self, node: ast.JoinedStr) -> Any:
        return "".join(str(self.value(one)) for one in node.values)

    def _formattedvalue(self, node: ast.FormattedValue) -> Any:
        found = self.value(node.value)
        if node.conversion != -1 or node.format_spec is not None or not isinstance(found, (str, int, float)):
            raise UnreadableError("formats a value in a text")
        return str(found)

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id not in self.references:
            return self._constant_of(node)
        found = self.world.reference(self.references[node.id])
        if isinstance(found, Refused):
            raise UnreadableError(f"refers to @{self.references[node.id]}", found)
        return found

    def _attribute(self, node: ast.Attribute) -> Any:
        return self._constant_of(node)

    def _constant_of(self, node: ast.expr) -> Any:
        name = self._full_name(node)
        if name is None:
            raise UnreadableError(f"takes the attribute {getattr(node, 'attr', '')}")
        home, _, last = name.rpartition(".")
        if home in ("numpy", "torch") and last in DTYPES:
            return last
        if name in OTHER_DTYPES:
            return OTHER_DTYPES[name]
        found = self.world.constant(name) if name.startswith("monai.") else None
        if found is None:
            raise UnreadableError(f"uses {name[:80]}")
        return found

    def _full_name(self, node: ast.expr) -> str | None:
        """Dotted name of a chain of attributes that begins with a name; None for one of a value."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self.references or node.id in self.names:
            return None
        head = self.imported.get(node.id, _KNOWN.get(node.id, node.id))
        return ".".join([head, *reversed(names)])

    def _subscript(self, node: ast.Subscript) -> Any:
        holder = self.value(node.value)
        if isinstance(holder, dict) and "_target_" in holder:
            raise UnreadableError("takes a part of a component")
        part = node.slice
        if isinstance(part, ast.Slice):
            bounds = [None if end is None else self._integer(end) for end in (part.lower, part.upper, part.step)]
            index: Any = slice(*bounds)
        else:
            index = self.value(part)
        array = holder.array if isinstance(holder, Tensor) else holder
        if isinstance(array, (str, list, tuple, Mapping)):
            return array[index]
        if isinstance(array, np.ndarray):
            found = array[index]
            if not isinstance(found, np.ndarray):
                return found.item()
            return Tensor(found) if isinstance(holder, Tensor) else found
        raise UnreadableError(f"takes a part of {type(holder).__name__}")

    def _integer(self, node: ast.expr) -> int:
        found = self.value(node)
        if not isinstance(found, int):
            raise UnreadableError(f"has {type(found).__name__} for an index")
        return found

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if truth(self.value(node.test)) else node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Any:
        found: Any = None
        for one in node.values:
            found = self.value(one)
            if truth(found) == isinstance(node.op, ast.Or):
                break
        return found

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        found = self.value(node.operand)
        if type(node.op) not in SIGNS or not (isinstance(node.op, ast.Not) or isinstance(found, (int, float))):
            raise UnreadableError(f"has {kind_of(node.op)} of {type(found).__name__}")
        return truth(found) is False if isinstance(node.op, ast.Not) else SIGNS[type(node.op)](found)

    def _compare(self, node: ast.Compare) -> Any:
        left = plain_value(self.value(node.left), "a comparison")
        for kind, other in zip(node.ops, node.comparators, strict=True):
            right = plain_value(self.value(other), "a comparison")
            if not COMPARISONS[type(kind)](left, right):
                return False
            left = right
        return True

    def _binop(self, node: ast.BinOp) -> Any:
        compute = ARITHMETIC.get(type(node.op))
        left, right = self.value(node.left), self.value(node.right)
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        joins = isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, (str, list, tuple))
        times = isinstance(node.op, ast.Mult) and {type(left), type(right)} in ({int, k} for k in (str, list, tuple))
        if compute is None or not (numbers or joins or times):
            raise UnreadableError(f"has {kind_of(node.op)} of {type(left).__name__} and {type(right).__name__}")
        if times:
            many, count = (right, left) if isinstance(left, int) else (left, right)
            if len(many) * count > MOST_VALUES:
                raise UnreadableError(f"makes more than {MOST_VALUES} values")
        powers = isinstance(node.op, ast.Pow) and isinstance(left, int) and isinstance(right, int)
        if powers and (abs(right) > 64 or left.bit_length() * abs(right) > 128):
            raise UnreadableError("makes a number that is too large")
        found = compute(left, right)
        if isinstance(found, complex):
            raise UnreadableError("makes a complex number")
        return found

    def _call(self, node: ast.Call) -> Any:
        name = self._full_name(node.func)
        if name is None:
            return self._moved(node)
        if name == "torch.cuda.is_available":
            return False
        if name == "torch.device":
            return Device()
        first = self._first(node, name)
        if name == "torch.load" and isinstance(first, str):  # always on the CPU, as weights only
            return self.world.load(first)
        if name == "torch.jit.load" and isinstance(first, str):
            return {"_target_": name, "f": first}
        if name in ("os.path.exists", "os.path.isfile") and isinstance(first, str):
            return self.world.exists(first)
        if isinstance(first, dict) and "_target_" in first:
            if name in WRAPPERS:
                return first
            if name == "copy.deepcopy" and len(node.args) == 1:
                return dict(first)  # another object
        if name == "torch.from_numpy" and isinstance(first, np.ndarray):
            return Tensor(first)
        compute, kinds = FUNCTIONS.get(name, (None, ()))
        if compute is None or node.keywords or not isinstance(first, kinds):
            of = f" of {type(first).__name__}" if compute or name.startswith(("torch.", "os.")) else ""
            raise UnreadableError(f"calls {name[:80]}{of}")
        if len(node.args) > 1 and name not in OF_SEVERAL:
            raise UnreadableError(f"calls {name} of several values")
        others = [plain_value(self.value(one), name) for one in node.args[1:]]
        if name == "os.path.join" and not all(isinstance(one, str) for one in others):
            raise UnreadableError("joins paths that are no text")
        return compute(plain_value(first, name), *others)

    def _first(self, node: ast.Call, name: str) -> Any:
        """The first argument of a call; None without one."""
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg in ("module", "model"))]
        if not given or isinstance(given[0], ast.Starred):
            return None
        if isinstance(given[0], ast.GeneratorExp) and name in OF_GENERATORS:
            return self._listcomp(given[0])
        return self.value(given[0])

    def _moved(self, node: ast.Call) -> Any:
        """Value of ``network.to(device)``: the network itself. The device is not asked for."""
        if not isinstance(node.func, ast.Attribute):
            raise UnreadableError("calls what an expression gives")
        name = node.func.attr
        if name not in _MOVES:
            raise UnreadableError(f"calls the method {name[:40]}")
        holder = self.value(node.func.value)
        if isinstance(holder, Tensor):
            of_devices = name in ("to", "cpu", "cuda") and all(isinstance(self.value(one), Device) for one in node.args)
            if not of_devices or node.keywords:
                raise UnreadableError(f"calls the method {name} of a tensor with other than a device")
        elif not (isinstance(holder, dict) and "_target_" in holder):
            raise UnreadableError(f"calls the method {name} of {type(holder).__name__}")
        return holder


def _bound(target: ast.expr, value: Any) -> dict[str, Any]:
    """Names that a repetition gives to one of its values. Raises UnreadableError for other targets than names."""
    if isinstance(target, ast.Name):
        return {target.id: value}
    if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (list, tuple)):
        names: dict[str, Any] = {}
        for one, part in zip(target.elts, value, strict=True):
            names |= _bound(one, part)
        return names
    raise UnreadableError(f"repeats something for {type(value).__name__}")
