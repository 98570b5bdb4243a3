"""nnU-Net's own CPU prediction against a bundle of the same network, stage by stage, in one run.

    .venv-dev/bin/python benchmarks/nnunet_side_by_side.py [--runs 2] [--work FOLDER]

The network is nnU-Net's default plan for four channels at 128³, 31 million parameters, with seeded weights: a results
folder made by nnunetv2's own trainer class. Timing does not depend on what weights say. Both sides go from four files
to a mask file in a process of their own, without mirroring; they take turns. Needs lowres-seg[all] and nnunetv2, and
the tumor scans (LOWRES_SEG_REALDATA, or ../shared/realdata beside the checkout). About ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
TUMOR = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata")) / "tumor"
CHANNELS = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}
MEASURED, CALIBRATED, JUDGED = "TCGA-FG-6692", "TCGA-DU-7294", "BraTS-GLI-00001-000"
COMMAND = (sys.executable, "-m", "lowres_seg")


def main() -> None:
    """Make what is missing, let both sides take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lowres-seg-nnunet")
    parser.add_argument("--child", nargs=2, type=Path, metavar=("FOLDER", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        theirs(*given.child)
        return
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    sides = {"nnU-Net 2 (torch)": None, "lowres-seg fp32": "fp32", "lowres-seg INT8": "int8"}
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    peaks: dict[str, list[int]] = {side: [] for side in sides}
    for _ in range(given.runs):
        for side, bundle in sides.items():
            stages, peak = one_run(work, bundle)
            taken[side].append(stages)
            peaks[side].append(peak)
            print(f"{side}: {stages['whole process']:.1f} s, {peak / 1e9:.2f} GB", flush=True)
    table(taken, peaks)
    agreement(work)


def prepare(work: Path) -> None:
    """The folder, its bundle, and the bundle in INT8."""
    folder = work / "nnunet"
    if not (folder / "plans.json").exists():
        sys.path.insert(0, str(CHECKOUT / "tests"))
        from nnunet_folders import make_folder

        make_folder(
            folder,
            channels=["T1", "T1c", "T2", "FLAIR"],
            patch_size=(128, 128, 128),
            spacing=(1.0, 1.0, 1.0),
            labels={"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
            regions_class_order=(1, 2, 3),
            use_mask_for_norm=[True] * 4,
            features=(32, 64, 128, 256, 320, 320),
            example=[TUMOR / CALIBRATED / f"{name}.nii.gz" for name in CHANNELS.values()],
        )
    if not (work / "fp32").exists():
        run("export", folder, "--no-mirror", "-o", work / "fp32", "-q")
    if not (work / "int8").exists():
        tables = [cases(work / f"{name}.csv", name) for name in (CALIBRATED, JUDGED)]
        limits = ("--max-drop", 0.1, "--max-hd95-rise", 10)  # of seeded weights: this is no test of accuracy
        run("quantize", work / "fp32", "--calibrate", tables[0], "--validate", tables[1], "-o", work / "int8", *limits)


def cases(path: Path, name: str) -> Path:
    """A table of one case, without its label: candidates are judged against fp32."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*CHANNELS, "id"])
        writer.writerow([*(TUMOR / name / f"{file}.nii.gz" for file in CHANNELS.values()), name])
    return path


def run(*words: object) -> None:
    """A command of lowres-seg."""
    print("lowres-seg", *words, flush=True)
    subprocess.run([*COMMAND, *map(str, words)], check=True)


def one_run(work: Path, bundle: str | None) -> tuple[dict[str, float], int]:
    """Seconds by stage, and the peak of memory, of one process."""
    out = work / f"{bundle or 'nnunet'}.nii.gz"
    if bundle is None:
        command = [sys.executable, __file__, "--child", str(work / "nnunet"), str(out)]
    else:
        scan = [f"{channel}={TUMOR / MEASURED / file}.nii.gz" for channel, file in CHANNELS.items()]
        bound = ["--max-ram", "2GB"] if bundle == "int8" else []
        command = [*COMMAND, "predict", str(work / bundle), *scan, "-o", str(out), "--force", "--json", *bound]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = max(
                peak, next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
            )
        time.sleep(0.02)
    whole = time.perf_counter() - start
    assert process.stdout is not None
    answer: Any = json.loads(process.stdout.read())
    if process.returncode:
        raise SystemExit(process.returncode)
    stages = answer if bundle is None else ours(answer)
    return {**stages, "start": whole - sum(stages.values()), "whole process": whole}, peak


def ours(answer: Any) -> dict[str, float]:
    """Steps of a bundle under the names of the table."""
    seconds = answer["cases"][0]["timings_s"]
    by = {"conform": "preprocess", "normalise": "preprocess", "network": "network", "load": "load", "save": "save"}
    found: dict[str, float] = dict.fromkeys(["load", "preprocess", "network", "to labels", "save"], 0.0)
    for step, value in seconds.items():
        found[by.get(step.rpartition(".")[2], "to labels")] += value
    return found


def theirs(folder: Path, out: Path) -> None:
    """nnU-Net's own predictor, its stages timed; prints them as JSON."""
    home = tempfile.mkdtemp()
    os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), home))
    seconds: dict[str, float] = {}

    def lap(name: str, start: float) -> float:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return time.perf_counter()

    with contextlib.redirect_stdout(io.StringIO()):
        import torch
        from nnunetv2.inference.export_prediction import export_prediction_from_logits
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
        plans, plan, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        start = time.perf_counter()
        files = [str(TUMOR / MEASURED / f"{name}.nii.gz") for name in CHANNELS.values()]
        reader = plans.image_reader_writer_class()
        images, about = reader.read_images(files)
        start = lap("load", start)
        preprocessor = plan.preprocessor_class(verbose=False)
        data, _, about = preprocessor.run_case_npy(images, None, about, plans, plan, dataset)
        start = lap("preprocess", start)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data)))
        start = lap("network", start)
        export_prediction_from_logits(logits, about, plan, plans, dataset, str(out).removesuffix(".nii.gz"))
        lap("to labels", start)
    print(json.dumps(seconds))


def table(taken: dict[str, list[dict[str, float]]], peaks: dict[str, list[int]]) -> None:
    """Medians, and ratios to nnU-Net's."""
    steps = ["start", "load", "preprocess", "network", "to labels", "save", "whole process"]
    print(f"\n{'':16}" + "".join(f"{side:>22}" for side in taken))
    middle = {
        side: {step: statistics.median(r.get(step, 0.0) for r in runs) for step in steps}
        for side, runs in taken.items()
    }
    first = next(iter(taken))
    for step in steps:
        cells = [
            f"{values[step]:8.2f} s  1/{middle[first][step] / values[step]:<7.2f}" if values[step] > 0 else "-"
            for values in middle.values()
        ]
        print(f"{step:16}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"{'peak RSS':16}" + "".join(f"{statistics.median(p) / 1e9:>19.2f} GB" for p in peaks.values()))


def agreement(work: Path) -> None:
    """How far the masks agree."""
    import nibabel

    masks = {name: np.asarray(nibabel.load(work / f"{name}.nii.gz").dataobj) for name in ("nnunet", "fp32", "int8")}
    for name in ("fp32", "int8"):
        print(f"{name} against nnU-Net: {np.mean(masks[name] == masks['nnunet']):.6f} of voxels equal")
    print("labels:", {int(v): int(n) for v, n in zip(*np.unique(masks["nnunet"], return_counts=True), strict=True)})


if __name__ == "__main__":
    main()
