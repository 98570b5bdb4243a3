"""Runs the plans, keeps their suites under benchmarks/results/ and writes benchmarks/RESULTS.md from them.

    .venv-dev/bin/python benchmarks/suites.py [smoke peers file_to_mask precision core_scaling isa] [--only-write]

Without names, all plans: about an hour on 2 cores. The bundles are made first, into benchmarks/bundles/: deepbet from
its package, and BrainMaGe's network with seeded weights, as the published ones are in no package. Needs
lowres-seg[all], and for deepbet's INT8 and its cases the real heads (LOWRES_SEG_REALDATA, or ../shared/realdata beside
the checkout).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lowres_seg.bench import Suite
from lowres_seg.demo import fetch

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
BUNDLES, RESULTS = HERE / "bundles", HERE / "results"
HEADS = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata")) / "heads"
PLANS = ("smoke", "peers", "file_to_mask", "precision", "core_scaling", "isa")
#: Scans of plans whose cases have no labels.
SCANS = {"file_to_mask": ("--scan", f"mr={HEADS / 'rordenlab_T1_0.8mm.nii.gz'}")}
COMMAND = (sys.executable, "-m", "lowres_seg")


def main() -> None:
    """Make bundles, run plans, write the table of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=", ".join(PLANS))
    parser.add_argument("--only-write", action="store_true", help="write RESULTS.md from the suites that are there")
    arguments = parser.parse_args()
    unknown = set(arguments.plans) - set(PLANS)
    if unknown:
        parser.error(f"no plan {', '.join(unknown)}; there are {', '.join(PLANS)}")
    RESULTS.mkdir(exist_ok=True)
    if not arguments.only_write:
        BUNDLES.mkdir(exist_ok=True)
        deepbet()
        brainmage()
        for name in arguments.plans or PLANS:
            target = RESULTS / f"{name}.json"
            plan = ("--plan", HERE / "plans" / f"{name}.toml", *SCANS.get(name, ()))
            run("bench", *plan, "--no-pictures", "-o", target, "--force")
    (HERE / "RESULTS.md").write_text(page(), encoding="utf-8")


def run(*words: object) -> None:
    """A command of lowres-seg."""
    print("lowres-seg", *words, flush=True)
    subprocess.run([*COMMAND, *map(str, words)], check=True)


def quantize(name: str, tables: tuple[Path, Path], *options: object) -> None:
    """INT8 and bf16 of a bundle, if they are not there."""
    cases = ("--calibrate", tables[0], "--validate", tables[1], *options)
    for precision in ("int8", "bf16"):
        target = BUNDLES / f"{name}-{precision}"
        if not target.exists():
            run("quantize", BUNDLES / f"{name}-fp32", *cases, "--precision", precision, "-o", target, "-q")


def table(name: str, *lines: str) -> Path:
    """A table of cases."""
    path = BUNDLES / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def deepbet() -> None:
    """Calibrated on one head; judged, and timed, on two others with labels."""
    assets = fetch()
    if not (BUNDLES / "deepbet-fp32").exists():
        recipe = CHECKOUT / "export" / "deepbet" / "recipe.toml"
        run("export", recipe, "--weights", assets.weights, "-o", BUNDLES / "deepbet-fp32", "-q")
    stem = HEADS / "TCGA-FG-6692_t1"
    labelled = table(
        "heads.csv",
        "id,t1,label",
        f"template,{assets.head},{assets.mask}",
        f"TCGA-FG-6692,{stem}.nii.gz,{stem}_hdbet-mask.nii.gz",
    )
    calibrate = table("deepbet-calibrate.csv", "t1", f"{HEADS / 'rordenlab_T1_0.8mm.nii.gz'}")
    quantize("deepbet", (calibrate, labelled), "--max-drop", "0.001", "--max-hd95-rise", "0.085")


