"""From a trained network to a bundle. Needs ``lowres-seg[export]``.

Importers read what a framework wrote and give a recipe. Frameworks load, convert and run networks.
The exporter checks parity with the source and writes the bundle.
"""

from typing import TYPE_CHECKING, Any

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.export.exporter import export
    from lowres_seg.export.parity import ParityReport
    from lowres_seg.export.recipe import Recipe

__all__ = ["Options", "ParityReport", "Recipe", "export"]

#: Options of an importer by name, such as ``Options(folds=("0",), mirror=False)`` of an nnU-Net folder.
Options = dict[str, Any]

__getattr__, __dir__ = on_demand(
    __name__, {"ParityReport": "parity", "Recipe": "recipe", "export": "exporter"}, extra="export"
)
