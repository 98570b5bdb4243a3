"""docs/reliability.md, made from the results that scripts under benchmarks/ keep.

With ``--check`` nothing is written, and the exit code is 1 if the page is not up to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks" / "results"
#: Bundles of `benchmarks/orientations.py`, by the names in their manifests.
KNOWN = {"old": "small network of the tests, phantom head", "deepbet": "deepbet, real head"}
PAGE = CHECKOUT / "docs" / "reliability.md"
sys.path.append(str(CHECKOUT / "benchmarks"))

from faults import INJECTED, INPUTS, Fault  # noqa: E402 - a file of the checkout

HEAD = """# What was tried to break it

Made by `scripts/reliability` from the results under `benchmarks/results/`. Each section names the script that made its
figures. Tests run the same code in short, with other seeds.

"""


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join((fuzzed(), kills(), faults(), orientations(), soak(), doubts()))


def result(name: str) -> Any:
    """A result that is kept."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def fuzzed() -> str:
    """Mutated inputs."""
    kinds = result("fuzz")["kinds"]
    total, wrong = (sum(row[key] for row in kinds.values()) for key in ("inputs", "anything_else"))
    rows = []
    for kind, row in kinds.items():
        refused = ", ".join(f"{number(count)} {name}" for name, count in sorted(row["refused"].items()))
        slowest = f"{1000 * row['slowest_s']:.0f} ms"
        rows.append(
            (kind, *map(number, (row["inputs"], row["read"])), refused, row["anything_else"], slowest, row["peak_mb"])
        )
    return (
        f"## Mutated inputs\n\n{number(total)} inputs were given to the reader of scans and to `Segmenter.load`. "
        "Each must be read, or be refused by an error of this project in one line, within a second. "
        f"{wrong or 'None'} did anything else: another exception, a warning, a damaged file that is read as another "
        "scan. Most changes of one byte in a header touch a comment, an intensity scale or one number of a grid, and "
        "leave a sound scan. Some bits of a gzip stream may change, and the voxels are the same: its time stamp, its "
        "system, and codes that mean what they meant. No file that is cut off is read. A few bytes behind the end of a "
        "plain file are a doubt, and zeros behind a gzip stream are padding. The peak is that of the whole process, "
        "with Python's libraries and, for manifests, OpenVINO. (`benchmarks/fuzz.py`)\n\n"
        + table(("input", "tried", "read", "refused", "anything else", "slowest", "peak memory, MB"), rows)
    )


def kills() -> str:
    """Runs that were killed."""
    commands = result("interruptions")["commands"]
    total, writing = (sum(row[key] for row in commands.values()) for key in ("kills", "while_writing"))
    keys = ("kills", "while_writing", "half_written", "left", "left_after_next", "processes_left")
    rows = [
        (f"`{name}`", *(row[key] for key in keys), f"{row['identical']} of {row['completed']}")
        for name, row in commands.items()
    ]
    heads = (
        "command",
        "kills",
        "while it wrote",
        "half-written outputs",
        "folders left by kills",
        "left after the next run",
        "child processes left",
        "complete runs that are identical",
    )
    return (
        f"## Kills\n\n{total} runs were ended by SIGKILL, {writing} of them while they wrote. No output stood half "
        "written under its name. What a kill leaves is a hidden folder beside the output, and the next run into that "
        "place removes it. A run after kills gives the outputs of an uninterrupted run; of `bench`, whose seconds "
        "differ, as many benchmarks. Child processes are counted that live 30 seconds after their parent. "
        "(`benchmarks/interruptions.py`)\n\n" + table(heads, rows)
    )


def faults() -> str:
    """Injected faults and odd inputs, with their tests."""
    outcomes = result("faults")["tests"]

    def rows(them: Iterable[Fault]) -> list[tuple[str, str, str, str]]:
        return [(one.fault, one.right, shown(outcomes, one), "<br>".join(map(named, one.tests))) for one in them]

    heads = ("what", "what comes of it", "cases", "tests")
    return (
        "## Faults injected\n\nWhat happens to files and processes while a command runs. Cases are those of the tests "
        "that passed; skipped ones are settings that do not go together. (`benchmarks/faults.py`)\n\n"
        + table(heads, rows(INJECTED))
        + "\n## Odd inputs\n\nWhat is wrong with a file, or asked in a wrong way.\n\n"
        + table(heads, rows(INPUTS))
    )


def shown(outcomes: dict[str, dict[str, int]], fault: Fault) -> str:
    """How many cases of a fault passed, and what else came of them."""
    counts: dict[str, int] = {}
    for test in fault.tests:
        for outcome, count in outcomes[test].items():
            counts[outcome] = counts.get(outcome, 0) + count
    passed = str(counts.pop("passed", 0))
    return ", ".join([passed, *(f"{count} {outcome}" for outcome, count in counts.items())])


