"""Full segmentations that accuracy control takes: `lowres-seg quantize` against NNCF's own loop, on one network.

    .venv-dev/bin/python benchmarks/accuracy_control.py

The network is the one of the tests that plain INT8 ruins (tests/integration/recipes/outlier), on phantom heads; both
tools calibrate on the same two and validate on the same four others, with a drop of mean Dice of at most 0.005.
A full segmentation is one validation case through one network; runs in fp32 count for both. Needs lowres-seg[all].
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import torch

from lowres_seg import Segmenter, Volume
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case
from lowres_seg.export import export, phantom
from lowres_seg.metrics.agreement import dice
from lowres_seg.quantize import Limits, Settings, quantize
from lowres_seg.quantize.candidate import prepared_inputs
from lowres_seg.runtime.decode import labels_of, select

RECIPE = Path(__file__).parents[1] / "tests" / "integration" / "recipes" / "outlier" / "recipe.toml"
LIMIT = 0.005
#: With the layers around it, 30 convolutions: as many as deepbet's networks and BrainMaGe's have.
DEPTH = 27


def main() -> None:
    """Run both and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, calibrate, validate = prepare(folder)
        ours(folder, bundle, calibrate, validate)
        theirs(bundle, calibrate, validate)


def prepare(folder: Path) -> tuple[Bundle, list[Case], list[Case]]:
    """Export the network, and write phantom heads."""
    spec = importlib.util.spec_from_file_location("outlier", RECIPE.parent / "network.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{RECIPE.parent}: no network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(module.state(DEPTH), folder / "outlier.pt")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.read_text().replace('py:build"', f'py:build"\narguments = {{ depth = {DEPTH} }}'))
    (folder / "network.py").write_text((RECIPE.parent / "network.py").read_text())
    cases = []
    for seed in range(6):
        head = phantom.head((64, 64, 64), 3.4, seed=seed)
        path = folder / f"h{seed}.nii.gz"
        Volume(np.roll(head.data, seed, axis=1), head.grid).save(path)
        cases.append(Case(f"h{seed}", {"t1": path}))
    return export(recipe, folder / "fp32"), cases[:2], cases[2:]


def ours(folder: Path, bundle: Bundle, calibrate: list[Case], validate: list[Case]) -> None:
    """`lowres-seg quantize`."""
    import json

    result = quantize(bundle.path, folder / "int8", calibrate, validate, Settings(limits=Limits(LIMIT)))
    report = json.loads((folder / "int8" / "reports" / "quantize.json").read_text())
    inferences = len(validate) + sum(
        int(next(iter(attempt["labels"].values()))["cases"]) for attempt in report["attempts"]
    )
    reverted = sum(layer["precision"] == "fp32" for layer in report["layers"])
    fp32, int8 = Segmenter.load(bundle.path), Segmenter.load(result.bundle.path)
    found = [dice(*(s.predict(case.load()).labels.data > 0 for s in (fp32, int8))) for case in validate]
    show("lowres-seg", inferences, reverted, found)


def theirs(bundle: Bundle, calibrate: list[Case], validate: list[Case]) -> None:
    """nncf.quantize_with_accuracy_control, given the same inputs and the same Dice."""
    stage = bundle.manifest.stages[0]
    model = openvino.Core().read_model(bundle.file(bundle.network("net").xml))
    inputs = {
        name: prepared_inputs(bundle, Segmenter.load(bundle, lean=True), [case.load() for case in group])["net"]
        for name, group in (("calibrate", calibrate), ("validate", validate))
    }

    def mask(compiled: Any, x: Any) -> Any:
        return labels_of(select(compiled(x)[0][0], stage.decode), stage.decode) > 0

    reference = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    truth = {x.tobytes(): mask(reference, x) for x in inputs["validate"]}
    count = 0

    def validation(compiled: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        nonlocal count
        values = []
        for x in items:
            count += 1
            values.append(dice(mask(compiled, x), truth[x.tobytes()]))
        return float(np.mean(values)), values

    nncf.set_log_level(40)
    int8 = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(inputs["calibrate"]),
        nncf.Dataset(inputs["validate"]),
        validation,
        max_drop=LIMIT,
        drop_type=nncf.DropType.ABSOLUTE,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibrate),
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    compiled = openvino.compile_model(int8, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    convolutions = [node for node in int8.get_ops() if node.get_type_name() == "Convolution"]
    kept = sum(node.input_value(0).get_node().get_type_name() != "FakeQuantize" for node in convolutions)
    show("NNCF", count, kept, [dice(mask(compiled, x), truth[x.tobytes()]) for x in inputs["validate"]])


def show(tool: str, inferences: int, reverted: int, found: list[float]) -> None:
    """One line of the table."""
    print(f"{tool:12} full segmentations {inferences:4}  layers reverted {reverted:2}  mean Dice {np.mean(found):.5f}")


if __name__ == "__main__":
    main()
