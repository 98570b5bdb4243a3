"""`lowres-seg predict` against deepbet's own package: one scan, whole processes, interleaved.

    .venv-dev/bin/python benchmarks/deepbet_side_by_side.py [--runs 7] [--head SCAN.nii.gz]

Both segment the same head from the same weights on the CPU, each in a process of its own: start, load, segment,
save. They take turns, so that drift of the machine falls on both; the ratios are of the medians. The first run of a
bundle compiles its networks, and keeps them; the second finds them compiled. Needs
lowres-seg[all,oracle] (deepbet imports pandas and tqdm); weights and head come as in the demo.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median

from lowres_seg import Volume
from lowres_seg.demo import fetch
from lowres_seg.metrics.agreement import dice

RECIPE = Path(__file__).parents[1] / "export" / "deepbet" / "recipe.toml"
DEEPBET = "import sys; from deepbet import run_bet; run_bet([sys.argv[1]], mask_paths=[sys.argv[2]], no_gpu=True)"


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """Seconds and peak RSS in MiB of a command; this process is small, so it does not hide in the child's peak."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--head", type=Path, help="scan to segment (default: the demo's template)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        prepare(arguments.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: torch in this one would count as the peak of every child.
        subprocess.run([sys.executable, __file__, "--child", name], check=True)
        compare(folder, arguments.head or fetch().head, arguments.runs)


def prepare(folder: Path) -> None:
    """Write both bundles, and unpack deepbet."""
    from lowres_seg.cohort.cases import Case
    from lowres_seg.export import export
    from lowres_seg.quantize import quantize

    assets = fetch()
    export(RECIPE, folder / "fp32", weights=assets.weights)
    quantize(folder / "fp32", folder / "int8", [Case("template", {"t1": assets.head})], None)
    with zipfile.ZipFile(assets.deepbet_wheel) as wheel:
        wheel.extractall(folder / "deepbet")


def compare(folder: Path, head: Path, runs: int) -> None:
    """Take turns, then print medians and ratios."""
    names = ("deepbet", "fp32, first", "fp32, second", "int8, first", "int8, second")
    masks = {name: folder / f"{name.replace(', ', '-')}.nii.gz" for name in names}
    commands = {"deepbet": [sys.executable, "-c", DEEPBET, str(head), str(masks["deepbet"])]}
    for name in names[1:]:
        words = ["predict", str(folder / name.partition(",")[0]), str(head), "-o", str(masks[name]), "--force"]
        commands[name] = [sys.executable, "-m", "lowres_seg", *words]
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for name, command in commands.items():
            value = measure(command, PYTHONPATH=str(folder / "deepbet"), LOWRES_SEG_CACHE=str(folder / "cache"))
            if turn:  # the first is a warm-up of the disk cache
                values[name].append(value)
    found = {name: Volume.load(mask).data > 0 for name, mask in masks.items()}
    base_s, base_mib = (median(column) for column in zip(*values["deepbet"], strict=True))
    print(f"{head.name}, {runs} runs each, interleaved")
    print(f"{'':14}{'wall s':>10}{'(min-max)':>16}{'ratio':>8}{'RSS MiB':>10}{'ratio':>8}{'Dice with deepbet':>20}")
    for name, runs_of in values.items():
        seconds, mib = zip(*runs_of, strict=True)
        spread = f"({min(seconds):.2f}-{max(seconds):.2f})"
        print(
            f"{name:14}{median(seconds):10.2f}{spread:>16}{median(seconds) / base_s:8.3f}"
            f"{median(mib):10.0f}{median(mib) / base_mib:8.3f}{dice(found[name], found['deepbet']):20.6f}"
        )


if __name__ == "__main__":
    main()
