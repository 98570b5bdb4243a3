"""What each odd DICOM folder gives, and what dcm2niix makes of it. Prints a table in Markdown.

    python benchmarks/odd_dicom.py [FOLDER]

FOLDER keeps what is made; without it nothing is kept. It needs the extra ``dicom`` and the program dcm2niix.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom_folders import FOLDERS, path_of

from lowres_seg import Volume
from lowres_seg.dicom import chosen, found
from lowres_seg.errors import InputError

Image = tuple[np.ndarray, np.ndarray]


def ours(path: Path) -> tuple[Volume | None, str]:
    """The volume of a folder, and its doubts; or why there is none."""
    try:
        volume = chosen(found(path)).volume()
    except InputError as error:
        return None, f"refused: {str(error).removeprefix(f'{path}: ')}"
    return volume, "; ".join(["a volume", *volume.doubts])


def theirs(path: Path) -> tuple[list[Image], str]:
    """Images that dcm2niix makes of a folder, and what it says."""
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            ["dcm2niix", "-z", "n", "-b", "n", "-f", "%s_%d", "-o", out, str(path)],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        images = []
        for file in sorted(Path(out).glob("*.nii")):
            image = nib.load(file)
            images.append((np.array(image.dataobj), image.affine))
    shapes = ", ".join("×".join(map(str, data.shape)) for data, _ in images)
    warned = [line.removeprefix("Warning: ") for line in done.stdout.splitlines() if line.startswith("Warning: ")]
    warned = [line for line in warned if "manufacturer" not in line]
    files = f"{len(images)} {'file' if len(images) == 1 else 'files'}"
    said = f"; {warned[0][:90]}" if warned else ""
    return images, f"{files}{f' ({shapes})' if shapes else ''}{said}"


def agreement(volume: Volume, images: list[Image]) -> str:
    """Whether an image of dcm2niix has the same grid and voxels."""
    mine = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.grid.affine))
    for data, affine in images:
        if data.ndim != 3:
            continue
        other = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
        if other.shape == mine.shape and np.abs(other.affine - mine.affine).max() < 1e-3:
            # dcm2niix writes float32 where slices have slopes of their own
            same = np.allclose(mine.get_fdata(), other.get_fdata(), rtol=1e-6, atol=1e-3)
            return "same grid, same voxels" if same else "same grid, other voxels"
    return "another grid"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        print("| folder | this project | dcm2niix | both |\n|---|---|---|---|")
        for name, make in FOLDERS.items():
            folder = root / name.replace(" ", "_").replace(",", "")
            make(folder)
            volume, said = ours(path_of(name, folder))
            images, other = theirs(folder)
            both = agreement(volume, images) if volume is not None and images else "–"
            said, other = (text.replace("|", "/").replace(f"{folder}/", "") for text in (said, other))
            print(f"| {name} | {said} | {other} | {both} |")


if __name__ == "__main__":
    main()
