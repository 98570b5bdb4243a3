"""What SIGKILL at random moments leaves of predict, export, quantize and bench, and what the next run makes of it.

    .venv-dev/bin/python benchmarks/interruptions.py [--kills 120] [--only predict] [--seed 0]

A kill waits until the command writes while fewer than two in three of the kills before it met one that wrote; the
others come at any moment of the run. After each group of kills the command runs to its end. Prints a table, and keeps
it in results/interruptions.json, where a command that is not measured keeps its row. Needs
lowres-seg[export,quantize,bench]; about a quarter of an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lowres_seg import Bundle, LowresSegError, Volume
from lowres_seg.atomic.staging import PREFIX
from lowres_seg.bench import Suite
from lowres_seg.export import export, phantom

RESULTS = Path(__file__).parent / "results" / "interruptions.json"
#: Kills between two runs that go to their end.
GROUP = 4
RECIPE = """
channels = ["mr"]
[bundle]
name = "tiny"
version = "1"
description = "one convolution"
license = "CC0-1.0"
source = "benchmarks/interruptions.py"
intended_use = "none"
[[labels]]
value = 1
name = "bright"
[networks.net]
factory = "network.py:build"
checkpoint = "net.pt"
[[stages]]
name = "only"
networks = ["net"]
conform = { shape = [32, 32, 32], spacing_mm = [4.0, 4.0, 4.0] }
normalise = { rules = [{ rule = "z-score" }] }
decode = { kind = "regions", regions = [{ channel = 0, threshold = 0.5, label = 1 }] }
"""
NETWORK = '''
import torch


def build():
    """A sigmoid of a smoothed scan."""
    first, last = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 1, 1)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last, torch.nn.Sigmoid())
'''


@dataclass
class Row:
    """Counts of one command.

    Attributes
    ----------
    kills : int
        Number of runs that were killed before they ended.
    while_writing : int
        Kills of a run that had begun to write.
    half_written : int
        Outputs under their final name that were not whole, looked at after each kill.
    left : int
        Staging folders right after the kills.
    left_after_next : int
        Anything but outputs after the next run, and what other packages leave among temporary files in every run.
    processes_left : int
        Kills that child processes survived for 30 seconds. A child ends with the task that it has.
    completed, identical : int
        Runs that went to their end, and those whose outputs are equal to an uninterrupted run's.
    """

    kills: int = 0
    while_writing: int = 0
    half_written: int = 0
    left: int = 0
    left_after_next: int = 0
    processes_left: int = 0
    completed: int = 0
    identical: int = 0


@dataclass
class Subject:
    """A command, and what becomes of it.

    Attributes
    ----------
    words : list of str
        Of the command. It can be given again after a kill.
    outputs : set of str
        Names of its outputs in its folder.
    is_whole : callable
        Tell whether an output under its final name is whole.
    state : callable
        What two complete runs have in common, of the folder.
    writing_s : float
        Seconds from the first sign of an output until most outputs have their names.
    replaces : bool
        Whether it also runs where the outputs of an earlier run are.
    """

    words: list[str]
    outputs: set[str]
    is_whole: Callable[[Path], bool]
    state: Callable[[Path], object]
    writing_s: float
    replaces: bool = True


def prepare(folder: Path) -> dict[str, Subject]:
    """Make a recipe, a bundle and scans below `folder`, and the commands on them. Outputs go to OUT, to be replaced."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (source / "network.py").write_text(NETWORK, encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(NETWORK, "network.py", "exec"), names)  # noqa: S102 - the text above
    torch.manual_seed(0)
    torch.save(names["build"]().state_dict(), source / "net.pt")  # type: ignore[operator]
    bundle = export(source / "recipe.toml", folder / "bundle").path
    scans = []
    for index in range(6):
        head = phantom.head((96, 96, 96), 1.3 + 0.1 * index)
        scans.append(folder / f"{index}.nii.gz")
        Volume(head.data.astype(np.int16), head.grid).save(scans[-1])
    for index, name in enumerate(("calibrate", "validate")):
        (folder / f"{name}.csv").write_text(f"mr\n{index}.nii.gz\n", encoding="utf-8")
    masks = {f"{index}_mask.nii.gz" for index in range(6)}
    whole: dict[str, bytes] = {}

    def is_mask(path: Path) -> bool:
        return path.read_bytes() == whole.setdefault(path.name, path.read_bytes())

    def files(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir() if path.name in masks | {"volumes.csv"}}

    tables = ["--calibrate", f"{folder}/calibrate.csv", "--validate", f"{folder}/validate.csv"]
    limits = ["--max-drop", "1", "--max-hd95-rise", "1000"]
    quick = ["--what", "network", "--passes", "1", "--rounds", "2"]
    return {
        "predict": Subject(
            ["predict", str(bundle), *map(str, scans), "-o", "OUT/", "--volume-table", "OUT/volumes.csv", "--resume"],
            {*masks, "volumes.csv", ".lowres-seg.jsonl"},
            is_mask,
            files,
            writing_s=0.002,
            replaces=False,
        ),
        "export": Subject(
            ["export", str(source / "recipe.toml"), "-o", "OUT/bundle", "--force"],
            {"bundle"},
            is_bundle,
            lambda out: Bundle.open(out / "bundle").digest,
            writing_s=0.5,
        ),
        "quantize": Subject(
            ["quantize", str(bundle), *tables, *limits, "-o", "OUT/bundle", "--resume", "--force"],
            {"bundle"},
            is_bundle,
            lambda out: Bundle.open(out / "bundle").digest,
            writing_s=0.05,
        ),
        "bench": Subject(
            ["bench", str(bundle), *quick, "-o", "OUT/suite.json", "--force"],
            {"suite.json"},
            is_suite,
            lambda out: len(Suite.read(out / "suite.json").benchmarks),
            writing_s=0.5,
        ),
    }


