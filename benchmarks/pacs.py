"""A scanner's series by way of a PACS: the mask that comes back, against the mask of dcm2niix's NIfTI.

    .venv-dev/bin/python benchmarks/pacs.py SERIES BUNDLE

SERIES is a folder of one DICOM series, BUNDLE a bundle of one channel whose labels have codes. Needs the extras
`dicom`, `oracle` and `sign`, and Debian's orthanc, orthanc-dicomweb, dcm2niix and dicom3tools.

- dcm2niix converts the series, and `predict` segments the NIfTI;
- an Orthanc starts on the loopback, with TLS and a user, and gets the series;
- `predict` takes it by its address, writes a DICOM segmentation and stores it there;
- what the server has is read by dcmqi and by highdicom, and counted against the mask of the NIfTI;
- dciodvfy lists the errors of the segmentation that its source does not have.

Exit code 1 where less than 0.9999 of the voxels agree, or dciodvfy finds such an error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT / "tests"))
from orthanc import PASSWORD, USER, running  # noqa: E402 - of the tests

DCIODVFY = shutil.which("dciodvfy") or sys.exit("apt-get install dicom3tools")
#: Least share of voxels that agree.
LEAST = 0.9999


def run(*words: object, **environment: str) -> str:
    """Run a program; what it says on standard output and standard error."""
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
    return done.stdout + done.stderr


def predict(*words: object, **environment: str) -> float:
    """Seconds of `predict` in a process of its own."""
    start = time.perf_counter()
    run(sys.executable, "-m", "lowres_seg", "predict", *words, "--no-cache", "--quiet", **environment)
    return time.perf_counter() - start


def errors_of(path: Path) -> set[str]:
    """Errors that dciodvfy finds."""
    done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def by_dcmqi(path: Path, folder: Path) -> sitk.Image:
    """Numbers of segments, by dcmqi."""
    folder.mkdir()
    tool = Path(sysconfig.get_path("scripts")) / "segimage2itkimage"
    run(tool, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nii", "--mergeSegments")
    return sitk.ReadImage(next(folder.glob("*.nii.gz")))


def by_highdicom(path: Path) -> sitk.Image:
    """Numbers of segments, by highdicom."""
    found = highdicom.seg.segread(path).get_volume(combine_segments=True)
    image = sitk.GetImageFromArray(found.array)
    columns = found.affine[:3, [2, 1, 0]]  # its arrays are (slice, row, column)
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(found.affine[:3, 3].tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    return image


def agreeing(mask: sitk.Image, other: sitk.Image) -> float:
    """Share of the voxels of a mask that another one has too, at the nearest of its own."""
    placed = sitk.Resample(other, mask, sitk.Transform(), sitk.sitkNearestNeighbor)
    return float((sitk.GetArrayFromImage(placed) == sitk.GetArrayFromImage(mask)).mean())


def main() -> None:
    """Run all, and print what agrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    files = sorted(path for path in options.series.iterdir() if pydicom.misc.is_dicom(path))
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        run("dcm2niix", "-z", "y", "-f", "head", "-o", folder, options.series)
        nifti = predict(options.bundle, folder / "head.nii.gz", "-o", folder / "mask.nii.gz")
        with running(folder / "server") as server:
            server.upload(files)
            address = f"{server.service}/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
            user = {"LOWRES_SEG_DICOMWEB_USER": USER, "LOWRES_SEG_DICOMWEB_PASSWORD": PASSWORD}
            words = [options.bundle, address, "-o", folder / "seg.dcm", "--store"]
            pacs = predict(*words, REQUESTS_CA_BUNDLE=str(server.authority), **user)
            (stored,) = server.files_of("SEG")
        back = folder / "back.dcm"
        back.write_bytes(stored)
        mask = sitk.ReadImage(str(folder / "mask.nii.gz"))
        shares = {
            "dcmqi": agreeing(mask, by_dcmqi(back, folder / "dcmqi")),
            "highdicom": agreeing(mask, by_highdicom(back)),
        }
        marked = int(np.count_nonzero(sitk.GetArrayFromImage(mask)))
        own = errors_of(back) - errors_of(files[0])
        print(f"{len(files)} files, {'×'.join(map(str, mask.GetSize()))} voxels, {marked} in the mask of the NIfTI")
        for reader, share in shares.items():
            print(f"read back by {reader}: {share:.6f} of the voxels agree")
        print(f"segmentation: {back.stat().st_size / 2**20:.1f} MiB")
        print(f"errors that dciodvfy finds in it and not in its source: {len(own)}")
        print(f"time by way of the PACS, of that with the NIfTI: {pacs / nifti:.2f}")
        for error in sorted(own):
            print(error)
    sys.exit(int(bool(own) or not marked or min(shares.values()) < LEAST))


if __name__ == "__main__":
    main()
