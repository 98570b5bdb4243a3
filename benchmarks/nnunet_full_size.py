"""Time and peak memory of `export` and `verify` on full-size nnU-Net folders of plans that other groups published.

    .venv-dev/bin/python benchmarks/nnunet_full_size.py [NAME:CONFIGURATION ...] [--work FOLDER]

The network is the one that nnU-Net builds from the plans, at full width and patch, with seeded weights, the momenta of
its optimizer and mirroring along all axes, as a trainer saves them. Each command is a process of its own; its peak of
memory is what the system says of it when it ends. Needs lowres-seg[all], nnunetv2, and the plans (LOWRES_SEG_REALDATA,
or ../shared/realdata beside the checkout). About ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLANS = Path(os.environ.get("LOWRES_SEG_REALDATA", HERE.parent.parent / "shared" / "realdata")) / "nnunet_plans"
COMMAND = (sys.executable, "-m", "lowres_seg")
BOTH = ("Lung:3d_fullres", "HariGirish:3d_fullres")


def main() -> None:
    """Make each folder, run both commands on it, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=BOTH, metavar="NAME:CONFIGURATION")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lowres-seg-nnunet-full-size")
    parser.add_argument("--folder", nargs=3, metavar=("NAME", "CONFIGURATION", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        make(given.folder[0], given.folder[1], Path(given.folder[2]))
        return
    print(f"{'folder':28}{'parameters':>12}{'command':>10}{'seconds':>10}{'peak GB':>10}")
    for case in given.cases:
        name, configuration = case.split(":")
        folder = given.work / f"{name}__{configuration}"
        if not (folder / "fold_0").exists():  # in a process of its own: what it takes is not what is measured
            subprocess.run([sys.executable, __file__, "--folder", name, configuration, str(folder)], check=True)
        bundle = given.work / f"{name}__{configuration}-bundle"
        for words in (("export", folder, "-o", bundle, "--force", "-q"), ("verify", bundle)):
            seconds, peak = taken(*map(str, words))
            report = json.loads((bundle / "reports" / "export.json").read_text(encoding="utf-8"))
            parameters = sum(network["parameters"] for network in report["networks"].values())
            print(f"{case:28}{parameters / 1e6:>10.1f} M{words[0]:>10}{seconds:>10.1f}{peak / 1e9:>10.2f}", flush=True)


def make(name: str, configuration: str, folder: Path) -> None:
    """A results folder of published plans."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    texts = {file: (PLANS / f"{name}__{file}").read_text(encoding="utf-8") for file in ("plans.json", "dataset.json")}
    plans, dataset = (json.loads(text) for text in texts.values())
    manager = PlansManager(plans)
    plan = manager.get_configuration(configuration)
    torch.manual_seed(0)
    network = get_network_from_plans(
        plan.network_arch_class_name,
        plan.network_arch_init_kwargs,
        plan.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, plan, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        deep_supervision=True,
    )
    momenta = {n: {"momentum_buffer": torch.zeros_like(value)} for n, value in enumerate(network.parameters())}
    (folder / "fold_0").mkdir(parents=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    saved = {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": momenta, "param_groups": [{"lr": 0.01, "momentum": 0.99}]},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": 0.8,
        "current_epoch": 1000,
        "init_args": {"plans": json.loads(texts["plans.json"]), "configuration": configuration, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(len(plan.patch_size))),
    }
    torch.save(saved, folder / "fold_0" / "checkpoint_final.pth")


def taken(*words: str) -> tuple[float, int]:
    """Seconds and peak bytes of a command of lowres-seg."""
    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lowres-seg {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
