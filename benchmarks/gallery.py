"""The networks of the papers, measured: bundles, suites and docs/gallery.md.

    .venv-dev/bin/python benchmarks/gallery.py bundles S01 S08    # makes bundles, and trains what is not trained yet
    .venv-dev/bin/python benchmarks/gallery.py measure S01 S08    # runs their plans, and judges INT8 on unseen heads
    .venv-dev/bin/python benchmarks/gallery.py page               # writes docs/gallery.md, and the model cards' figures

A system has bundles of two widths under benchmarks/bundles/gallery/. At the paper's width weights are seeded: these
bundles have the paper's speed, and their masks mean nothing. At the width that `train_gallery.py` trains, masks and
probabilities are judged, on heads that neither training nor quantization saw. Results go to
benchmarks/results/gallery/. Needs lowres-seg[all].
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import gallery_page
import heads
import numpy as np
import torch
import train_gallery
from gallery_tasks import UNSEEN_SEED, Shape, System, Training
from train_gallery import SAME_GRAPH, SYSTEMS

from lowres_seg import Bundle, host
from lowres_seg.bench import Suite
from lowres_seg.bundle.manifest import EXPORT_REPORT
from lowres_seg.bundle.reports import QUANTIZE_REPORT
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, macs, read_graph

HERE = Path(__file__).parent
BUNDLES, RESULTS, PLANS = HERE / "bundles" / "gallery", HERE / "results" / "gallery", HERE / "plans" / "gallery"
COMMAND = (sys.executable, "-m", "lowres_seg")
CUBE = (128, 128, 128)
#: Window at the paper's width, and the voxels of a head to the right, to the front and up that fill it.
FULL: dict[str, tuple[Shape, Shape]] = {
    "S04": (CUBE, CUBE),
    "S07": ((160, 192, 108), (160, 192, 108)),
    "S10": (CUBE, CUBE),
    "S16": ((1, 197, 233), (197, 233, 24)),
    "S19": ((1, 256, 256), (256, 256, 24)),
    "S21b": ((96, 112, 96), (96, 112, 96)),
    "S21c": ((96, 112, 96), (96, 112, 96)),
}
#: First seeds of the heads that INT8 is calibrated on, that the gate judges on, and that nobody saw before; and how
#: many of them a system has that draws masks, and one that classifies.
CALIBRATE, GATE, JUDGE = (UNSEEN_SEED + 1000 * number for number in (1, 2, 3))
MASKS, CLASSES = {CALIBRATE: 4, GATE: 6, JUDGE: 6}, {CALIBRATE: 8, GATE: 16, JUDGE: 24}
#: Nothing is judged at the paper's width, where weights are seeded.
OPEN = ("--max-drop", "1", "--max-hd95-rise", "100000")
OPEN_CLASSES = ("--max-probability-change", "1", "--max-flipped-decisions", "1000")
RUNS = 5
#: Exit code of `quantize` whose gate gave no bundle.
EXIT_GATE = 3


def main() -> None:
    """Make bundles, measure them, or write the page."""
    parser = argparse.ArgumentParser(description="The networks of the papers, measured.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("bundles", "make the bundles of systems"), ("measure", "run the plans of systems")):
        command = commands.add_parser(name, help=what)
        command.add_argument("names", nargs="*", metavar="SYSTEM", help="such as S01; by default all")
    page = commands.add_parser("page", help="write docs/gallery.md and the figures of model cards")
    page.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    args = parser.parse_args()
    if args.command == "page":
        sys.exit(gallery_page.write(RESULTS, HERE.parent / "docs" / "gallery.md", SAME_GRAPH, check=args.check))
    known = [*SYSTEMS, *(["acs"] if args.command == "measure" else [])]
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no system {unknown[0]}; there are {', '.join(known)}")
    for name in args.names or known:
        if args.command == "bundles":
            full_width(name)
            trained_width(name)
        else:
            measure(name)


def full_width(name: str) -> None:
    """Bundles at the paper's width: fp32, bf16 and INT8."""
    window, head = FULL.get(name, (CUBE, CUBE))
    training = replace(SYSTEMS[name], width=1.0, window=window, head=head)
    system, folder = System(name, training), BUNDLES / name
    if not folder.exists():
        folder.mkdir(parents=True)
        counts = []
        for network, source in system.recipe.networks.items():
            torch.manual_seed(0)
            module = system.build(network)
            counts.append(sum(value.numel() for value in module.parameters()))
            torch.save(module.state_dict(), folder / source.file)
        train_gallery.narrowed(name, training, folder / "recipes")
        (folder / "parameters.json").write_text(json.dumps(counts))
    bundle = exported(name, folder, f"{name}-fp32")
    tables = [written(system, training, folder / word, first, 1) for word, first in (("one", CALIBRATE), ("two", GATE))]
    limits = OPEN_CLASSES if training.task == "grades" else OPEN
    for precision in ("bf16", "int8"):
        quantized(bundle, BUNDLES / f"{name}-{precision}", tables, *limits, "--precision", precision)


