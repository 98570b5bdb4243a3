"""What `predict` writes where an output ends in ``.dcm``: the DICOM segmentation of a job's series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lowres_seg import atomic
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.pipeline import Label
from lowres_seg.cohort.listing import Job
from lowres_seg.dicom import codes as codes_of
from lowres_seg.dicom.inputs import SeriesOf
from lowres_seg.errors import InputError
from lowres_seg.extras import require
from lowres_seg.volumes.volume import Volume

if TYPE_CHECKING:  # a mask in NIfTI needs no highdicom
    from lowres_seg.dicom.segmentation import Kind

SUFFIX = ".dcm"


@dataclass(frozen=True)
class AsSegmentation:
    """Writes the label map of a job as a DICOM segmentation on the series of one of its channels.

    Attributes
    ----------
    bundle : Bundle
    segments : tuple of Label
        Each with codes.
    kind : str
        ``binary`` or ``labelmap``.
    source : SeriesOf
    """

    bundle: Bundle
    segments: tuple[Label, ...]
    kind: Kind
    source: SeriesOf

    def check(self) -> None:
        """Check, before anything runs, that the series is one that a segmentation can refer to.

        Raises
        ------
        InputError
            If it is not, or there is no such series.
        """
        from lowres_seg.dicom.segmentation import check

        check([instance.header() for instance in self.source.series.instances[:1]])

    def write(self, path: Path, labels: Volume) -> None:
        """Write a label map to a file that may be replaced.

        Raises
        ------
        InputError
            As of `segmentation`.
        """
        from lowres_seg.dicom.segmentation import Algorithm, segmentation, write

        manifest, series = self.bundle.manifest, self.source.series
        numbers: dict[str, set[int]] = {}
        for instance, frame in series.slices:
            numbers.setdefault(instance.uid, set()).add(frame.index + 1)
        made = segmentation(
            [instance.header() for instance in series.instances],
            labels,
            self.segments,
            Algorithm(manifest.name, manifest.version, self.bundle.digest),
            kind=self.kind,
            numbers=numbers,
        )
        write(path, made)


def segments_of(
    output: str, bundle: Bundle, names: Mapping[int, str], *, codes: Path | None, kind: str | None
) -> tuple[Label, ...]:
    """Labels of a mask with their codes, for an output that is a DICOM segmentation; none for another.

    Parameters
    ----------
    output : str
    bundle : Bundle
    names : mapping of int to str
        Name of each label of the mask. A name that the bundle does not have, of several labels in one, has no codes but
        those given.
    codes : pathlib.Path, optional
        File of codes, which come before those of the manifest.
    kind : str, optional
        Type of segmentation that is asked for.

    Raises
    ------
    InputError
        If `codes` or `kind` is given and the output is none; or as of `codes.read` and `codes.coded`.
    MissingExtraError
        If packages that write DICOM are missing.
    """
    if not output.lower().endswith(SUFFIX):
        given = "--codes" if codes is not None else "--segmentation-type" if kind is not None else None
        if given is not None:
            raise InputError(f"{given}: is for DICOM segmentations; name an output such as mask.dcm")
        return ()
    require("dicom")
    given_codes = {} if codes is None else codes_of.read(codes)
    known = {label.name: label for label in bundle.manifest.labels}
    labels = [
        known[name].model_copy(update={"value": value}) if name in known else Label(value=value, name=name)
        for value, name in names.items()
    ]
    return codes_of.coded(labels, given_codes, where=bundle.manifest.name)


def as_segmentations(
    jobs: Sequence[Job], bundle: Bundle, segments: tuple[Label, ...], *, reference: str | None, kind: Kind
) -> list[Job]:
    """Jobs that write DICOM segmentations; as they are, if there are no segments.

    Parameters
    ----------
    jobs : sequence of Job
    bundle : Bundle
    segments : tuple of Label
        As of `segments_of`.
    reference : str, optional
        Channel on whose grid the mask lies; the first by default.
    kind : str
        ``binary`` or ``labelmap``.

    Raises
    ------
    InputError
        If a mask lies on what is no series of DICOM, or on one that a segmentation cannot refer to; or if it would
        replace an image of the series.
    """
    if not segments:
        return list(jobs)
    found = []
    for job in jobs:
        source = job.sources.get(reference or bundle.manifest.channels[0])
        if not isinstance(source, SeriesOf):
            raise InputError(
                f"{job.output}: would be a DICOM segmentation, and {job.name} is no DICOM series that it could refer "
                "to; name a mask that ends in .nii.gz"
            )
        form = AsSegmentation(bundle, segments, kind, source)
        form.check()
        atomic.check_target(job.output, force=True, inputs=source.files())
        found.append(replace(job, form=form))
    return found
