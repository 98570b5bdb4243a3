"""`lowres-seg quantize` on real heads, with the limits that the two networks must keep.

    .venv-dev/bin/python benchmarks/int8_heads.py deepbet|mindgrab [--keep FOLDER]

deepbet: calibrated on one head, judged on two others against labels, within the paper's 0.001 of Dice and 0.085 mm
of HD95. MindGrab: calibrated on a T1Gd within 12 GB, judged on a FLAIR, a T2 and a T1 against its own fp32 masks,
each within 0.002 of Dice. Needs lowres-seg[all] and the real heads (LOWRES_SEG_REALDATA, or ../shared/realdata
beside the checkout); MindGrab takes about twenty minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lowres_seg.demo import fetch

CHECKOUT = Path(__file__).parents[1]
REALDATA = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata"))
HEADS = REALDATA / "heads"


def main() -> None:
    """Export, quantize, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["deepbet", "mindgrab"])
    parser.add_argument("--keep", type=Path, help="folder to leave the bundles in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(exist_ok=True)
        (deepbet if arguments.network == "deepbet" else mindgrab)(folder)


def deepbet(folder: Path) -> None:
    """One head to calibrate on, two to judge on."""
    assets = fetch()
    tables(
        folder,
        ["t1", HEADS / "rordenlab_T1_0.8mm.nii.gz"],
        ["t1,label", f"{assets.head},{assets.mask}", *labelled("t1")],
    )
    run(folder, "deepbet", assets.weights, "--max-drop", "0.001", "--max-hd95-rise", "0.085")


def mindgrab(folder: Path) -> None:
    """A contrast to calibrate on, three others to judge on."""
    others = [HEADS / f"TCGA-FG-6692_{contrast}.nii.gz" for contrast in ("flair", "t2", "t1")]
    tables(folder, ["mr", HEADS / "TCGA-FG-6692_t1c.nii.gz"], ["mr", *others])
    limits = ["--max-drop", "0.002", "--worst-case-drop", "0.002", "--max-ram", "12GB"]
    run(folder, "mindgrab", REALDATA / "networks" / "mindgrab", *limits)


def labelled(contrast: str) -> list[str]:
    """Row of the TCGA head and its mask."""
    stem = HEADS / f"TCGA-FG-6692_{contrast}"
    return [f"{stem}.nii.gz,{stem}_hdbet-mask.nii.gz"]


def tables(folder: Path, calibrate: list[object], validate: list[object]) -> None:
    """Write both tables of cases."""
    for name, lines in (("calibrate", calibrate), ("validate", validate)):
        (folder / f"{name}.csv").write_text("\n".join(map(str, lines)) + "\n")


def run(folder: Path, name: str, weights: Path, *limits: str) -> None:
    """Both commands, and what they found."""
    fp32, int8 = folder / f"{name}-fp32", folder / f"{name}-int8"
    lowres_seg = [sys.executable, "-m", "lowres_seg"]
    if not fp32.exists():
        recipe = CHECKOUT / "export" / name / "recipe.toml"
        subprocess.run([*lowres_seg, "export", recipe, "--weights", weights, "-o", fp32, "-q"], check=True)
    cases = ["--calibrate", folder / "calibrate.csv", "--validate", folder / "validate.csv"]
    subprocess.run([*lowres_seg, "quantize", fp32, *cases, *limits, "-o", int8, "--force"], check=True)
    report = json.loads((int8 / "reports" / "quantize.json").read_text())
    volatile = json.loads((int8 / "reports" / "run.json").read_text())
    kept = [layer["layer"] for layer in report["layers"] if layer["precision"] == "fp32" and layer["type"] != "norm"]
    print(f"attempts {len(report['attempts'])}, layers reverted {len(kept)}: {', '.join(kept) or 'none'}")
    print(f"{volatile['seconds']:.0f} s, peak RSS {volatile['peak_rss_bytes'] / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
