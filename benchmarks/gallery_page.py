"""docs/gallery.md and the last part of the model cards, made of the results of `gallery.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from train_gallery import verdict

from lowres_seg.bench import Suite
from lowres_seg.bench.class_sums import ClassSums
from lowres_seg.bench.suite import Benchmark
from lowres_seg.export import gallery

#: Least gain over f32 that is worth what INT8 changes, and the gain below which the page says where the time goes.
WORTH, EXPLAINED = 1.1, 2.0
#: Systems whose gain has a target at 128 x 128 x 128: times torch, and times f32.
TARGETS = {"S01", "S02", "S06", "S08", "S09"}
TORCH, F32 = 6.0, 2.7

HEAD = """# Networks of the papers, measured

Made by `benchmarks/gallery.py page` of the results under `benchmarks/results/gallery/`. [How to export and train
them](how-to/papers.md) is a page of its own.

No paper publishes the weights of these networks. So two things are measured apart:

- **Speed**, at the paper's width, with seeded weights: what a network computes does not depend on their values.
- **What INT8 changes**, on networks that were trained on phantoms, most of them at a quarter of the paper's width, as
  training takes a CPU minutes. Networks of tumors also saw three real cases, and are judged on phantoms only. A
  network that was **trained on phantoms** says nothing about scans of patients.

Ratios are of one run, in which torch, fp32, bf16 and INT8 took turns; seconds of different rows are of different
runs. S05 has the graph of S01, and S03 that of S02: one measurement serves both. The tables have the systems that are
measured so far.

"""
PARTS = """
Parameters are those of one network. GFLOPs are of one window in all networks, a multiplication and an addition each.
Parity is the largest difference of a score from torch's, and how many of the voxels have another label.
"""
JUDGED = """
## What INT8 changes, trained on phantoms

Mean Dice of each region, or AUC, on phantoms that neither training nor quantization saw. INT8 went through the gate
of `quantize` with its own limits.
"""
WHERE = f"""
## Where the time goes

Share of the INT8 bundle's time that kernels of INT8 take, by OpenVINO's counters, at the paper's width with seeded
weights. Where INT8 is less than {EXPLAINED:g} times as fast as f32, the kinds that take most of its time.
"""
ACS = """
## ACS convolutions

S02 is S01 with an ACS convolution in place of every 3×3×3 one of equal channels. Both in one run
(`plans/gallery/acs.toml`), with seeded weights:
"""
LOWERED = """
The paper measured 1.35 times the time of its baseline. [ADR 20](adr/0020-acs-stays-three-branches.md) says how the
layers are lowered."""

#: The last part of a model card, which this module writes.
OURS = "## Ours\n"
TRAINED = """
Made by `benchmarks/gallery.py page`. The weights of the paper are not published. Dice of each region, or AUC, is that
of a network of the width below, **trained on phantoms**, on phantoms that it never saw: it says nothing about scans
of patients. How many times INT8 is as fast as torch and as f32 is measured at the paper's width, with seeded weights.
[Networks of the papers, measured](../../docs/gallery.md) has more.

