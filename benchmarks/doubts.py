"""Doubts on real scans, where none should be raised, and on planted faults, where each should be.

    .venv-dev/bin/python benchmarks/doubts.py BRAIN_BUNDLE [--tumor BUNDLE] [--real FOLDER] [-o results/doubts.json]

BRAIN_BUNDLE is deepbet's of `lowres-seg demo`; it segments the T1 heads, as it is and without its clean-up. The masks
that come with x scans lie in FOLDER, by default in LOWRES_SEG_REALDATA. Every scan is also looked at by a network whose
field is 256 mm, as that of the usual brain networks, and its header is judged. A doubt on a real scan is a false alarm,
and a planted fault without its doubt is missed; either ends the script with exit code 1.
The last figure is the time of all doubts as a share of the time of a prediction.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lowres_seg import Segmenter, Volume
from lowres_seg.bundle.pipeline import Label, Pipeline
from lowres_seg.demo import fetch
from lowres_seg.runtime import doubts

#: T1 heads with their skulls, which the brain bundle is for.
HEADS = ("TCGA-FG-6692_t1.nii.gz", "TCGA-FG-6692_t1c.nii.gz", "rordenlab_T1_0.8mm.nii.gz", "T1_256_conformed.nii.gz")
Row = dict[str, Any]


def figures(pipeline: Pipeline, scan: list[Volume], labels: Volume, organ: str | None = None) -> Row:
    """The figures of a label map, and the names of its doubts."""
    raised = [*doubts.of_scan(scan), *doubts.of_result(pipeline, labels)]
    row: Row = {"doubts": [doubt.name for doubt in raised], "cut_off": round(doubts.cut_off(labels.data)[0], 4)}
    if organ is not None:
        count, scattered = doubts.fragments(labels.data, 1)
        row |= {"pieces": count, "outside_the_largest": round(scattered, 5)}
    return row


def drawn(pipeline: Pipeline, mask: Path, organ: str | None) -> Row:
    """The figures of a mask that comes with the scans."""
    labels = Volume.load(mask)
    whole = np.rint(labels.data).astype(np.uint8)
    whole = (whole != 0).astype(np.uint8) if organ else whole
    return figures(pipeline, [], Volume(whole, labels.grid), organ)


class Constant:
    """An engine that finds no label."""

    lean = False
    masks = ()

    def prepare(self) -> None:
        """Nothing is prepared."""

    def run(self, x: NDArray[np.float32], masks: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float32]:  # noqa: ARG002
        """Scores of background and of one label."""
        return np.stack([np.ones_like(x[:, 0]), np.zeros_like(x[:, 0])], 1)

    def release(self) -> None:
        """Nothing is held."""


def of_field(scan: Volume) -> list[str]:
    """Names of the doubts about a scan's header and about a network whose field is 256 mm."""
    conform = {"shape": [128] * 3, "spacing_mm": [2.0] * 3, "pad": "zero"}
    stage = {"name": "only", "networks": ["net"], "conform": conform, "decode": {"kind": "argmax", "labels": [0, 1]}}
    labels = [{"value": 1, "name": "nothing"}]
    pipeline = Pipeline.model_validate({"channels": ["mr"], "labels": labels, "stages": [stage]})
    found = Segmenter(pipeline, {"only": [Constant()]}, threads=2).predict(scan).doubts
    names = [getattr(doubt, "name", "header") for doubt in found]
    return [name for name in names if name in ("header", "beyond-the-field")]


def named(pipeline: Pipeline, label: str) -> Pipeline:
    """A pipeline without clean-up, whose only label is an organ or is none."""
    last = pipeline.stages[-1].model_copy(update={"cleanup": ()})
    labels = (Label(value=1, name=label),)
    return pipeline.model_copy(update={"stages": (*pipeline.stages[:-1], last), "labels": labels})