def trained_width(name: str) -> None:
    """Bundles of trained weights: fp32, and INT8 if the gate of `quantize` gives one."""
    training = SYSTEMS[name]
    weights, system = train_gallery.trained(name, training), System(name, training)
    folder = BUNDLES / f"{name}-trained"
    recorded = (weights / train_gallery.RECORD).read_text("utf-8")
    if not (folder / train_gallery.RECORD).exists() or (folder / train_gallery.RECORD).read_text("utf-8") != recorded:
        for made in (folder, BUNDLES / f"{name}-trained-fp32", BUNDLES / f"{name}-trained-int8"):
            shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(weights, folder)
    bundle = exported(name, folder, f"{name}-trained-fp32")
    many = CLASSES if training.task == "grades" else MASKS
    words = {"calibrate": CALIBRATE, "gate": GATE, "judge": JUDGE}
    tables = [written(system, training, folder / word, first, many[first]) for word, first in words.items()]
    quantized(bundle, BUNDLES / f"{name}-trained-int8", tables[:2])


def exported(name: str, folder: Path, target: str) -> Path:
    """Bundle of the weights and recipes of a folder."""
    if not (BUNDLES / target).exists():
        recipe = System(name, SYSTEMS[name]).source.home.name
        run("export", folder / "recipes" / recipe / "recipe.toml", "--weights", folder, "-o", BUNDLES / target, "-q")
    return BUNDLES / target


def written(system: System, training: Training, folder: Path, first: int, many: int) -> Path:
    """Table of the heads of some seeds, on the voxels of the system's stage."""
    spacing = system.stage.conform.spacing_mm
    assert spacing is not None
    if not (folder / "cases.csv").exists():
        heads.write(folder, training.task, range(first, first + many), training.head, spacing[0])
    return folder / "cases.csv"


def quantized(bundle: Path, target: Path, tables: list[Path], *options: str) -> None:
    """Bundle from the gate, or a file beside it with the reason why there is none."""
    refused = target.with_suffix(".txt")
    if target.exists() or refused.exists():
        return
    words = ("quantize", bundle, "--calibrate", tables[0], "--validate", tables[1], "-o", target, "-q", *options)
    error = run(*words, must=False)
    if error:
        refused.write_text(error + "\n", encoding="utf-8")


