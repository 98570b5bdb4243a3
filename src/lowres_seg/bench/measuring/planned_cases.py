"""Cases of a plan: those that bundles are judged on, and those that backends are calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowres_seg.bench.measuring.plan import Plan
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case, Cases, check_ignored, fingerprint
from lowres_seg.errors import InputError
from lowres_seg.quantize import calibration
from lowres_seg.runtime.scan_input import read_channels
from lowres_seg.volumes.volume import Volume

Planned = dict[str, list[Case]]


def judged(plan: Plan, bundles: Mapping[str, Bundle]) -> Planned:
    """Cases to judge each bundle on, labelled if it gives masks; nothing if the plan has none.

    Raises
    ------
    InputError
        If the table cannot be used, a case has no label, or its class is none of the bundle's.
    """
    if plan.cases is None:
        return {}
    found = {}
    for name, bundle in bundles.items():
        check_ignored(plan.ignore_labels, bundle.manifest.known_labels)
        masks = bool(bundle.manifest.labels)
        cases = list(Cases.read(plan.cases, bundle.manifest.channels, () if masks else bundle.manifest.classes))
        unlabelled = [case.id for case in cases if case.label is None and masks]
        if unlabelled:
            raise InputError(
                f"{plan.cases}: case {unlabelled[0]} has no label, and Dice and HD95 need one; give it one, "
                "or time its scan with --scan"
            )
        found[name] = cases
    return found


def check(plan: Plan, bundles: Mapping[str, Bundle], judging: Planned, notify: Callable[[str], None]) -> None:
    """Read every case that a bundle is judged on, so that a fault is known before minutes are measured.

    Parameters
    ----------
    plan : Plan
    bundles : mapping of str to Bundle
    judging : dict of str to list of Case
        What `judged` gave.
    notify : callable
        Called with a line of text as each case is read.

    Raises
    ------
    InputError
        If a scan cannot be segmented, or a label map is none of the bundle's labels on the scan's grid. The message
        begins with the case.
    """
    done: set[tuple[object, ...]] = set()
    for name, cases in judging.items():
        manifest = bundles[name].manifest
        for case in cases:
            key = (case.id, manifest.channels, tuple(manifest.known_labels), bool(manifest.labels))
            if key in done:
                continue
            done.add(key)
            notify(f"checking {case.id}")
            try:
                first, *_ = read_channels(case.scan, manifest.channels, Volume.load)
            except InputError as error:
                raise InputError(f"case {case.id}: {error}") from error
            if manifest.labels:
                case.load_label(manifest.known_labels, first, ignore=plan.ignore_labels)


def calibrating(plan: Plan, bundles: Mapping[str, Bundle], judging: Planned, notify: Callable[[str], None]) -> Planned:
    """Calibration cases for each bundle; nothing if the plan has none.

    Parameters
    ----------
    plan : Plan
    bundles : mapping of str to Bundle
    judging : dict of str to list of Case
        What `judged` gave.
    notify : callable
        Called with a line of text as each scan is read.

    Raises
    ------
    InputError
        If the table cannot be used, or a scan is one of those that the bundle is judged on, whatever its name.
    """
    if plan.calibrate is None:
        return {}
    prints: dict[tuple[tuple[str, str], ...], str] = {}

    def print_of(case: Case) -> str:
        key = tuple(sorted((channel, str(path)) for channel, path in case.scan.items()))
        if key not in prints:
            notify(f"reading {case.id}")
            prints[key] = fingerprint(case.load())
        return prints[key]

    found = {}
    for name, bundle in bundles.items():
        cases = calibration.chosen(list(Cases.read(plan.calibrate, bundle.manifest.channels)), plan.seed)
        taken = {print_of(case): case.id for case in cases}
        for case in judging.get(name, ()):
            if print_of(case) in taken:
                raise InputError(
                    f"case {case.id} of {plan.cases} is case {taken[print_of(case)]} of {plan.calibrate}, whatever its "
                    "name; calibrate and judge on different cases"
                )
        found[name] = cases
    return found