def child_head(folder: Path) -> Volume | None:
    """The DICOM series, oblique; None without SimpleITK, which is no dependency."""
    try:
        import SimpleITK as sitk
    except ImportError:
        return None
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    voxels = np.ascontiguousarray(sitk.GetArrayFromImage(image).T.astype(np.float32))
    return Volume.from_array(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def heads(real: Path) -> Iterator[tuple[str, Volume]]:
    """Yield every T1 head with its name."""
    for name in HEADS:
        yield name, Volume.load(real / "heads" / name)
    yield "MNI152NLin6Asym", Volume.load(fetch().head)
    child = child_head(real / "dicom" / "mprage_child")
    if child is not None:
        yield "mprage_child", child


def planted(segmenter: Segmenter, head: Volume, mask: Volume) -> Iterator[tuple[str, str, list[str]]]:
    """Yield faults in a real head or its mask: what was done, the doubt that it must raise, and those raised."""
    pipeline = named(segmenter.pipeline, "brain")
    used = [np.flatnonzero((mask.data != 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    for axis, places in enumerate(used):
        for share in (0.25, 0.5, 0.75):
            cut = int(places[0] + share * (places[-1] - places[0]))
            for side, keep in (("before", slice(cut, None)), ("behind", slice(0, cut))):
                index = tuple(keep if other == axis else slice(None) for other in range(3))
                affine = head.grid.affine.copy()
                affine[:3, 3] += affine[:3, axis] * (keep.start or 0)
                part = Volume.from_array(np.ascontiguousarray(head.data[index]), affine)
                if share == 0.5:
                    result = segmenter.predict(part)
                    found = [getattr(doubt, "name", "") for doubt in result.doubts]
                    figure = doubts.cut_off(result.labels.data)[0]
                    yield f"HEAD cut {side} {share} of the brain on axis {axis}: {figure:.2f}", "cut-off", found
                labels = Volume.from_array(np.ascontiguousarray(mask.data[index]), affine)
                found = [doubt.name for doubt in doubts.of_result(pipeline, labels)]
                figure = doubts.cut_off(labels.data)[0]
                yield f"mask cut {side} {share} of the brain on axis {axis}: {figure:.2f}", "cut-off", found
    pick = np.random.default_rng(0)
    inside = np.argwhere(mask.data == 0)
    for pieces in (20, 200, 2000):
        spotted = mask.data.copy()
        side = max(2, round((0.1 * np.count_nonzero(mask.data) / pieces) ** (1 / 3)))
        for i, j, k in pick.choice(inside, pieces):
            spotted[i : i + side, j : j + side, k : k + side] = 1
        found = [doubt.name for doubt in doubts.of_result(pipeline, Volume(spotted, mask.grid))]
        yield f"mask with {pieces} pieces more", "fragments", found
    noise = Volume((pick.random(mask.data.shape) < 0.1).astype(np.uint8) * mask.data, mask.grid)
    yield "mask of noise", "fragments", [doubt.name for doubt in doubts.of_result(pipeline, noise)]
    for lowest, planes in ((-32768.0, 3), (-32768.0, 20), (-(2.0**31), 3), (-1e5, 3), (-np.finfo(np.float32).max, 3)):
        voxels = head.data.copy()
        voxels[:, :, :planes] = lowest
        found = [doubt.name for doubt in doubts.of_scan([Volume(voxels, head.grid)])]
        yield f"{planes} planes of {lowest:g}", "padding", found
    nothing = Volume(np.zeros(mask.data.shape, np.uint8), mask.grid)
    yield "no voxel", "empty", [doubt.name for doubt in doubts.of_result(pipeline, nothing)]
    for extent in (264, 300, 400):
        for axis in range(3):
            shape = [64, 64, 64]
            shape[axis] = extent // 4
            wide = Volume.from_array(pick.random(shape, dtype=np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
            yield f"{extent} mm along axis {axis}", "beyond-the-field", of_field(wide)
    yield from planted_headers(head)
    limited = pipeline.model_copy(update={"labels": (Label(value=1, name="brain", volume_ml=(700, 2300)),)})
    part = mask.data.copy()
    part[used[0][0] + int(0.3 * len(used[0])) :] = 0
    found = [doubt.name for doubt in doubts.of_result(limited, Volume(part, mask.grid))]
    yield "0.3 of the brain along axis 0", "volume", found


def planted_headers(head: Volume) -> Iterator[tuple[str, str, list[str]]]:
    """Yield faults in the header of a head."""
    faults: dict[str, dict[str, Any]] = {
        "no orientation": {"sform_code": 0, "qform_code": 0},
        "sform of zeros": {"srow_x": 0, "srow_y": 0, "srow_z": 0},
        "sform shifted by 5 mm": {"srow_x": head.header["srow_x"] + [0, 0, 0, 5]},
        "spacing of the sform 1% more": {f"srow_{x}": head.header[f"srow_{x}"] * 1.01 for x in "xyz"},
        "quaternion of 3": {"quatern_b": 3},
        "units that are none": {"xyzt_units": 0x46},
        "sform code 9": {"sform_code": 9},
        "negative spacing": {"pixdim": head.header["pixdim"] * [1, -1, 1, 1, 1, 1, 1, 1]},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "head.nii"
        for fault, fields in faults.items():
            image = nibabel.Nifti1Image(head.data[:, :, :8].astype(np.int16), head.grid.affine)
            image.set_sform(head.grid.affine, 1)
            image.set_qform(head.grid.affine, 1)
            for name, value in fields.items():
                image.header[name] = value
            header = image.header.copy()
            header["vox_offset"], header["magic"] = 352, b"n+1"
            voxels = np.asarray(image.dataobj).tobytes("F")
            path.write_bytes(bytes(header.binaryblock) + bytes(4) + voxels)
            yield f"header: {fault}", "header", of_field(Volume.load(path))


def seconds(segmenter: Segmenter, head: Volume, rounds: int = 5) -> tuple[float, float]:
    """Median seconds of a prediction, and of its doubts."""
    whole, part = [], []
    for _ in range(rounds):
        start = perf_counter()
        labels = segmenter.predict(head).labels
        whole.append(perf_counter() - start)
        start = perf_counter()
        doubts.of_scan([head])
        doubts.of_result(segmenter.pipeline, labels)
        part.append(perf_counter() - start)
    return statistics.median(whole), statistics.median(part)


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brain", type=Path)
    parser.add_argument("--tumor", type=Path)
    parser.add_argument("--real", type=Path, default=Path(os.environ.get("LOWRES_SEG_REALDATA", "../shared/realdata")))
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "doubts.json")
    given = parser.parse_args()
    segmenter = Segmenter.load(given.brain)
    brain, other = named(segmenter.pipeline, "brain"), named(segmenter.pipeline, "other")
    raw = Segmenter(brain, segmenter._engines, threads=segmenter.threads)  # noqa: SLF001 - without its clean-up
    rows: dict[str, Row] = {}
    example: tuple[Volume, Volume] | None = None
    for name, head in heads(given.real):
        for how, runner in (("as it is", segmenter), ("without clean-up", raw)):
            result = runner.predict(head)
            row = figures(runner.pipeline, [head], result.labels, "brain")
            rows[f"{name}, {how}"] = row | {"doubts": [getattr(doubt, "name", str(doubt)) for doubt in result.doubts]}
            if example is None and name.startswith("rordenlab"):
                example = head, result.labels
    if given.tumor is not None:
        tumor = Segmenter.load(given.tumor, lean=True)
        for case in sorted((given.real / "tumor").iterdir()):
            files = {"flair": "t2f", "t1": "t1n", "t1c": "t1c", "t2": "t2w"}
            result = tumor.predict({channel: case / f"{file}.nii.gz" for channel, file in files.items()})
            row = figures(tumor.pipeline, [], result.labels)
            rows[f"{case.name}, nine networks"] = row | {"doubts": [doubt.name for doubt in result.doubts]}
    for file in sorted(given.real.rglob("*.nii.gz")):
        name = str(file.relative_to(given.real))
        if "mask" in file.name:
            rows[name] = drawn(brain, file, "brain")
        elif "seg" in file.name.lower() or "GOLD" in file.name or "metrics" in name:
            rows[name] = drawn(other, file, None)
        else:
            scan = Volume.load(file)
            rows[name] = {"doubts": [doubt.name for doubt in doubts.of_scan([scan])] + of_field(scan)}
    rows["MNI152NLin6Asym, its mask"] = drawn(brain, fetch().mask, "brain")
    assert example is not None
    faults = [
        {"fault": fault, "expected": expected, "doubts": found, "hit": expected in found}
        for fault, expected, found in planted(segmenter, *example)
    ]
    whole, part = seconds(segmenter, example[0])
    for name, row in rows.items():
        print(f"{name:60} {row}")
    for fault in faults:
        print(f"{fault['fault']:60} {fault['expected']:10} {'found' if fault['hit'] else 'MISSED'} {fault['doubts']}")
    alarms = [name for name, row in rows.items() if row["doubts"]]
    missed = [fault["fault"] for fault in faults if not fault["hit"] and not str(fault["fault"]).startswith("HEAD")]
    print(f"{len(rows)} real: {len(alarms)} false alarms; {len(faults)} faults: {len(missed)} missed")
    print(f"time: {100 * part / whole:.2f}% of a prediction ({1000 * part:.1f} ms of {whole:.2f} s)")
    bounds = {name: getattr(doubts, name) for name in ("CUT_OFF", "SCATTERED", "MANY", "PADDED", "FEW_PLANES")}
    content = {
        "bounds": bounds, "real": rows, "planted": faults,
        "false_alarms": alarms, "missed": missed, "share_of_a_prediction": round(part / whole, 5),
    }  # fmt: skip
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(alarms or missed))


if __name__ == "__main__":
    main()
