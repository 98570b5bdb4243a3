"""The networks of a MONAI bundle: one, or the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowres_seg.errors import ExportError
from lowres_seg.export.importers import monai_network
from lowres_seg.export.importers.monai_config import Config
from lowres_seg.export.importers.monai_network import Definition
from lowres_seg.export.importers.monai_values import is_same
from lowres_seg.export.recipe import NetworkSource


@dataclass(frozen=True)
class Networks:
    """What the networks are.

    Attributes
    ----------
    config : Config
    items : sequence of str
        Key of the item that holds the result of each.
    definitions : sequence of Definition
    """

    config: Config
    items: Sequence[str]
    definitions: Sequence[Definition]

    @classmethod
    def of(cls, config: Config) -> Networks:
        """Read them from the configuration. Raises ExportError if they cannot be read."""
        found = monai_network.definitions(config)
        return cls(config, tuple(found), tuple(found.values()))

    def channels(self, side: str) -> int | None:
        """Number of channels of their ``inputs`` or ``outputs``; None if no argument says it.

        Raises
        ------
        ExportError
            If they differ.
        """
        counts = [definition.channels(side) for definition in self.definitions]
        known = sorted({count for count in counts if count is not None})
        if len(known) > 1:
            verb, each = "take" if side == "inputs" else "give", ", ".join(map(str, counts))
            raise ExportError(
                f"{self.config.where(self.definitions[0].role.key)}: the networks of the ensemble {verb} "
                f"{each} channels; expected the same number"
            )
        return known[0] if known else None

    def sources(
        self, shape: Sequence[int], *, trust: bool
    ) -> tuple[tuple[str, ...], dict[str, NetworkSource], dict[str, str]]:
        """Sources of the networks. Notes on them are added to the configuration's.

        Parameters
        ----------
        shape : sequence of int
            Of their input.
        trust : bool
            Whether code of the bundle may run.

        Returns
        -------
        names : tuple of str
            Name of each network, in the order of the configuration. One network may be there twice.
        sources : dict of str to NetworkSource
        code : dict of str to str
            Digests of the files of code that ran.

        Raises
        ------
        ExportError
            If one of them has no source, or takes slices where the windows are none.
        """
        config, sources = self.config, dict[str, NetworkSource]()
        code: dict[str, str] = {}
        names: list[str] = []
        for place, definition in enumerate(self.definitions):
            before = [is_same(other.role.entry, definition.role.entry) for other in self.definitions[:place]]
            if any(before):
                names.append(names[before.index(True)])
                continue
            names.append(f"net_{place}" if len(self.definitions) > 1 else "net")
            if trust and monai_network.is_own(config.folder, definition.target):
                from lowres_seg.export.importers import monai_trusted

                sources[names[-1]], ran = monai_trusted.traced(config, definition, shape)
                code |= ran
            else:
                sources[names[-1]] = monai_network.source(config, definition)
            if definition.is_flat and 1 not in shape[2:]:
                raise ExportError(
                    f"{config.where(definition.role.key)}: the network takes slices, and windows are "
                    f"{tuple(shape[2:]) or None}; expected one slice in a window"
                )
        return tuple(names), sources, code
