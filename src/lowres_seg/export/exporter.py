"""From a source to a bundle: convert, compare with the source, write."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host
from lowres_seg.arguments import MOST_THREADS, flag, whole_number
from lowres_seg.arguments import path as as_path
from lowres_seg.bundle.bundle import Bundle, NetworkFiles, check_place, digests, file_sha256, staged
from lowres_seg.bundle.contents import RUN_NAME
from lowres_seg.bundle.manifest import EXPORT_REPORT, MANIFEST_NAME, NORMS_NAME, Lineage, Manifest, Network, Reference
from lowres_seg.cohort.cases import Cases
from lowres_seg.errors import ExportError, LowresSegError
from lowres_seg.export import norms, recipes, reference_scan, routes
from lowres_seg.export import weights as files_of_weights
from lowres_seg.export.frameworks import ir, onnx_graph, torch_network
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.export.importers import Source
from lowres_seg.export.loading import load_network, read_source
from lowres_seg.export.parity import ParityReport, compare, with_float64
from lowres_seg.export.recipe import Recipe, with_weights_key
from lowres_seg.export.routes import Exported
from lowres_seg.runtime import reference
from lowres_seg.runtime.engine import Engine
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.reference import Recorders
from lowres_seg.runtime.sampling import drawn
from lowres_seg.runtime.scan_input import VolumeOrPath
from lowres_seg.runtime.segmenter import Segmenter

REFERENCE_NAME = "reference.npz"
#: Looser than parity, because the workstation's CPU may sum in another order than the build machine's.
_REFERENCE_BOUND = Reference(file=REFERENCE_NAME, max_abs_diff=5e-3, max_flipped=1e-3)
Notify = Callable[[str], None]
Engines = Mapping[str, Sequence[Engine]]


def export(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
    volume: VolumeOrPath | Mapping[str, VolumeOrPath] | None = None,
    options: Mapping[str, Any] | None = None,
    reestimate_norm: Path | None = None,
    keep_onnx: bool = False,
    max_ram_bytes: int | None = None,
    threads: int | None = None,
    force: bool = False,
    notify: Notify = lambda _: None,
) -> Bundle:
    """Turn a trained network into a bundle.

    Parameters
    ----------
    source : path
        A ``recipe.toml``, or the name of one that comes with the package; a results folder of nnU-Net v2 or a MONAI
        bundle; or a TorchScript file, an ONNX file or a checkpoint, with `recipe` for all that such a file does not
        say.
    target : path
        The bundle to write.
    recipe : path, optional
        The ``recipe.toml``, or the name of one, that describes a single file of weights.
    weights : path, optional
        Folder of the recipe's files of weights, which may lie below it; by default the recipe's own folder, and the
        package that publishes them.
    weights_key : str, optional
        Key of the checkpoints under which the states are; by default the recipe's, or what fits.
    volume : volume or path, or mapping of channel to either, optional
        A real scan to check parity on, beside the random input. It does not enter the bundle.
    options : mapping of str to value, optional
        Options of the importer, such as ``Options(folds=("0",), mirror=False)`` of an nnU-Net folder.
    reestimate_norm : pathlib.Path, optional
        Table of cases, without labels, on which to re-estimate the running statistics of norms.
    keep_onnx : bool
        Write the ONNX graphs too, compare them in ONNX Runtime, and put them into the bundle. A network whose graph
        torch cannot write, or ONNX Runtime does not run as torch does, has none, and the report says why.
    max_ram_bytes : int, optional
        Bound on the memory that the reference case takes, 2 GB by default, so that a small workstation can run it: with
        a small bound it has fewer windows. The export itself takes what torch and the conversion take.
    threads : int, optional
        Threads to compute with; by default as many as this process may use.
    force : bool
        Replace `target` if it exists.
    notify : callable
        Called with a line of text as each step begins.

    Raises
    ------
    ExportError
        If the source is unusable.
    ParityError
        If the converted network gives other numbers than its source. No bundle is written.
    InputError
        If weights cannot be downloaded, `target` or `volume` is unusable, or `target` is an input, lies inside the
        folder of one or around one.
    """
    began = perf_counter()
    target, force = as_path(target, "target"), flag(force, "force")
    source = recipes.chosen(as_path(source, "source"))
    recipe = None if recipe is None else recipes.chosen(as_path(recipe, "recipe"))
    weights = None if weights is None else as_path(weights, "weights")
    threads = None if threads is None else whole_number(threads, "threads", least=1, most=MOST_THREADS)
    scans = volume.values() if isinstance(volume, Mapping) else [volume]
    named = [source, recipe, reestimate_norm, *scans, *(options or {}).values()]
    inputs = [Path(path) for path in named if isinstance(path, (str, os.PathLike))]
    check_place(target, force=force, inputs=inputs)
    threads = host.inspect().threads if threads is None else threads
    read = read_source(source, recipe, options or {})
    for note in read.notes:
        notify(note)
    if weights_key is not None:
        read = replace(read, recipe=with_weights_key(read.recipe, weights_key))
    found = files_of_weights.find(read.recipe, read.home, weights, notify)
    check_place(target, force=force, inputs=found.values())
    networks = {name: _load(name, read, found[name]) for name in read.recipe.networks}
    changes = _reestimated(read.recipe, networks, reestimate_norm, threads, notify)
    with staged(target, force=force) as staging, _named(staging.folder):
        folder = staging.folder
        (folder / "networks").mkdir()
        if changes:
            np.savez(folder / NORMS_NAME, allow_pickle=False, **_statistics(networks))
        exported = []
        for name, network in networks.items():
            notify(f"converting {name}")
            networks_folder = folder / "networks"
            one = routes.convert(name, network, read.recipe, found[name], networks_folder, threads, with_onnx=keep_onnx)
            exported.append(one)
        files = {
            one.name: NetworkFiles.written(folder / "networks" / f"{one.name}.xml", one.dropout) for one in exported
        }
        engines = compile_networks(read.recipe, files, threads=threads, lean=True)
        segmenter = Segmenter(read.recipe, engines, threads=threads)
        reports = []
        for one in exported:
            notify(f"comparing {one.name} with its source on random input")
            reports += _random_parity(one, read.recipe, engines, threads)
        notify("recording the reference case")
        heads = {one.name: one.conversion.output_shape[1] for one in exported}
        scan = reference_scan.choose(read.recipe, files, heads, max_ram_bytes)
        result, recorders = segmenter.recorded(scan, most=reference.RUNS)
        reference.write(folder / REFERENCE_NAME, scan, result.labels, recorders)
        kind = "phantom"
        if volume is not None:
            kind, (_, recorders) = "scan", segmenter.recorded(volume, most=reference.RUNS)
        if volume is not None or read.recipe.parity.is_open:  # bounds of recipes are for random input and real scans
            notify(f"comparing with the source on the {kind}")
            reports += _scan_parity(exported, recorders, read.recipe, kind, threads)
        for one in exported:
            if one.onnx is not None and not keep_onnx:
                one.onnx.unlink()
                one.onnx = None
        (folder / "reports").mkdir()
        report = _report(exported, reports, read)
        report["norms_reestimated"] = [asdict(one) for one in changes]
        (folder / EXPORT_REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        manifest = _manifest(read.recipe, exported, _lineage(read, found), folder)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        # Seconds differ from run to run, so they are not in the digest: the same export again gives the same bundle.
        run = {"seconds": round(perf_counter() - began, 2)}
        (folder / RUN_NAME).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    return staging.bundle


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors that name networks, and not the hidden folder in which they are made."""
    try:
        yield
    except LowresSegError as error:
        told = re.sub(rf"{re.escape(str(folder))}/networks/([\w-]+)\.(xml|bin|onnx)", r"network \1", str(error))
        if told == str(error):
            raise
        raise type(error)(told) from error