def measure(name: str) -> None:
    """Suites of both widths, and what no suite has: counts, parity, the gate, and where the time goes."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    run("bench", "--plan", PLANS / f"{name}.toml", "-o", RESULTS / f"{name}.json", "--force", "-q")
    if name == "acs":
        return
    trained = [BUNDLES / f"{name}-trained-{precision}" for precision in ("fp32", "int8")]
    judged = BUNDLES / f"{name}-trained" / "judge" / "cases.csv"
    once = ("--what", "network", "--passes", "1", "--rounds", "1", "--no-pictures")
    run("bench", *(b for b in trained if b.exists()), "--cases", judged, *once, "-o", RESULTS / f"{name}-trained.json",
        "--force", "-q")  # fmt: skip
    facts = RESULTS / f"{name}-facts.json"
    facts.write_text(json.dumps(facts_of(name), indent=1) + "\n", encoding="utf-8")
    torch_s, int8_s = (seconds(name, backend, word) for backend, word in (("torch", "fp32"), ("openvino", "int8")))
    print(f"{name}: INT8 is {torch_s / int8_s:.1f} times as fast as torch", flush=True)


def seconds(name: str, backend: str, precision: str) -> float:
    """Median of one benchmark of a system's suite."""
    (found,) = (
        one.latency_s
        for one in Suite.read(RESULTS / f"{name}.json").benchmarks
        if (one.backend, one.bundle) == (backend, f"{name}-{precision}")
    )
    assert found is not None
    return found.p50


def facts_of(name: str) -> dict[str, Any]:
    """What no suite has."""
    trained, refused = BUNDLES / f"{name}-trained-int8", BUNDLES / f"{name}-trained-int8.txt"
    gate = {"refused": refused.read_text("utf-8").strip()} if refused.exists() else gate_of(trained)
    return {
        "system": name,
        "window": list(FULL.get(name, (CUBE, CUBE))[0]),
        "parameters": json.loads((BUNDLES / name / "parameters.json").read_text()),
        "training": json.loads((BUNDLES / f"{name}-trained" / train_gallery.RECORD).read_text("utf-8")),
        "parity": {
            width: json.loads((BUNDLES / f"{name}{width}-fp32" / EXPORT_REPORT).read_text("utf-8"))["parity"]
            for width in ("", "-trained")
        },
        "gate": gate,
        "int8": time_of(BUNDLES / f"{name}-int8"),
        "fp32": time_of(BUNDLES / f"{name}-fp32"),
    }


def gate_of(bundle: Path) -> dict[str, Any]:
    """What the gate said, and how many layers keep fp32."""
    report = json.loads((bundle / QUANTIZE_REPORT).read_text("utf-8"))
    precisions = [layer["precision"] for layer in report["layers"]]
    return {
        "result": {key: value for key, value in report["result"].items() if key != "cases"},
        "attempts": len(report["attempts"]),
        "layers": {word: precisions.count(word) for word in sorted(set(precisions))},
    }


def time_of(path: Path) -> dict[str, Any]:
    """Where the time of a bundle's networks goes, by OpenVINO's counters: medians of some runs on seeded noise."""
    bundle = Bundle.open(path)
    kinds: dict[str, float] = defaultdict(float)
    work = 0
    for network, files in bundle.network_files().items():
        shape = bundle.manifest.networks[network].input_shape
        model = read_graph(files)
        work += macs(model)
        engine = OpenVinoEngine.of_model(model, threads=host.inspect().threads, counters=True)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        runs = []
        for _ in range(RUNS):
            engine.run(x)
            runs.append(engine.counters())
        for at, (kind, kernel, _) in enumerate(runs[0]):
            kinds[f"{kind} {kernel.rpartition('_')[2].lower()}"] += median(run[at][2] for run in runs)
    total = sum(kinds.values())
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    return {"macs": work, "ms": round(total, 1), "shares": {kind: round(ms / total, 4) for kind, ms in ordered}}


def run(*words: object, must: bool = True) -> str:
    """Run a command of lowres-seg, and give its last line if it failed and may."""
    print("lowres-seg", *words, flush=True)
    done = subprocess.run([*COMMAND, *map(str, words)], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    print(done.stderr, flush=True)
    if must or done.returncode != EXIT_GATE:
        sys.exit(done.returncode)
    return done.stderr.strip().rpartition("\n")[2]


if __name__ == "__main__":
    main()