def named(test: str) -> str:
    """A test and its file."""
    file, _, name = test.partition("::")
    return f"`{name}` in `{file}`"


def orientations() -> str:
    """Masks of one scan in other orders and on other grids."""
    found = result("orientations")
    rows = [
        (
            KNOWN[name],
            f"{row['codes_equal']} of {row['codes']}",
            f"{row['oblique_equal']} of {row['oblique']}",
            row["dice_median"],
            row["dice_least"],
        )
        for name, row in found["bundles"].items()
    ]
    heads = (
        "bundle",
        "axis codes with an equal mask",
        "oblique grids with an equal mask",
        "turned: median Dice",
        "least",
    )
    return (
        "## Orientations\n\nThe mask of a scan that is stored in another order of its axes is the same mask in that "
        "order, voxel for voxel: axes are permuted and flipped, and no voxel changes its value. So it is on oblique "
        f"grids. A scan that is resampled to a grid turned by up to {found['turn_degrees']:g} degrees is another input "
        "for the network. Its mask is compared with the first mask, resampled to that grid; interpolation of scan, "
        "mask and network input moves a surface by a part of a voxel, and a Dice of "
        f"{found['least_dice']} is demanded. (`benchmarks/orientations.py`)\n\n" + table(heads, rows)
    )


def soak() -> str:
    """Many predictions in one process."""
    rows = []
    for kind, row in result("soak")["kinds"].items():
        rss = row["rss_mb"]
        rows.append(
            (
                kind,
                row["predictions"],
                f"{row['scans']} and {row['refused_inputs']}",
                f"{rss[2]:.0f}, then {min(rss[3:]):.0f} to {max(rss[3:]):.0f}",
                f"{row['growth_mb']:+.1f}",
                f"{row['threads'][0]}, then at most {max(row['threads'])}",
                f"{row['descriptors'][0]}, then at most {max(row['descriptors'])}",
                f"{row['equal_to_fresh']} of {row['scans']}",
            )
        )
    heads = (
        "engines",
        "predictions",
        "scans, refused inputs",
        "memory after round 3, MB",
        "growth, MB",
        "threads after round 1",
        "descriptors after round 1",
        "masks equal to fresh processes'",
    )
    return (
        "## Soak\n\nOne process segments scans of several shapes and orientations, and refuses a missing channel, NaN, "
        "a damaged, a truncated and a missing file and a scan without contrast, in random order. Memory goes up and "
        "down by some MB, because resamplers of the last eight pairs of shapes are kept; growth is the median of the "
        "last fifth of the rounds less that of as many from the third on. (`benchmarks/soak.py`)\n\n"
        + table(heads, rows)
    )


def doubts() -> str:
    """Doubts on real scans and on planted faults."""
    found = result("doubts")
    hits: dict[str, list[bool]] = {}
    for fault in found["planted"]:
        if not fault["fault"].startswith("HEAD"):
            hits.setdefault(fault["expected"], []).append(fault["hit"])
    real = found["real"]
    rows = []
    for name, hit in hits.items():
        judged = [row["doubts"] for what, row in real.items() if is_judged(name, what, row)]
        alarms = sum(name in raised for raised in judged)
        rows.append((f"`{name}`", alarms if judged else "–", len(judged), f"{sum(hit)} of {len(hit)}"))
    return (
        f"## Doubts\n\nMasks of real heads, masks that came with scans and the scans themselves, {len(real)} in all, "
        "were looked at for the doubts that apply to each; any there is a false alarm. Faults were planted in a real "
        "head, its header and its mask. `header` stands for all doubts about a header. `volume` is judged where a "
        "manifest has limits, which those bundles have not. All doubts together take "
        f"{100 * found['share_of_a_prediction']:.1f}% of the time of a prediction. (`benchmarks/doubts.py`)\n\n"
        + table(("doubt", "false alarms", "real scans and masks judged", "planted faults found"), rows)
    )


def is_judged(doubt: str, what: str, row: dict[str, Any]) -> bool:
    """Tell whether a row of `benchmarks/doubts.py` was looked at for a doubt."""
    match doubt:
        case "volume":
            return False
        case "fragments":
            return "pieces" in row and not what.endswith(", as it is")
        case "padding" | "header" | "beyond-the-field":
            return "cut_off" not in row
        case _:
            return "cut_off" in row


def main() -> None:
    """Write the page, or check it."""
    if "--check" in sys.argv:
        found = PAGE.read_text(encoding="utf-8")
        sys.exit("docs/reliability.md is not up to date; run: scripts/reliability" if found != page() else 0)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
