"""What is made of each result before it is written: chosen labels, a border, a box, another grid; in this order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.runtime import regrid
from lowres_seg.runtime.border import millimetres
from lowres_seg.runtime.kept_scores import ScoreType, as_score_type
from lowres_seg.runtime.label_choice import chosen
from lowres_seg.runtime.segmentation import Segmentation
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.volume import Volume

#: Options that change what is written, by name, as ledger and provenance have them.
Options = dict[str, bool | float | str]


@dataclass(frozen=True, eq=False)
class Finish:
    """What is made of each result.

    Attributes
    ----------
    labels : str or None
        As of `Segmentation.choose`.
    border_mm : float
    crop : bool
    like : Volume or None
        Another scan, whose grid the result gets; its voxels are not looked at.
    like_sha256 : str
        Of its file.
    scores : ScoreType or None
        Type of the scores of labels that are written beside them.
    """

    labels: str | None = None
    border_mm: float = 0.0
    crop: bool = False
    like: Volume | None = None
    like_sha256: str = ""
    scores: ScoreType | None = None

    @classmethod
    def checked(
        cls,
        pipeline: Pipeline,
        labels: str | None,
        border_mm: float | None,
        *,
        crop: bool,
        like: Path | None,
        scores: str | None = None,
    ) -> Finish:
        """Check what a user asks for against a bundle, before anything runs.

        Raises
        ------
        InputError
            If a label is unknown or has no score, the border is no number, or the other scan cannot be read.
        """
        if labels is not None:
            chosen(labels, pipeline.label_names, pipeline.evaluated)
        border = 0.0 if border_mm is None else millimetres(border_mm, "--border")
        other = None if like is None else Volume.blank(like)
        digest = "" if like is None else file_sha256(like)
        return cls(labels, border, crop, other, digest, as_score_type(scores, pipeline))

    @property
    def options(self) -> Options:
        """Those that are not as by default."""
        options: Options = {} if self.labels is None else {"labels": self.labels}
        options |= {"border": self.border_mm} if self.border_mm else {}
        options |= {"crop": True} if self.crop else {}
        options |= {} if self.scores is None else {"scores": self.scores}
        return options | ({"like": self.like_sha256} if self.like is not None else {})

    def label_names(self, pipeline: Pipeline) -> dict[int, str]:
        """Name of each label of a result."""
        names = pipeline.label_names
        if self.labels is None:
            return names
        return {one.values[0]: one.name for one in chosen(self.labels, names, pipeline.evaluated)}

    def check(self, grid: Grid, name: str) -> None:
        """Check that the result of a scan on `grid` can be put on the other grid.

        Raises
        ------
        InputError
            If they share no space.
        """
        if self.like is not None:
            regrid.check_overlap(grid, self.like.grid, (name, self.like.name))

    @property
    def changes(self) -> bool:
        """Whether anything is made of a result."""
        return bool(self.options.keys() - {"scores"})

    def applied(self, result: Segmentation, *, threads: int = 1) -> tuple[Segmentation, Segmentation]:
        """The result with its labels and border on the scan's whole grid, and the result to write.

        Raises
        ------
        InputError
            As of `Segmentation.border`, `crop` and `like`.
        """
        if self.labels is not None:
            result = result.choose(self.labels)
        if self.border_mm:
            result = result.border(self.border_mm, threads=threads)
        whole = result
        if self.crop:
            result = result.crop()
        return whole, result if self.like is None else result.like(self.like)

    def masked(self, scan: Volume, whole: Segmentation) -> Volume:
        """A scan that is zero outside the labels, in the box that is kept of it."""
        return regrid.cropped(scan, regrid.box_around_labels(whole.labels)) if self.crop else scan
