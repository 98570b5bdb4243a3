"""Operations that expressions of MONAI bundles may use, their values, and the bounds on them."""

from __future__ import annotations

import ast
import operator
import posixpath
from collections.abc import Callable, Iterable
from typing import Any

from lowres_seg.export.importers.monai_values import UnreadableError

#: Bound on the values that an expression may make.
MOST_VALUES = 10_000
_LARGEST = 2**64
DTYPES = frozenset({
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128",
})  # fmt: skip
OTHER_DTYPES = {
    "torch.half": "float16", "torch.float": "float32", "torch.double": "float64", "torch.short": "int16",
    "torch.int": "int32", "torch.long": "int64", "numpy.single": "float32", "numpy.double": "float64",
    "numpy.half": "float16", "numpy.bool_": "bool",
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


def _range(*bounds: int) -> list[int]:
    found = range(*bounds)
    if len(found) > MOST_VALUES:
        raise UnreadableError(f"makes more than {MOST_VALUES} values")
    return list(found)


def _zip(*lists: Iterable[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*lists, strict=False))


#: Functions of plain values, by the type of their first argument.
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[type, ...]]] = {
    "len": (len, (str, list, tuple, dict)), "abs": (abs, (int, float)), "round": (round, (int, float)),
    "int": (int, (int, float, str)), "float": (float, (int, float, str)), "str": (str, (int, float, str)),
    "bool": (bool, (int, float, str, list, tuple, dict)), "list": (list, (list, tuple)),
    "tuple": (tuple, (list, tuple)),
    "min": (min, (int, float, list, tuple)), "max": (max, (int, float, list, tuple)),
    "os.path.join": (posixpath.join, (str,)), "range": (_range, (int,)), "zip": (_zip, (list, tuple)),
    "enumerate": (lambda values: list(enumerate(values)), (list, tuple)),
}  # fmt: skip
OF_SEVERAL = frozenset({"min", "max", "os.path.join", "range", "zip"})
#: Functions that take a generator as they take a list.
OF_GENERATORS = frozenset({"list", "tuple", "min", "max"})
#: Functions and classes that give the network that they are given, as far as inference goes.
WRAPPERS = frozenset({
    "torch.nn.DataParallel", "torch.nn.parallel.DataParallel", "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.SyncBatchNorm.convert_sync_batchnorm", "torch.compile",
})  # fmt: skip


def size_of(value: Any) -> int:
    """Number of values within a value. Raises UnreadableError if it is too large."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise UnreadableError("makes a number that is too large")
    stack, count = [value], 0
    while stack:
        one = stack.pop()
        count += 1 + len(one) // 16 if isinstance(one, str) else 1
        if count > MOST_VALUES:
            raise UnreadableError(f"makes more than {MOST_VALUES} values")
        if isinstance(one, (list, tuple, dict)):
            stack += one.values() if isinstance(one, dict) else one
    return count


def plain_value(value: Any, what: str) -> Any:
    """The value, if it is plain data. Raises UnreadableError if not."""
    if value is not None and not isinstance(value, (bool, int, float, str, list, tuple, dict)):
        raise UnreadableError(f"uses {type(value).__name__} in {what}")
    return value


def truth(value: Any) -> bool:
    """Truth of plain data. Raises UnreadableError for anything else."""
    return bool(plain_value(value, "a condition"))


def kind_of(node: ast.AST) -> str:
    """What a part of an expression is called in messages."""
    kinds = {
        "DictComp": "a comprehension", "SetComp": "a comprehension",
        "GeneratorExp": "a generator", "Lambda": "a lambda", "NamedExpr": "an assignment",
        "Constant": "a constant of another kind", "Starred": "a *",
    }  # fmt: skip
    return kinds.get(type(node).__name__, type(node).__name__)
