"""The reports of a bundle: what its export compared, what its quantization tried, how fast it was where it was made.

No bundle needs its reports. They are evidence for people. Keys that are not read here are left alone, so that reports
of earlier and later versions can be read. ``reports/run.json`` is under no digest, which whoever shows it has to say.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from lowres_seg.bundle import plain_json
from lowres_seg.bundle.bundle import Bundle, checked_bytes
from lowres_seg.bundle.contents import RUN_NAME
from lowres_seg.bundle.manifest import EXPORT_REPORT
from lowres_seg.bundle.part import Part, first_problem
from lowres_seg.errors import BundleError

#: Report of a quantization. No manifest needs to list it.
QUANTIZE_REPORT = "reports/quantize.json"
#: Most bytes of a report, and most items of one of its lists: a row for each label of each case.
REPORT_BYTES, REPORT_ITEMS = 64 << 20, 1 << 20


class _Told(Part):
    """A part of a report, which may say more than is read."""

    model_config = ConfigDict(extra="ignore")


class Compared(_Told):
    """One network on one input (``random``, ``phantom`` or ``scan``), in the runtime of its source and in another.

    `max_probability_diff` is of a network that gives probabilities of classes. Its decision counts as one voxel.
    """

    network: str
    input: str
    reference: str
    candidate: str
    max_abs_diff: float
    flipped: int
    voxels: int
    max_probability_diff: float | None = None


class ExportReport(_Told):
    """What an export compared."""

    parity: tuple[Compared, ...] = ()


class Limits(_Told):
    """Allowed losses: of the mean Dice and the mean HD95 of a label, and of its Dice in any case (null: no bound)."""

    max_drop: float
    max_hd95_rise_mm: float
    worst_case_drop: float | None = None


class ClassLimits(_Told):
    """Allowed changes of a bundle that classifies: of any class's value in any case; and flipped decisions."""

    max_probability_change: float
    max_flipped_decisions: int


class LabelLoss(_Told):
    """Losses of one label against fp32, over the cases that were judged."""

    cases: float
    mean_drop: float
    worst_drop: float
    mean_hd95_rise_mm: float
    worst_hd95_rise_mm: float


class ClassChange(_Told):
    """Changes of the value of one class against fp32, over the cases that were judged."""

    cases: float
    mean_change: float
    worst_change: float


class Agreement(_Told):
    """Accuracy and AUC of fp32 and of the candidate over the cases whose truth is known.

    AUC is null if no class has both cases that are of it and cases that are not.
    """

    cases: int
    accuracy_fp32: float
    accuracy: float
    auc_fp32: float | None = None
    auc: float | None = None


class CaseValues(_Told):
    """One case in fp32 and in the candidate: the value of each class, the decisions, and the truth if it is known."""

    case: str
    truth: str | None = None
    fp32: dict[str, float]
    values: dict[str, float]
    decision_fp32: str
    decision: str


class CaseScore(_Told):
    """One label of one case, in fp32 and in the candidate, against its label map or the fp32 mask."""

    case: str
    label: str
    against: str
    dice_fp32: float
    dice: float
    hd95_mm_fp32: float
    hd95_mm: float


class Attempt(_Told):
    """One candidate: its layers in their old precision, its losses, and the limits that it exceeds, in words.

    An attempt that had lost the gate was not judged on further cases. One that classifies has `classes`, the number of
    its flipped decisions and its agreement with the truth in place of `labels`.
    """

    reverted: tuple[str, ...]
    labels: dict[str, LabelLoss] = Field(default={})
    classes: dict[str, ClassChange] = Field(default={})
    flipped_decisions: int = 0
    agreement: Agreement | None = None
    breaches: tuple[str, ...]


class Result(_Told):
    """The attempt that was written: losses of each label, or changes of each class, and every case."""

    labels: dict[str, LabelLoss] = Field(default={})
    classes: dict[str, ClassChange] = Field(default={})
    flipped_decisions: int = 0
    agreement: Agreement | None = None
    cases: tuple[CaseScore | CaseValues, ...]

    @property
    def scores(self) -> list[CaseScore]:
        """Cases that were judged by their masks."""
        return [case for case in self.cases if isinstance(case, CaseScore)]

    @property
    def values(self) -> list[CaseValues]:
        """Cases that were judged by their classes."""
        return [case for case in self.cases if isinstance(case, CaseValues)]


class LayerPrecision(_Told):
    """Precision of one layer, and why."""

    network: str
    layer: str
    type: str
    precision: str
    why: str


class InstructionSets(_Told):
    """Those of the CPU on which candidates were judged, and the older ones that it was limited to."""

    cpu: tuple[str, ...]
    limited_to: str | None = None


