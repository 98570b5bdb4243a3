"""The packages that some bundles need and others do not: docs/licences.md says which, and why one may lack them."""

from __future__ import annotations

from importlib.util import find_spec

from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.rules import FillHoles, LargestComponent, SmallComponents, ZScore
from lowres_seg.bundle.stage import BoxOf
from lowres_seg.runtime.cleanup import missing
from lowres_seg.runtime.doubts import one_organ

#: What has to be there to import each package.
_IMPORTED = {"connected-components-3d": ("cc3d",), "fill-voids": ("fill_voids", "fastremap")}


def of_pipeline(pipeline: Pipeline) -> list[str]:
    """Packages that the stages of a pipeline need, and the doubts about its labels."""
    cleanup = [rule for stage in pipeline.stages for rule in stage.cleanup]
    intensities = [rule for stage in pipeline.stages for rule in stage.normalise.rules]
    filled = [rule.connectivity for rule in cleanup if isinstance(rule, FillHoles)]
    components = (
        any(isinstance(rule, LargestComponent | SmallComponents) for rule in cleanup)
        or any(connectivity != 6 for connectivity in filled)
        or any(isinstance(stage.region, BoxOf) and stage.region.largest for stage in pipeline.stages)
        or bool(one_organ(pipeline))
    )
    cavities = 6 in filled or any(isinstance(rule, ZScore) and rule.voxels == "inside" for rule in intensities)
    return ["connected-components-3d"] * components + ["fill-voids"] * cavities


def check(pipeline: Pipeline) -> None:
    """Check that every package is there that a pipeline needs, without importing any.

    Raises
    ------
    MissingExtraError
        If one is missing. The message has the command that installs it.
    """
    for package in of_pipeline(pipeline):
        if any(find_spec(name) is None for name in _IMPORTED[package]):
            raise missing(package)
