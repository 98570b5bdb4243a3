"""MSNet's cascade on a tumor: Dice of WT, TC and ET in fp32 and INT8, and whole cases against torch.

    .venv-dev/bin/python benchmarks/msnet.py [--work FOLDER]

Exports the nine networks with their norms re-estimated on two cases without labels, quantizes them within 0.005 Dice
of every region on a third, and measures that third from files to mask file: torch, OpenVINO in fp32, and INT8, in
processes that take turns. The reference masks were drawn by other networks: good for a change between precisions, no
ground truth. Needs lowres-seg[all], MSNet's weights and the tumor scans (LOWRES_SEG_REALDATA, or ../shared/realdata
beside the checkout). About half an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lowres_seg.bench import Suite

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
DATA = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata"))
CHANNELS = {"flair": "t2f", "t1": "t1n", "t1c": "t1c", "t2": "t2w"}
UNLABELLED, LABELLED = ("TCGA-FG-6692", "TCGA-DU-7294"), ("BraTS-GLI-00001-000",)
RECIPE = CHECKOUT / "export" / "msnet" / "recipe.toml"
PLAN = """
backends = ["openvino", "torch"]
what = ["end-to-end"]
cases = "labelled.csv"
passes = 1
rounds = {rounds}
warm_up = 0
pictures = false

[[bundles]]
path = "fp32"
recipe = "{recipe}"
weights = "{weights}"

[[bundles]]
path = "int8"
"""
COMMAND = (sys.executable, "-m", "lowres_seg")


def main() -> None:
    """Export, quantize, measure; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lowres-seg-msnet")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    weights = DATA / "networks" / "msnet"
    unlabelled, labelled = (
        table(work / "unlabelled.csv", UNLABELLED),
        table(work / "labelled.csv", LABELLED, label=True),
    )
    if not (work / "fp32").exists():
        run("export", RECIPE, "--weights", weights, "--reestimate-norm", unlabelled, "-o", work / "fp32")
    if not (work / "int8").exists():
        tables = ("--calibrate", unlabelled, "--validate", labelled)
        run("quantize", work / "fp32", *tables, "--max-drop", 0.005, "-o", work / "int8", "--resume")
    accuracy(work / "int8")
    plan = work / "plan.toml"
    plan.write_text(PLAN.format(recipe=RECIPE, weights=weights, rounds=given.rounds), encoding="utf-8")
    run("bench", "--plan", plan, "-o", work / "suite.json", "--force")
    speed(work / "suite.json")


def table(path: Path, cases: tuple[str, ...], *, label: bool = False) -> Path:
    """A table of cases."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*CHANNELS, *(["label"] if label else []), "id"])
        for case in cases:
            folder = DATA / "tumor" / case
            files = [*CHANNELS.values(), *(["seg-silver"] if label else [])]
            writer.writerow([*(folder / f"{name}.nii.gz" for name in files), case])
    return path


def run(*words: object) -> None:
    """A command of lowres-seg."""
    print("lowres-seg", *words, flush=True)
    subprocess.run([*COMMAND, *map(str, words)], check=True)


def accuracy(bundle: Path) -> None:
    """What the gate of `quantize` found."""
    print((bundle / "reports" / "quantize.txt").read_text(encoding="utf-8"))
    report = json.loads((bundle / "reports" / "quantize.json").read_text(encoding="utf-8"))
    print("attempts:", [len(attempt["reverted"]) for attempt in report["attempts"]], "layers reverted")


def speed(path: Path) -> None:
    """Whole cases, and each stage's networks, against torch."""
    suite = Suite.model_validate_json(path.read_text(encoding="utf-8"))
    rows = {f"{b.bundle} {b.backend}": b for b in suite.benchmarks if b.latency_s is not None}
    base = next(b for name, b in rows.items() if name.endswith(" torch"))
    assert base.latency_s is not None
    print(f"\n{'':22}{'whole case':>12}{'of torch':>10}{'peak RSS':>11}  networks by stage")
    for name, b in rows.items():
        assert b.latency_s is not None
        stages = {step: seconds for step, seconds in b.stages_s.items() if step.endswith(".network")}
        parts = ", ".join(f"{step.partition('.')[0]} {seconds:.2f} s" for step, seconds in stages.items())
        ratio = base.latency_s.p50 / b.latency_s.p50
        print(f"{name:22}{b.latency_s.p50:>10.2f} s     1/{ratio:<5.2f}{b.peak_rss_bytes / 1e9:>8.2f} GB  {parts}")
        for row in b.accuracy:
            print(f"{'':22}{row.case} {row.region}: Dice {row.dice:.4f}, HD95 {row.hd95_mm:.2f} mm")


if __name__ == "__main__":
    main()