class Gain(_Told):
    """Seconds of one network by variant (``f32``, ``bf16``, ``candidate``), and shares of the candidate's time."""

    latency_s: dict[str, float]
    shares: dict[str, float] = Field(default={})

    def ratios(self) -> dict[str, float]:
        """How many times as fast as each other variant the candidate is."""
        own = self.latency_s.get("candidate", 0.0)
        return {name: s / own for name, s in self.latency_s.items() if name != "candidate" and own > 0}


class QuantizeReport(_Told):
    """What a quantization tried, and what came of it. Without a validation case `result` is null.

    `cases` are digests by ``calibration/ID`` and ``validation/ID``. `gain` is not in the report of a bundle, whose
    digest has no time in it; what ``quantize --json`` prints has it.
    """

    precision: str
    judged: bool
    limits: Limits | ClassLimits
    preset: str
    seed: int
    ignore_labels: tuple[int, ...] = ()
    instruction_sets: InstructionSets
    cases: dict[str, str]
    result: Result | None
    attempts: tuple[Attempt, ...]
    out_of_time: bool
    layers: tuple[LayerPrecision, ...]
    tools: dict[str, str]
    gain: dict[str, Gain] = Field(default={})

    def of_role(self, role: str) -> list[str]:
        """Ids of the cases of ``calibration`` or ``validation``."""
        return [key.removeprefix(f"{role}/") for key in self.cases if key.startswith(f"{role}/")]

    def chosen(self) -> int | None:
        """Index of the attempt that was written; None if nothing was judged.

        Of the attempts that keep the limits it is the one whose layers are those of the bundle.
        """
        kept = {f"{one.network}/{one.layer}" for one in self.layers if one.why.startswith("reverted")}
        met = [n for n, attempt in enumerate(self.attempts) if not attempt.breaches]
        return next((n for n in met if set(self.attempts[n].reverted) == kept), None)


class RunReport(_Told):
    """Seconds and memory of the run that made a bundle, and the latency of its networks there."""

    seconds: float
    peak_rss_bytes: int | None = None
    gain: dict[str, Gain] = Field(default={})


Report = TypeVar("Report", bound=_Told)


def exported(bundle: Bundle) -> ExportReport | None:
    """Report of a bundle's export; None if it has none.

    Raises
    ------
    BundleError
        If it cannot be read, or is no such report.
    """
    return _listed(bundle, EXPORT_REPORT, ExportReport)


def quantized(bundle: Bundle) -> QuantizeReport | None:
    """Report of a bundle's quantization, with the latencies of `ran`; None if it was not quantized; errors as there."""
    report = _listed(bundle, QUANTIZE_REPORT, QuantizeReport)
    run = ran(bundle) if report is not None else None
    return report if report is None or run is None else report.model_copy(update={"gain": run.gain})


def ran(bundle: Bundle) -> RunReport | None:
    """Report of the run that made a bundle, which no digest covers; None if there is none.

    Raises
    ------
    BundleError
        If it cannot be read, or is no such report.
    """
    path = bundle.file(RUN_NAME)
    if not path.exists() and not path.is_symlink():
        return None
    return _parsed(path, _bytes(path, None), RunReport)


def parse(content: Any, *, where: str) -> QuantizeReport:
    """Check plain values as the report of a quantization.

    Raises
    ------
    BundleError
        If they are none. The message begins with `where`.
    """
    return _checked(content, QuantizeReport, where, "expected a report that `lowres-seg quantize` wrote")


def _listed(bundle: Bundle, name: str, kind: type[Report]) -> Report | None:
    if name not in bundle.manifest.files:
        return None
    path = bundle.file(name)
    return _parsed(path, _bytes(path, bundle.manifest.files[name]), kind)


def _bytes(path: Path, digest: str | None) -> bytes:
    """Content of a plain file within bounds; a link or a device beside the manifest could be anything."""
    try:
        found = path.lstat()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from error
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path}: is a link, a folder or a device, expected a plain file; remove it")
    if found.st_size > REPORT_BYTES:
        raise BundleError(f"{path}: has {found.st_size} bytes, expected at most {REPORT_BYTES}; remove it")
    return checked_bytes(path, digest)


def _parsed(path: Path, content: bytes, kind: type[Report]) -> Report:
    cure = "remove it, nothing needs it" if kind is RunReport else "make the bundle again"
    try:
        values = plain_json.parse(content, most_items=REPORT_ITEMS)
    except ValueError as error:
        raise BundleError(f"{path}: {error}; {cure}") from error
    return _checked(values, kind, str(path), cure)


def _checked(content: Any, kind: type[Report], where: str, cure: str) -> Report:
    if not isinstance(content, dict):
        raise BundleError(f"{where}: is {type(content).__name__}, expected a JSON object; {cure}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{where}: {first_problem(error)}; {cure}") from error
