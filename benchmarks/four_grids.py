"""A study of four DICOM series on four grids, against the aligned channels that it was made of.

    .venv-dev/bin/python benchmarks/four_grids.py [BUNDLE] [--case FOLDER] [--threads N]

Each channel of an aligned tumor case is resampled by ITK (B-splines) to a grid of its own, as a scanner would plan it,
and written as a DICOM series. The bundle segments the aligned case, the study by its geometry, and the same four
volumes that ITK has brought back to the first grid (linear). The agreement of the last with the first is what
resampling costs. Needs lowres-seg[dicom], SimpleITK, and the tumor scans (LOWRES_SEG_REALDATA, or ../shared/realdata
beside the checkout).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import dicom_folders as made
import numpy as np
import SimpleITK as sitk

from lowres_seg import Segmenter, Volume
from lowres_seg.dicom import chosen, found
from lowres_seg.runtime.alignment import aligned

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata"))
#: Of each channel: its file, its spacing in mm, the axes of its slices, and by how many degrees it is turned.
PLANS = {
    "flair": ("t2f", (1.0, 1.0, 1.0), (0, 1, 2), 0.0),
    "t1": ("t1n", (0.9, 0.9, 1.0), (1, 2, 0), 7.0),
    "t1c": ("t1c", (0.8, 0.8, 1.2), (0, 1, 2), -4.0),
    "t2": ("t2w", (0.9, 0.9, 1.5), (0, 2, 1), 3.0),
}


def planned(image: sitk.Image, spacing: tuple[float, ...], axes: tuple[int, ...], degrees: float) -> sitk.Image:
    """An image on another grid around the same centre."""
    if degrees == 0:
        return image
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.radians([degrees, degrees / 2, -degrees]))
    old = np.array(image.GetDirection()).reshape(3, 3)
    direction = np.array(turn.GetMatrix()).reshape(3, 3) @ old[:, axes]
    direction[:, 2] *= np.sign(np.linalg.det(direction))  # DICOM knows no left-handed axes
    extent = np.array(image.GetSize())[list(axes)] * np.array(image.GetSpacing())[list(axes)]
    size = np.ceil(1.1 * extent / spacing).astype(int)
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    origin = np.array(centre) - direction @ ((size - 1) / 2 * spacing)
    return sitk.Resample(
        image,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkBSpline,
        origin.tolist(),
        spacing,
        direction.ravel().tolist(),
        0.0,
    )


def affine(image: sitk.Image) -> np.ndarray:
    """Affine in RAS+."""
    result = np.eye(4)
    result[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    result[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ result


def volume(image: sitk.Image) -> Volume:
    """An image of ITK as a volume."""
    return Volume.from_array(np.ascontiguousarray(sitk.GetArrayFromImage(image).T, np.float32), affine(image))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


def main() -> None:
    """Print the agreement of each label."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="without it only the channels are compared")
    parser.add_argument("--case", type=Path, default=DATA / "tumor" / "BraTS-GLI-00001-000")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    files = {name: next(options.case.glob(f"*{plan[0]}.nii.gz")) for name, plan in PLANS.items()}
    original = {name: sitk.ReadImage(str(file), sitk.sitkFloat32) for name, file in files.items()}
    study = {name: planned(original[name], *plan[1:]) for name, plan in PLANS.items()}
    first = original["flair"]
    back = {name: sitk.Resample(image, first, sitk.Transform(), sitk.sitkLinear, 0.0) for name, image in study.items()}
    for name, image in study.items():
        spacing = "×".join(f"{value:g}" for value in image.GetSpacing())
        print(f"{name}: {'×'.join(map(str, image.GetSize()))} voxels of {spacing} mm")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, image) in enumerate(study.items(), start=1):
            data = sitk.GetArrayFromImage(image).T
            made.write(Path(folder), made.slices_of(data, affine(image), number=number, description=name))
        series = found(Path(folder))
        scan = aligned({name: chosen(series, name).volume() for name in PLANS})
    for name, one in scan.items():
        apart = np.abs(one.data - volume(back[name]).data)
        print(
            f"{name}: differs from ITK's linear resampling by at most {apart.max() / one.data.max():.1e} of its range"
        )
    if options.bundle is None:
        return
    segmenter = Segmenter.load(options.bundle, threads=options.threads, lean=True)
    inputs = {
        "aligned": {name: volume(image) for name, image in original.items()},
        "four grids": scan,
        "by ITK": {name: volume(image) for name, image in back.items()},
    }
    masks = {name: segmenter.predict(given).labels.data for name, given in inputs.items()}
    print("\n| label | Dice with the aligned case | the same, resampled by ITK | Dice of the two |\n|---|---|---|---|")
    values = {label: segmenter.pipeline.label_names[label] for label in segmenter.pipeline.label_names}
    for name, chosen_values in [("any label", list(values)), *((name, [label]) for label, name in values.items())]:
        a, ours, theirs = (np.isin(masks[key], chosen_values) for key in ("aligned", "four grids", "by ITK"))
        print(f"| {name} | {dice(a, ours):.4f} | {dice(a, theirs):.4f} | {dice(ours, theirs):.4f} |")


if __name__ == "__main__":
    main()