def brainmage() -> None:
    """The paper's network with seeded weights: its speed is that of the published ones, its masks mean nothing."""
    import torch

    if not (BUNDLES / "seeded.pt").exists():
        torch.manual_seed(0)
        torch.save({"model_state_dict": brainmage_network().state_dict()}, BUNDLES / "seeded.pt")
    if not (BUNDLES / "brainmage-fp32").exists():
        recipe = CHECKOUT / "export" / "brainmage" / "recipe.toml"
        target = BUNDLES / "brainmage-fp32"
        run("export", BUNDLES / "seeded.pt", "--recipe", recipe, "--onnx", "-o", target, "-q")
    calibrate = table("mr-calibrate.csv", "mr", f"{HEADS / 'rordenlab_T1_0.8mm.nii.gz'}")
    validate = table("mr-validate.csv", "mr", f"{fetch().head}")
    quantize("brainmage", (calibrate, validate), "--max-drop", "1", "--max-hd95-rise", "1000")


def brainmage_network() -> Any:
    """The torch module of BrainMaGe's recipe, its weights as torch seeds them."""
    path = CHECKOUT / "export" / "brainmage" / "network.py"
    spec = importlib.util.spec_from_file_location("brainmage_network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


def page() -> str:
    """Tables of every suite that is there."""
    suites = {name: Suite.read(RESULTS / f"{name}.json") for name in PLANS if (RESULTS / f"{name}.json").exists()}
    lines = [
        "# Results",
        "",
        "Written by `benchmarks/suites.py` from the suites under `benchmarks/results/`, which hold every value;",
        "`lowres-seg report benchmarks/results/NAME.json -o report.html` shows one. Seconds of different suites do not",
        "compare; ratios within one do.",
    ]
    for name, suite in suites.items():
        host = suite.host
        versions = ", ".join(f"{package} {version}" for package, version in host.versions.items())
        lines += ["", f"## {name}", "", f"{suite.began}, {host.cpu}, {host.cores} cores, {' '.join(host.features)};"]
        lines += [f"{versions}. {suite.passes} processes each, {suite.rounds} values from each.", ""]
        lines += ratios(suite)
        for doubt in suite.doubts:
            lines += ["", f"Doubt: {doubt}."]
    return "\n".join(lines) + "\n"


def ratios(suite: Suite) -> list[str]:
    """A row for each benchmark; ratios to torch where it was measured, else to the first, on as many cores."""
    lines = [
        "| benchmark | p50 | 95% interval | times as fast | cold start | ratio | peak RSS | ratio | of peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    measured = [b for b in suite.benchmarks if b.latency_s and b.cold_start_s and b.peak_rss_bytes]
    for b in measured:
        alike = [o for o in measured if (o.workload, o.cores) == (b.workload, b.cores)]
        base = next((o for o in alike if o.backend == "torch"), alike[0])
        assert b.latency_s
        assert base.latency_s
        assert b.cold_start_s
        assert base.cold_start_s
        assert b.peak_rss_bytes
        assert base.peak_rss_bytes
        low, high = b.latency_s.ci95
        share = "" if b.peak_share is None else f"{100 * b.peak_share:.0f}%"
        lines.append(
            f"| {b.title} | {1000 * b.latency_s.p50:.0f} ms | {1000 * low:.0f}–{1000 * high:.0f} "
            f"| {base.latency_s.p50 / b.latency_s.p50:.2f} | {b.cold_start_s:.2f} s "
            f"| {b.cold_start_s / base.cold_start_s:.2f} | {b.peak_rss_bytes / 2**20:.0f} MiB "
            f"| {b.peak_rss_bytes / base.peak_rss_bytes:.2f} | {share} |"
        )
    seen = set()
    for b in measured:
        if b.accuracy and (b.bundle, b.backend) not in seen:
            seen.add((b.bundle, b.backend))
            scores = ", ".join(f"{r.case} {r.region} Dice {r.dice:.5f}, HD95 {r.hd95_mm:.3f} mm" for r in b.accuracy)
            lines += ["", f"{b.bundle}: {scores} ({suite.hd95})."]
    lines += [f"\n{gap}." for gap in suite.gaps()]
    return lines


if __name__ == "__main__":
    main()
