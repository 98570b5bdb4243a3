"""Train networks of the gallery on synthetic heads, until a change of precision can be judged by them.

    .venv-dev/bin/python benchmarks/train_gallery.py            # lists the systems
    .venv-dev/bin/python benchmarks/train_gallery.py S01 S04    # trains those that are not trained yet

Weights go to the user's cache, with `training.json`: what was trained, and its scores on heads that it never saw. So
does the recipe at the width that was trained, which `export` takes. The heads are those of `heads.py`: scores say
that a network learned them, and nothing about patients. Networks that segment tumors also see the three real cases of
`real_heads.py`, where these are there; they are never scored on them. Needs lowres-seg[all].
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import torch
from gallery_tasks import System, Training
from torch import Tensor, nn

from lowres_seg import atomic, host
from lowres_seg.export import recipes
from lowres_seg.runtime.compiled_cache import VARIABLE

WINDOW, HEAD, WHOLE = (64, 64, 64), (80, 96, 80), (64, 64, 64)
SYSTEMS = {
    "S01": Training("tumors", 0.25, WINDOW, HEAD, 1, 400, 9),
    "S02": Training("tumors", 0.25, WINDOW, HEAD, 1, 300, 6),
    "S04": Training("grades", 0.25, WHOLE, WHOLE, 4, 120, 6),
    "S06": Training("tumors", 0.25, WINDOW, HEAD, 1, 300, 10),
    "S07": Training("tumors", 1.0, (64, 64, 108), (64, 64, 108), 1, 120, 12),
    "S08": Training("tumors", 0.25, WINDOW, HEAD, 1, 300, 12),
    "S09": Training("tumors", 0.25, WINDOW, HEAD, 1, 500, 12),
    "S10": Training("grades", 0.25, WHOLE, WHOLE, 4, 300, 4),
    "S16": Training("strokes", 0.5, (1, 96, 112), (96, 112, 48), 8, 400, 4),
    "S19": Training("annotators", 0.25, (1, 128, 128), (128, 128, 48), 8, 300, 3),
    "S21b": Training("grades", 1.0, WHOLE, WHOLE, 4, 120, 3),
    "S21c": Training("grades", 0.25, WHOLE, WHOLE, 4, 200, 5),
}
#: Systems whose graph is that of another one.
SAME_GRAPH = {"S05": "S01", "S03": "S02"}
#: Systems that begin with a part of another one: where in its state, and where in theirs.
BEGINS_WITH = {"S06": ("S04", "encoder.", "classifier.")}

LEAST = {"Dice": 0.80, "AUC": 0.90}
RATE = 3e-3
#: Share of the steps after which batch norms keep their statistics, and the weight of one batch in these.
SETTLED, MOMENTUM = 0.6, 0.03
RECORD = "training.json"


def train(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    *,
    settles: bool = False,
    told: Callable[[int, float], None] = lambda *_: None,
) -> list[float]:
    """Train a network in place, and give the loss of each step. `told` hears the step and the loss.

    With `settles`, batch norms compute with their running mean in the last part of the steps, as they will when the
    network is used. Where a batch is one window, that differs from its own statistics.
    """
    network.train()
    kinds = (nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [module for module in network.modules() if settles and isinstance(module, kinds)]
    for norm in norms:
        norm.momentum = MOMENTUM
    weights = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    losses = []
    for step, (x, wanted) in zip(range(steps), batches, strict=False):
        if step == int(SETTLED * steps):
            for norm in norms:
                norm.eval()
        optimizer.zero_grad()
        found = loss(network(x), wanted)
        found.backward()
        # In bf16 torch 2.13 gave gradients of 1e25 on maps of 2 x 2 x 2 voxels. Clipping would turn them into none.
        nn.utils.clip_grad_norm_(weights, 5.0, error_if_nonfinite=True)
        optimizer.step()
        schedule.step()
        losses.append(found.item())
        told(step, losses[-1])
    return losses


def folder_of(name: str, training: Training, seed: int) -> Path:
    """Folder of a training in the user's cache, or in that of the environment variable of compiled networks."""
    named = os.environ.get(VARIABLE)
    cache = Path(named) if named else host.cache_folder()
    return cache / "gallery" / f"{name}-width-{training.width:g}-seed-{seed}"


