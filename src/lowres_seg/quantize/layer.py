"""Identity of a layer: which operator of which network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class LayerId(NamedTuple):
    """An operator of a network. In files and messages it is written ``network/operator``.

    Examples
    --------
    >>> str(LayerId("net", "first/Convolution"))
    'net/first/Convolution'
    >>> LayerId.parse("net/first/Convolution").operator
    'first/Convolution'
    """

    network: str
    operator: str

    def __str__(self) -> str:
        return f"{self.network}/{self.operator}"

    @classmethod
    def parse(cls, text: str) -> LayerId:
        """Read ``network/operator``. The name of a network has no slash."""
        network, _, operator = text.partition("/")
        return cls(network, operator)


#: Layers that keep their precision.
Reverted = tuple[LayerId, ...]


def operators_of(network: str, layers: Iterable[LayerId]) -> list[str]:
    """Operators of one network among some layers."""
    return [layer.operator for layer in layers if layer.network == network]


def as_text(layers: Sequence[LayerId]) -> list[str]:
    """Layers as they are written in files."""
    return [str(layer) for layer in layers]
