"""Calibration: which cases ranges are taken from, and the inputs that they give each network."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case
from lowres_seg.quantize.candidate import Inputs, prepared_inputs
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.segmenter import Segmenter

#: Largest number of calibration scans. More change ranges little, and each input costs memory.
MAX_CALIBRATION = 8


def chosen(cases: Sequence[Case], seed: int) -> list[Case]:
    """Choose at most `MAX_CALIBRATION` of some cases, in the order of their ids."""
    some = random.Random(seed).sample(cases, min(len(cases), MAX_CALIBRATION))  # noqa: S311 - a choice, no secret
    return sorted(some, key=lambda case: case.id)


def inputs(bundle: Bundle, cases: Sequence[Case], *, threads: int) -> Inputs:
    """Inputs that the runtime gives each network of an fp32 bundle for the scans of some cases.

    Raises
    ------
    InputError
        If a case cannot be read.
    QuantizationError
        If a network gets no input.
    """
    manifest = bundle.manifest
    engines = compile_networks(manifest, bundle.network_files(), threads=threads, lean=True)
    segmenter = Segmenter(manifest, engines, threads=threads)
    return prepared_inputs(bundle, segmenter, [case.load() for case in cases])
