"""The tensors that a network takes, and the channels of each, where it takes several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowres_seg.errors import ExportError

#: For each tensor, in the order of the network's arguments, places of its channels in the one tensor that is given.
Parts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Taken:
    """The tensors that a network takes.

    Attributes
    ----------
    needed : tuple of str
        Names of those that it must be given, in their order.
    most : int or None
        Greatest number that it takes; None for any.
    """

    needed: tuple[str, ...]
    most: int | None

    def check(self, parts: Parts | None) -> None:
        """Check that a recipe says what a network of several tensors is given.

        Raises
        ------
        ExportError
            With what to write.
        """
        count, names = len(self.needed), ", ".join(self.needed)
        if parts is None:
            if count > 1:
                example = ", ".join(['["CHANNEL", …]'] * count)
                raise ExportError(
                    f"it takes {count} tensors ({names}), and the recipe does not say which channels each of them has; "
                    f"write in the network's entry, in this order: inputs = [{example}]"
                )
        elif len(parts) < count or (self.most is not None and len(parts) > self.most):
            most = "more" if self.most is None else self.most
            expected = f"{count}" if self.most == count else f"{count} to {most}"
            raise ExportError(
                f"inputs in the recipe are those of {len(parts)} tensors, and the network takes {expected}"
                f"{f' ({names})' if names else ''}; write one list of channels for each"
            )