"""


@dataclass(frozen=True)
class Row:
    """Results of one system."""

    id: str
    facts: Mapping[str, Any]
    suite: Suite
    trained: Suite

    @classmethod
    def read(cls, folder: Path, name: str) -> Row:
        """Results that `gallery.py measure` wrote."""
        facts = json.loads((folder / f"{name}-facts.json").read_text(encoding="utf-8"))
        return cls(name, facts, Suite.read(folder / f"{name}.json"), Suite.read(folder / f"{name}-trained.json"))

    def benchmark(self, word: str) -> Benchmark:
        """Of ``torch``, ``fp32``, ``bf16`` or ``int8`` at the paper's width."""
        bundle, backend = (f"{self.id}-fp32", "torch") if word == "torch" else (f"{self.id}-{word}", "openvino")
        (found,) = (one for one in self.suite.benchmarks if (one.bundle, one.backend) == (bundle, backend))
        return found

    def seconds(self, word: str) -> float:
        """Median time of the networks on one window."""
        latency = self.benchmark(word).latency_s
        assert latency is not None, f"{self.id}: {word} was not measured"
        return latency.p50

    def gain(self, over: str) -> float:
        """How many times INT8 is as fast as another one."""
        return self.seconds(over) / self.seconds("int8")

    def scores(self, word: str) -> dict[str, float]:
        """Mean Dice of each region, or the AUC, of the trained bundle on heads that nobody saw before."""
        found = [one for one in self.trained.benchmarks if one.bundle == f"{self.id}-trained-{word}"]
        if not found:
            return {}
        (one,) = found
        if one.classified:
            area = ClassSums.of(one).auc
            assert area is not None
            return {"AUC": area}
        regions = dict.fromkeys(case.region for case in one.accuracy)
        return {region: mean(case.dice for case in one.accuracy if case.region == region) for region in regions}

    def changes(self) -> ClassSums | None:
        """What INT8 changes of probabilities, if the system classifies and has a bundle in INT8."""
        found = [one for one in self.trained.benchmarks if one.bundle == f"{self.id}-trained-int8" and one.classified]
        return ClassSums.of(found[0]) if found else None

    def in_int8(self) -> float:
        """Share of the INT8 bundle's time that kernels of INT8 take."""
        shares = self.facts["int8"]["shares"]
        return sum(share for kind, share in shares.items() if kind.rpartition(" ")[2] in ("i8", "u8"))

    def judgement(self) -> str:
        """What is to be said of INT8."""
        learned = verdict(self.facts["training"])
        if learned != "reached":
            return f"no verdict: fp32 {learned}"
        if self.gain("fp32") < WORTH:
            return f"INT8 is not worth it here: {self.gain('fp32'):.2f} times the speed of f32"
        if "refused" in self.facts["gate"]:
            return f"refused by the gate: {self.facts['gate']['refused']}"
        kept = self.facts["gate"]["layers"]
        return f"INT8; {kept.get('fp32', 0)} of {sum(kept.values())} layers keep fp32"


def write(results: Path, page: Path, same: Mapping[str, str], *, check: bool) -> int:
    """Write the page and the last part of the model cards, or compare them: 1 if one is not up to date, else 0."""
    names = sorted(file.name.removesuffix("-facts.json") for file in results.glob("*-facts.json"))
    rows = [Row.read(results, name) for name in names]
    rows += [Row.read(results, of) for of in same.values() if of in names]
    ids = names + [name for name, of in same.items() if of in names]
    ordered = sorted(zip(ids, rows, strict=True), key=lambda pair: pair[0])
    texts = {page: HEAD + "\n".join([*speed(ordered), *judged(ordered), *where(ordered), *acs(results)]) + "\n"}
    for card in dict.fromkeys(gallery.entry(name).card for name, _ in ordered):
        mine = [(name, row) for name, row in ordered if gallery.entry(name).card == card]
        above = card.read_text(encoding="utf-8").partition(OURS)[0]
        texts[card] = above + OURS + TRAINED + "\n".join(ours(mine)) + "\n"
    if check:
        return int(any(not file.exists() or file.read_text(encoding="utf-8") != text for file, text in texts.items()))
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    return 0


