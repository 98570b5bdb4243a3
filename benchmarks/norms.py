"""What it costs and saves to let norms read INT8: deepbet's second network on the template head.

    .venv-dev/bin/python benchmarks/norms.py

Latencies take turns in one process; agreement is with fp32 on the network's own grid. Needs lowres-seg[all].
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from lowres_seg import Segmenter, Volume
from lowres_seg.demo import fetch
from lowres_seg.export import export
from lowres_seg.metrics.agreement import dice
from lowres_seg.quantize import int8
from lowres_seg.quantize.candidate import prepared_inputs
from lowres_seg.runtime.decode import labels_of, select
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph

RECIPE = Path(__file__).parents[1] / "export" / "deepbet" / "recipe.toml"


def main() -> None:
    """Quantize both ways, time, compare."""
    assets = fetch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = export(RECIPE, folder / "fp32", weights=assets.weights)
        x = prepared_inputs(bundle, Segmenter.load(bundle, lean=True), [{"t1": Volume.load(assets.head)}])["brain"][0]
        files = bundle.network_files()["brain"]
        engines = {"fp32": OpenVinoEngine(files, threads=2)}
        kept = int8.NORMS, int8.nodes_of_norms
        for label, (kinds, nodes) in (("norms in f32", kept), ("norms read INT8", ((), lambda _: []))):
            int8.NORMS, int8.nodes_of_norms = kinds, nodes
            graph = read_graph(files)
            model = int8.quantize_network("brain", graph, [x], preset="performance", reverted=[], max_ram_bytes=8 << 30)
            int8.save(model, folder / f"{label}.xml")
            engines[label] = OpenVinoEngine(folder / f"{label}.xml", threads=2)
        seconds: dict[str, list[float]] = {label: [] for label in engines}
        masks = {}
        decode = bundle.manifest.stages[1].decode
        for turn in range(8):
            for label, engine in engines.items():
                start = perf_counter()
                scores = engine.run(x)
                if turn:
                    seconds[label].append(perf_counter() - start)
                masks[label] = labels_of(select(scores[0], decode), decode) > 0
        for label, values in seconds.items():
            print(f"{label:16} {1000 * median(values):4.0f} ms  Dice with fp32 {dice(masks[label], masks['fp32']):.5f}")


if __name__ == "__main__":
    main()