def is_bundle(path: Path) -> bool:
    """Tell whether a folder is a whole bundle."""
    try:
        Bundle.open(path)
    except LowresSegError:
        return False
    return True


def is_suite(path: Path) -> bool:
    """Tell whether a file is a whole suite."""
    try:
        Suite.read(path)
    except LowresSegError:
        return False
    return True


def measure(subject: Subject, folder: Path, kills: int, rng: random.Random) -> Row:
    """Kill a command again and again in a folder of its own, and let it run to its end after every group of kills."""
    out, row = folder / "out", Row()
    start = time.monotonic()
    _fresh(out)
    _finish(subject, out)
    seconds = time.monotonic() - start
    expected, others = subject.state(out), {path.name for path in (out / "tmp").iterdir()}
    for path in out.iterdir():  # what a whole output is, where that is known by comparison
        assert path.name not in subject.outputs or path.is_dir() or subject.is_whole(path) or path.suffix != ".gz"
    while row.kills < kills:
        if not subject.replaces or rng.random() < 0.5:
            _fresh(out)
        for _ in range(min(GROUP, kills - row.kills)):
            _kill(subject, out, row, seconds, rng)
        _finish(subject, out)
        row.completed += 1
        row.identical += subject.state(out) == expected
        row.left_after_next += len([p for p in out.iterdir() if p.name not in {*subject.outputs, "tmp"}])
        row.left_after_next += len([p for p in (out / "tmp").iterdir() if p.name not in others])
        print(".", end="", flush=True)
    return row


def _fresh(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    (out / "tmp").mkdir(parents=True)


def _start(subject: Subject, out: Path) -> subprocess.Popen[bytes]:
    words = [word.replace("OUT/", f"{out}/") for word in subject.words]
    return subprocess.Popen(
        [sys.executable, "-m", "lowres_seg", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(out / "tmp")},
        start_new_session=True,
    )


def _finish(subject: Subject, out: Path) -> None:
    process = _start(subject, out)
    said = process.communicate()[1].decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(subject.words)}: exit {process.returncode}\n{said}")


def _kill(subject: Subject, out: Path, row: Row, seconds: float, rng: random.Random) -> None:
    process = _start(subject, out)
    moment = rng.uniform(0, seconds)
    if 3 * row.while_writing <= 2 * row.kills:
        before = set(_staging(out))
        while process.poll() is None and not set(_staging(out)) - before:
            time.sleep(0.0005)
        moment = rng.uniform(0, subject.writing_s)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        row.kills += 1
        left = _staging(out)
        row.left += len(left)
        row.while_writing += bool(left)
    process.communicate()
    row.processes_left += not _is_gone(process.pid)
    for path in out.iterdir():
        if path.name in subject.outputs and (path.is_dir() or path.suffix in (".gz", ".json")):
            row.half_written += not subject.is_whole(path)


def _staging(out: Path) -> list[str]:
    return [path.name for place in (out, out / "tmp") for path in place.iterdir() if path.name.startswith(PREFIX)]


def _is_gone(group: int) -> bool:
    """Wait until all processes of a group have ended; end them if they do not."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    return False


def main() -> None:
    """Measure, print the table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120, help="of all commands together")
    parser.add_argument("--only", choices=("predict", "export", "quantize", "bench"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["commands"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        subjects = prepare(Path(name))
        chosen = [arguments.only] if arguments.only else list(subjects)
        for command in chosen:
            kills = arguments.kills // len(chosen)
            row = measure(subjects[command], Path(name) / command, kills, random.Random(arguments.seed))  # noqa: S311
            rows[command] = {"seed": arguments.seed, **asdict(row)}
            print()
    columns = list(asdict(Row()))
    print("| command | " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for command, found in rows.items():
        print(f"| {command} | " + " | ".join(str(found[column]) for column in columns) + " |")
    RESULTS.write_text(json.dumps({"schema_version": 1, "commands": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