def _load(name: str, read: Source, weights: Path) -> TorchNetwork | None:
    """Load a network in torch; None for one whose source is an ONNX file."""
    entry = read.recipe.networks[name]
    try:
        return (
            None
            if entry.onnx is not None
            else load_network(entry, weights, read.home, read.recipe.parts(name), read.recipe.input_shape(name))
        )
    except ExportError as error:
        raise type(error)(f"network {name}: {error}") from error


def _reestimated(
    recipe: Recipe, networks: Mapping[str, TorchNetwork | None], cases: Path | None, threads: int, notify: Notify
) -> list[norms.Reestimated]:
    if cases is None:
        return []
    table = Cases.read(cases, recipe.channels)
    in_torch = {name: network for name, network in networks.items() if network is not None}
    if len(in_torch) != len(networks):
        raise ExportError(f"{cases}: norms can only be re-estimated in torch, and a network comes as ONNX")
    return norms.reestimate(recipe, in_torch, list(table), threads=threads, notify=notify)


def _statistics(networks: Mapping[str, TorchNetwork | None]) -> dict[str, NDArray[np.float32]]:
    """Statistics of every norm, by NETWORK/NAME. torch needs them to run the network of the bundle."""
    return {
        f"{name}/{key}": array
        for name, network in networks.items()
        if network is not None
        for key, array in network.statistics().items()
    }


