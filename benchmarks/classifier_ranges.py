"""How classifiers are calibrated: ranges that hold every value, and biases as they are, against what NNCF does itself.

    .venv-dev/bin/python benchmarks/classifier_ranges.py S21b S21c     # after gallery.py bundles S21b S21c

The networks are those of the gallery, trained on phantoms. Each is quantized in four ways on the same heads. What is
printed is the largest and the mean change of a probability on heads that calibration did not see. Needs
lowres-seg[all].
"""

from __future__ import annotations

import argparse

import nncf
import numpy as np
from gallery import BUNDLES
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

from lowres_seg import Bundle, host
from lowres_seg.cohort.cases import Cases
from lowres_seg.quantize import calibration
from lowres_seg.quantize.norm_nodes import NORMS
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph

RANGES = {"NNCF's ranges": RangeEstimatorParameters(), "every value": RangeEstimatorParametersSet.MINMAX}


def main() -> None:
    """Print a table for each system."""
    parser = argparse.ArgumentParser(description="Ranges and bias correction of classifiers.")
    parser.add_argument("names", nargs="+", metavar="SYSTEM")
    for name in parser.parse_args().names:
        bundle = Bundle.open(BUNDLES / f"{name}-trained-fp32")
        threads = host.inspect().threads
        tables = [BUNDLES / f"{name}-trained" / word / "cases.csv" for word in ("calibrate", "judge")]
        given, unseen = (
            calibration.inputs(bundle, list(Cases.read(table, bundle.manifest.channels, ["class"])), threads=threads)
            for table in tables
        )
        for network, files in bundle.network_files().items():
            model = read_graph(files)
            exact = probabilities(model, unseen[network], threads)
            for ranges, parameters in RANGES.items():
                for corrects in (True, False):
                    quantized = nncf.quantize(
                        model,
                        nncf.Dataset(list(given[network])),
                        preset=nncf.QuantizationPreset.PERFORMANCE,
                        target_device=nncf.TargetDevice.CPU,
                        subset_size=len(given[network]),
                        ignored_scope=nncf.IgnoredScope(types=list(NORMS), validate=False),
                        advanced_parameters=nncf.AdvancedQuantizationParameters(
                            overflow_fix=nncf.OverflowFix.ENABLE,
                            disable_bias_correction=not corrects,
                            activations_range_estimator_params=parameters,
                        ),
                    )
                    change = np.abs(probabilities(quantized, unseen[network], threads) - exact)
                    bias = "bias correction" if corrects else "biases as they are"
                    print(f"{name}: {ranges}, {bias}: largest change {change.max():.4f}, mean {change.mean():.4f}")


def probabilities(model: object, inputs: list[np.ndarray], threads: int) -> np.ndarray:
    """Probability of each input."""
    engine = OpenVinoEngine.of_model(model, threads=threads)
    return np.array([1 / (1 + np.exp(-engine.run(x).ravel())) for x in inputs])


if __name__ == "__main__":
    main()