def trained(name: str, training: Training, seed: int = 0, threads: int = 2) -> Path:
    """Folder of a trained system, which is trained if it is not there or was trained in another way."""
    folder, system = folder_of(name, training, seed), System(name, training)
    what = json.loads(json.dumps({key: value for key, value in asdict(training).items() if key != "minutes"}))
    what["real cases"] = system.real_cases()
    if (folder / RECORD).is_file() and json.loads((folder / RECORD).read_text("utf-8"))["training"] == what:
        return folder
    begin = None
    if name in BEGINS_WITH:
        other = BEGINS_WITH[name][0]
        begin = trained(other, replace(SYSTEMS[other], width=training.width), seed, threads)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    started = perf_counter()
    networks = {}
    for number, network in enumerate(system.recipe.networks):
        torch.manual_seed(seed)
        module = networks[network] = system.build(network)
        if begin is not None:
            _begin(module, begin, *BEGINS_WITH[name][1:])

        def told(step: int, loss: float, network: str = network) -> None:
            if (step + 1) % 50 == 0:
                print(f"  {name} {network} step {step + 1} of {training.steps}: loss {loss:.3f}", flush=True)

        batches = system.batches(system.channels(network), 100 * seed + number)
        train(module, batches, system.loss, training.steps, settles=training.batch == 1, told=told)
    seconds = perf_counter() - started
    record = {
        "system": name,
        "training": what,
        "seed": seed,
        "threads": threads,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "trained on": "phantoms",
        "scores": system.scores(networks),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.directory(folder, force=True) as staged:
        for network, module in networks.items():
            torch.save(module.state_dict(), staged / system.recipe.networks[network].file)
        narrowed(name, training, staged / "recipes")
        (staged / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def _begin(module: nn.Module, folder: Path, there: str, here: str) -> None:
    """Take a part of a trained network over."""
    state = torch.load(folder / "model.pt", weights_only=True)
    taken = {here + key.removeprefix(there): value for key, value in state.items() if key.startswith(there)}
    missing = [key for key in module.state_dict() if key.startswith(here) and key not in taken]
    assert not missing, f"{folder}: lacks {missing[0]}; expected the state of a network that this one begins with"
    module.load_state_dict(module.state_dict() | taken)


def narrowed(name: str, training: Training, folder: Path) -> Path:
    """Copy a system's family to a folder, with the width and the windows of a training, and give its recipe's path."""
    recipe = recipes.named(name)
    shutil.copytree(recipe.parents[1], folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.rglob("*.toml"):
        text = re.sub(r"\bwidth = 1\.0", f"width = {training.width}", file.read_text(encoding="utf-8"))
        text = re.sub(r"\b(roi_size|shape) = \[.*?\]", rf"\1 = {list(training.window)}", text)
        file.write_text(text, encoding="utf-8")
    return folder / recipe.parent.name / recipe.name


def verdict(record: Mapping[str, dict[str, float]]) -> str:
    """Whether every score reached what a judgement of INT8 takes."""
    short = {key: value for key, value in record["scores"].items() if value < LEAST[key.split()[0]]}
    if not short:
        return "reached"
    return "not reached: " + ", ".join(
        f"{key} {value:.3f} is below {LEAST[key.split()[0]]:.2f}" for key, value in short.items()
    )


def listing() -> str:
    """The table of trainings, a line each."""
    lines = []
    for name, training in SYSTEMS.items():
        names = [name, *(other for other, same in SAME_GRAPH.items() if same == name)]
        window = " x ".join(map(str, training.window))
        lines.append(
            f"{' = '.join(names):10} {training.task:10}  width {training.width:<4g}  window {window:12}  "
            f"{training.steps} steps, about {training.minutes:g} min"
        )
    return "\n".join(lines)


def main() -> None:
    """Train systems and print their scores."""
    parser = argparse.ArgumentParser(description="Networks of the gallery, trained on synthetic heads.")
    parser.add_argument("names", nargs="*", metavar="SYSTEM", help="such as S01; without any, systems are listed")
    parser.add_argument("--width", type=float, help="factor on the paper's channels, in place of the table's")
    parser.add_argument("--steps", type=int, help="in place of the table's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    known = [*SYSTEMS, *SAME_GRAPH]
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"{unknown[0]} is no system that is trained here; expected one of {', '.join(known)}")
    if not args.names:
        print(listing())
    for named in args.names:
        name = SAME_GRAPH.get(named, named)
        training = SYSTEMS[name]
        training = replace(training, width=args.width or training.width, steps=args.steps or training.steps)
        folder = trained(name, training, args.seed, args.threads)
        record = json.loads((folder / RECORD).read_text("utf-8"))
        scores = ", ".join(f"{key} {value:.3f}" for key, value in record["scores"].items())
        print(
            f"{named}: {scores} on unseen phantoms; {verdict(record)} "
            f"(width {training.width:g}, {training.steps} steps, {record['seconds'] / 60:.1f} min)\n  {folder}"
        )


if __name__ == "__main__":
    main()