def _random_parity(one: Exported, recipe: Recipe, engines: Engines, threads: int) -> list[ParityReport]:
    x = np.random.default_rng(0).standard_normal(recipe.input_shape(one.name), dtype=np.float32)
    stage = recipe.stage_of(one.name)
    engine = engines[stage.name][stage.networks.index(one.name)]
    masks = drawn(one.dropout, [0])
    candidate = engine.run(x, masks)
    engine.release()
    return _compared(one, recipe, "random", (x, masks), candidate, threads)


def _scan_parity(
    exported: Sequence[Exported], recorders: Recorders, recipe: Recipe, kind: str, threads: int
) -> list[ParityReport]:
    """Compare on the last window that was kept. A stage may find nothing in a phantom, but must in a scan."""
    reports = []
    for one in exported:
        stage = recipe.stage_of(one.name)
        recorder = recorders[stage.name][stage.networks.index(one.name)]
        if not recorder.inputs and kind == "phantom":
            continue
        if not recorder.inputs:
            raise ExportError(
                f"stage {stage.name} found nothing to look at in the scan, so its parity cannot be checked; "
                "give another scan"
            )
        reports += _compared(
            one, recipe, kind, (recorder.inputs.pop(), recorder.drawn.pop()), recorder.outputs.pop(), threads
        )
    return reports


def _compared(
    one: Exported,
    recipe: Recipe,
    source: str,
    given: tuple[NDArray[np.float32], Sequence[NDArray[np.float32]]],
    candidate: NDArray[np.float32],
    threads: int,
) -> list[ParityReport]:
    """Compare OpenVINO with the source, and ONNX Runtime where there is a graph beside it. A bad graph is dropped."""
    decode = recipe.stage_of(one.name).decode
    scores = one.source.run(*given)
    exact = cache(partial(one.source.run_in_double, *given)) if isinstance(one.source, TorchNetwork) else None

    def judged(name: str, found: NDArray[np.float32]) -> ParityReport:
        report = compare(one.name, source, decode, (one.source_name, scores), (name, found))
        if exact is not None and recipe.parity.is_open and not report.is_close:
            report = with_float64(report, decode, scores, found, exact)
        report.check(recipe.parity)
        return report

    reports = [judged("openvino", candidate)]
    if one.onnx is not None and one.source_name != "onnxruntime":
        try:
            reports.append(judged("onnxruntime", onnx_graph.OrtNetwork(one.onnx, threads=threads).run(*given)))
        except ExportError as error:  # of ONNX Runtime, or of parity
            one.drop_onnx(str(error).replace("; no bundle was written", ""))
    return reports


def _lineage(read: Source, found: Mapping[str, Path]) -> Lineage:
    from lowres_seg import __version__

    def named(network: str) -> str:
        """Path as the recipe names it, below the folder of weights; of a file that was named itself, its name."""
        file = Path(read.recipe.networks[network].file)
        return file.name if file.is_absolute() else file.as_posix()

    return Lineage(
        sources={f"{name}/{named(name)}": file_sha256(path) for name, path in found.items()},
        recipe=read.digest,
        tools={
            "lowres-seg": __version__,
            "openvino": ir.version(),
            "torch": torch_network.version(),
            **onnx_graph.versions(),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        trusted_code=dict(read.trusted_code),
    )


def _manifest(recipe: Recipe, exported: Sequence[Exported], lineage: Lineage, folder: Path) -> Manifest:
    networks = {
        one.name: Network(
            xml=f"networks/{one.name}.xml",
            bin=f"networks/{one.name}.bin",
            onnx=None if one.onnx is None else f"networks/{one.name}.onnx",
            input_shape=recipe.input_shape(one.name),
            output_shape=one.conversion.output_shape,
            dropout=one.dropout,
        )
        for one in exported
    }
    return Manifest(
        **recipe.bundle.model_dump(),
        channels=recipe.channels,
        labels=recipe.labels,
        regions=recipe.regions,
        stages=recipe.stages,
        networks=networks,
        reference=_REFERENCE_BOUND,
        lineage=lineage,
        files=digests(folder),
    )


def _report(exported: Sequence[Exported], parity: Sequence[ParityReport], read: Source) -> dict[str, Any]:
    return {
        "networks": {
            one.name: {
                "route": one.route,
                "changes": list(one.changes),
                "onnx_failed": one.without_onnx or None,
                "operators": one.conversion.operators,
                "parameters": one.conversion.parameters,
                "output": one.output or None,
                "weights_key": one.weights_key or None,
                "rewrites": {
                    "running_statistics_norms_made_constant": one.running_norms,
                    "operators_removed": one.conversion.removed,
                },
            }
            for one in exported
        },
        "importer": {"name": read.importer, "options": read.options, "notes": list(read.notes)},
        "tolerance": read.recipe.parity.model_dump(),
        "parity": [{**asdict(report), "label_agreement": report.label_agreement} for report in parity],
    }
