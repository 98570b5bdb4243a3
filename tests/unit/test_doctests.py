"""Examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lowres_seg
from lowres_seg import MissingExtraError

MODULES = [
    module.name
    for module in pkgutil.walk_packages(lowres_seg.__path__, "lowres_seg.")
    if not module.name.endswith(("__main__", ".child"))
]
#: Modules whose examples must not get lost.
WITH_EXAMPLES = {
    "lowres_seg.bench.estimates",
    "lowres_seg.export.importers.files",
    "lowres_seg.metrics.agreement",
    "lowres_seg.quantize.layer",
    "lowres_seg.runtime.interpolation",
    "lowres_seg.volumes.files",
    "lowres_seg.volumes.grid",
    "lowres_seg.volumes.volume",
    "lowres_seg.wording",
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except (ModuleNotFoundError, MissingExtraError) as error:
        pytest.skip(f"needs an extra: {error}")
    tried = doctest.testmod(module)
    assert tried.failed == 0
    assert tried.attempted > 0 or name not in WITH_EXAMPLES
