"""Options of `predict` that say what is made of a result before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowres_seg.cli.options import one_of

if TYPE_CHECKING:
    from lowres_seg.bundle.manifest import Manifest

Scores = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Also write each label's score: float16, or uint8 (255 times a probability).",
        show_default=False,
    ),
]
BrainBundle = Annotated[
    Path | None,
    typer.Option(
        "--brain-mask",
        metavar="BUNDLE",
        help="Segment the brain with this bundle first, and set all else of the scan to zero.",
        show_default=False,
    ),
]
BrainBorder = Annotated[
    float | None,
    typer.Option(metavar="MM", help="Grow the brain mask by this distance before it is applied.", show_default=False),
]
ChosenLabels = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Write these labels only: brain,csf; or several in one: tumor=core+edema.",
        show_default=False,
    ),
]
Border = Annotated[
    float | None,
    typer.Option(
        metavar="MM", help="Grow what is labelled by this distance; shrink it if below zero.", show_default=False
    ),
]
Crop = Annotated[bool, typer.Option("--crop", help="Cut mask and masked scans to the box around the labels.")]
Like = Annotated[
    Path | None,
    typer.Option(
        metavar="OTHER", help="Put the mask on the grid of another scan in the same space.", show_default=False
    ),
]


def check_together(
    manifest: Manifest,
    *,
    labels: str | None,
    border: float | None,
    crop: bool,
    like: Path | None,
    scores: str | None,
    dicom: bool,
) -> None:
    """Refuse options that do not go with the bundle, or with each other."""
    given = {"--labels": labels is not None, "--border": border is not None, "--crop": crop, "--like": like is not None}
    given["--scores"] = scores is not None
    for option in (name for name, is_given in given.items() if is_given and not manifest.labels):
        raise typer.BadParameter("the bundle gives no mask", param_hint=option)
    for option in (name for name in ("--crop", "--like") if given[name] and dicom):
        raise typer.BadParameter("a DICOM segmentation lies on the grid of its series", param_hint=option)
    if scores is not None:
        one_of("--scores", scores, ("float16", "uint8"))
    if crop and like is not None:
        raise typer.BadParameter(
            "gives the mask the whole grid of the other scan; leave --crop out", param_hint="--like"
        )