def speed(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    """Two tables: what the networks are, and how fast."""
    hosts = dict.fromkeys(row.suite.host.cpu for _, row in rows)
    yield f"## Speed at the paper's width\n\nOn 2 cores of {', '.join(hosts)}, one window; the weights are seeded.\n"
    yield from table(
        ("id", "system", "window", "parameters", "the paper's", "GFLOPs", "parity"),
        [
            (
                name,
                (entry := gallery.entry(name)).name,
                " × ".join(map(str, row.facts["window"])),
                millions(entry.parameters),
                millions(entry.published_parameters),
                f"{2 * row.facts['fp32']['macs'] / 1e9:.0f}",
                parity(row.facts["parity"][""]),
            )
            for name, row in rows
        ],
    )
    yield PARTS
    words = ("torch", "fp32", "bf16", "int8")
    yield from table(
        ("id", "torch", "f32", "bf16", "INT8", "× torch", "× f32", "peak RSS: torch", "f32", "INT8"),
        [
            (
                name,
                *(f"{1000 * row.seconds(word):.0f} ms" for word in words),
                f"**{row.gain('torch'):.1f}**",
                f"**{row.gain('fp32'):.2f}**",
                *(f"{(row.benchmark(word).peak_rss_bytes or 0) / 2**20:.0f} MiB" for word in ("torch", "fp32", "int8")),
            )
            for name, row in rows
        ],
    )
    yield ""
    missed = [
        f"{name} ({row.gain('torch'):.1f} and {row.gain('fp32'):.2f})"
        for name, row in rows
        if name in TARGETS and (row.gain("torch") < TORCH or row.gain("fp32") < F32)
    ]
    asked = ", ".join(sorted(TARGETS & {name for name, _ in rows}))
    if not asked:
        return
    yield f"Asked of {asked}: {TORCH:g} times torch, {F32} times f32. " + (
        f"Missed by {', '.join(missed)}." if missed else "All reach both."
    )


def judged(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    """What INT8 changes."""
    yield JUDGED
    lines = []
    for name, row in rows:
        training, width = row.facts["training"], row.facts["training"]["training"]["width"]
        before, after = row.scores("fp32"), row.scores("int8")
        changed = row.changes()
        said = row.judgement()
        if changed is not None and changed.change is not None:
            said += f"; largest change of a probability {changed.change:.4f}, {changed.texts()['flipped']} flipped"
        lines.append(
            (
                name,
                f"{width:g}",
                f"{training['training']['steps']} steps, {training['seconds'] / 60:.0f} min",
                scores(before),
                scores(after) if after else "–",
                f"{max((before[key] - after[key] for key in after), default=0):+.4f}" if after else "–",
                said,
            )
        )
    yield from table(("id", "width", "trained on phantoms", "fp32", "INT8", "largest loss", "verdict"), lines)


def ours(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    """What a family's model card says."""
    yield from table(
        ("id", "width", "fp32", "INT8", "× torch", "× f32"),
        [
            (
                name,
                f"{row.facts['training']['training']['width']:g}",
                scores(row.scores("fp32")),
                scores(row.scores("int8")) or "–",
                f"{row.gain('torch'):.1f}",
                f"{row.gain('fp32'):.2f}",
            )
            for name, row in rows
        ],
    )


def where(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    """Where the time of INT8 bundles goes."""
    yield WHERE
    lines = []
    for name, row in rows:
        kinds = list(row.facts["int8"]["shares"].items())[:4] if row.gain("fp32") < EXPLAINED else []
        lines.append(
            (
                name,
                f"{row.gain('fp32'):.2f}",
                f"{row.in_int8():.0%}",
                ", ".join(f"{kind} {share:.0%}" for kind, share in kinds) or "–",
            )
        )
    yield from table(("id", "INT8 against f32", "share in INT8", "most of the time"), lines)


def acs(results: Path) -> Iterator[str]:
    """ACS convolutions against dense ones of equal channels, in one run."""
    if not (results / "acs.json").exists():
        return
    suite = Suite.read(results / "acs.json")
    found = {one.bundle: one.latency_s.p50 for one in suite.benchmarks if one.latency_s}
    yield ACS
    yield from table(
        ("", "S01, dense", "S02, ACS", "S02 of S01"),
        [
            (
                word,
                f"{1000 * found[f'S01-{key}']:.0f} ms",
                f"{1000 * found[f'S02-{key}']:.0f} ms",
                f"**{found[f'S02-{key}'] / found[f'S01-{key}']:.2f}**",
            )
            for word, key in (("f32", "fp32"), ("INT8", "int8"))
        ],
    )
    yield LOWERED


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def millions(count: int | None) -> str:
    """Number of parameters."""
    return "–" if count is None else f"{count / 1e6:.3f} M"


def parity(compared: Sequence[Mapping[str, Any]]) -> str:
    """Largest difference of scores from torch, and voxels that flip."""
    ours = [one for one in compared if one["candidate"].startswith("openvino")] or list(compared)
    worst = max(one["max_abs_diff"] for one in ours)
    flipped, voxels = sum(one["flipped"] for one in ours), sum(one["voxels"] for one in ours)
    return f"{worst:.0e}; {flipped} of {voxels:,}"


def scores(values: Mapping[str, float]) -> str:
    """Scores by name."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
