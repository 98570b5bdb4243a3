"""How often `compare` cries wolf, and how often it misses one: the same bundle twice, and one with 10% more work.

    .venv-dev/bin/python benchmarks/false_alarms.py [--pairs 40] [--planted 20] [--keep FOLDER]

Every suite of 20 convolutions is the new one against the suite before it and the base of the next; the slow bundle has
22. Suites are measured one after the other, as a CI job would. Needs lowres-seg[all]; about half an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import torch

from lowres_seg.bench import Comparison, Plan, Suite, bench, compare
from lowres_seg.export import export

RECIPE = """
channels = ["mr"]
[bundle]
name = "{name}"
version = "1"
description = "{layers} convolutions"
license = "CC0-1.0"
source = "benchmarks/false_alarms.py"
intended_use = "none"
[[labels]]
value = 1
name = "label"
[networks.net]
factory = "network.py:build"
checkpoint = "net.pt"
arguments = {{ layers = {layers} }}
[[stages]]
name = "only"
networks = ["net"]
conform = {{ shape = [32, 32, 32] }}
decode = {{ kind = "regions", regions = [{{ channel = 0, threshold = 0.5, label = 1 }}] }}
"""
NETWORK = '''
import torch


def build(layers):
    """So many equal convolutions."""
    parts = [torch.nn.Conv3d(1, 16, 1)]
    for _ in range(layers):
        parts += [torch.nn.Conv3d(16, 16, 3, padding=1), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts)
'''


def main() -> None:
    """Measure pairs and print what `compare` says of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--planted", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder to leave the suites in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(exist_ok=True)
        same, slow = (bundle(folder, layers) for layers in (20, 22))
        alarms, found = [], []
        base = measure(folder, "same-0", same)
        for number in range(arguments.pairs):
            new = measure(folder, f"same-{number + 1}", same)
            alarms.append(compare(base, new))
            print(f"same {number:2}", line(alarms[-1]), flush=True)
            if number < arguments.planted:
                found.append(compare(new, measure(folder, f"slow-{number}", slow)))
                print(f"slow {number:2}", line(found[-1]), flush=True)
            base = new
    print(f"false alarms: {sum(not c.met for c in alarms)} of {len(alarms)}")
    print(f"planted slowdowns caught: {sum(not c.met for c in found)} of {len(found)}")
    for what, all_of in (("same", alarms), ("slow", found)):
        if len(all_of) > 1:
            changes = [100 * c.changes[0].change for c in all_of]
            raw = [100 * (c.changes[0].new / c.changes[0].base - 1) for c in all_of]
            detectable = statistics.median(c.changes[0].detectable or 0 for c in all_of)
            print(
                f"{what}: change {statistics.mean(changes):+.1f}% ± {statistics.stdev(changes):.1f}; of plain medians "
                f"{statistics.mean(raw):+.1f}% ± {statistics.stdev(raw):.1f}; "
                f"median smallest detectable {100 * detectable:.1f}%"
            )


def bundle(folder: Path, layers: int) -> Path:
    """A bundle of so many convolutions."""
    source = folder / f"source-{layers}"
    source.mkdir(exist_ok=True)
    (source / "recipe.toml").write_text(RECIPE.format(name=f"layers-{layers}", layers=layers), encoding="utf-8")
    (source / "network.py").write_text(NETWORK, encoding="utf-8")
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(NETWORK, "network.py", "exec"), scope)  # noqa: S102 - the text above
    network = scope["build"](layers)  # type: ignore[operator]
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, math.sqrt(2 / (parameter[0].numel())))
    torch.save(network.state_dict(), source / "net.pt")
    target = folder / f"bundle-{layers}"
    export(source / "recipe.toml", target, force=True)
    return target


def measure(folder: Path, name: str, path: Path) -> Suite:
    """One suite; every bundle is called alike, as base and new of one bundle are."""
    content = {"bundles": [{"path": path, "name": "net"}], "what": ["network"], "passes": 4, "rounds": 8}
    suite = bench(Plan.build(name, content))
    suite.write(folder / f"{name}.json", force=True)
    return suite


def line(comparison: Comparison) -> str:
    """What was found, in one line."""
    c = comparison.changes[0]
    low, high = c.interval or (math.nan, math.nan)
    return (
        f"{1000 * c.base:6.1f} → {1000 * c.new:6.1f} ms, change {100 * c.change:+5.1f}% "
        f"({100 * low:+.1f} to {100 * high:+.1f}), {'no regression' if comparison.met else 'REGRESSION'}"
    )


if __name__ == "__main__":
    main()
