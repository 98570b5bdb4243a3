"""What a person sees while a command runs and when it is done, on a terminal of 80 columns and through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowres_seg import InputError, Volume

QUICK = ["--cores", 1, "--passes", 2, "--rounds", 3]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "lowres_seg", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=240)


def on_terminal(*words: object) -> tuple[int, str]:
    """Exit code, and everything that a terminal of 80 columns is told."""
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command(*words), stdout=child, stderr=child, env=environment | {"TERM": "xterm"})
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # which a terminal gives at its end
        while piece := os.read(parent, 1 << 16):
            shown += piece
    os.close(parent)
    return process.wait(timeout=240), shown.decode()


def left_over(shown: str) -> list[str]:
    """Lines that stay on a terminal: what is drawn over is gone."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.replace("\r\n", "\n"))
    return [line.rpartition("\r")[2] for line in text.split("\n")]


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    lopsided().save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


def write_cases(folder: Path, image: Volume) -> Path:
    """A table with one labelled case."""
    image.save(folder / "head.nii.gz", force=True)
    Volume((image.data > 0.5).astype(np.uint8), image.grid).save(folder / "label.nii.gz")
    (folder / "cases.csv").write_text("id,t1,label\none,head.nii.gz,label.nii.gz\n", encoding="utf-8")
    return folder / "cases.csv"


@pytest.fixture
def cases(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    return write_cases(tmp_path, lopsided())


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory: pytest.TempPathFactory, lopsided: Callable[..., Volume]) -> tuple[Path, str]:
    """A suite of one pass with one judged case, measured once for all tests, and what the command printed."""
    from conftest import manifest_content, write_bundle

    folder = tmp_path_factory.mktemp("one-pass")
    tiny = write_bundle(folder / "tiny", manifest_content()).path
    table = write_cases(folder, lopsided())
    words = ["--cases", table, "--cores", 1, "--passes", 1, "--rounds", 2, "--what", "network", "--no-pictures"]
    done = run("bench", tiny, *words, "-o", folder / "s.json")
    assert done.returncode == 0, done.stderr
    return folder / "s.json", done.stdout


def test_the_bar_of_one_scan_moves_with_its_windows(
    make_bundle: Callable[..., Path], content: Any, lopsided: Callable[..., Volume], tmp_path: Path
) -> None:
    stage = {**content()["stages"][0], "conform": {}, "windows": {"roi_size": [16, 16, 16], "overlap": 0.75}}
    bundle = make_bundle(stages=[stage], schema_version=2)
    lopsided((128, 128, 96)).save(tmp_path / "large.nii")
    code, shown = on_terminal("predict", bundle, tmp_path / "large.nii", "-o", tmp_path / "m.nii")
    assert code == 0, shown
    seen = {int(found) for found in re.findall(r"only, window (\d+) of \d+", shown)}
    assert len(seen) > 2, shown
    assert len(set(re.findall(r"(\d+)%", shown))) > 2, shown
    assert any(line.startswith(f"{tmp_path / 'm.nii'}: brain") for line in left_over(shown))


def test_what_is_written_is_named(tiny: Path, scan: Path, tmp_path: Path) -> None:
    table, told = tmp_path / "t.csv", tmp_path / "run.json"
    words = ["predict", tiny, scan, "-o", tmp_path / "m.nii.gz", "--apply-mask"]
    words += ["--volume-table", table, "--provenance", told]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'm.nii.gz'}: brain")
    assert others == [
        f"{tmp_path / 'm_masked.nii.gz'}: written, with zero outside the labels",
        f"{table}: written",
        f"{told}: written",
    ]
    for path in (tmp_path / "m_masked.nii.gz", table, told):
        assert path.is_file()
    assert run(*words, "--force", "--quiet").stdout == ""
    assert json.loads(run(*words, "--force", "--json").stdout)["summary"]["done"] == 1


def dicom(path: Path) -> None:
    """The beginning of a DICOM file: 128 bytes of anything, the magic word, the length of its first group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\xd4\x00\x00\x00")


@pytest.mark.parametrize("names", [["a.dcm", "b.dcm"], ["series/IM-0001"], ["notes.txt", "deep/er/1.IMA"]])
def test_a_folder_of_dicom_files_says_how_to_convert_it(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "dicom folder"
    for name in names:
        dicom(folder / name)
    with pytest.raises(InputError) as refused:
        Volume.load(folder)
    told = str(refused.value)
    assert told.startswith(f"{folder}: is a folder of DICOM files, expected a NIfTI file; convert it")
    assert told.endswith(f": dcm2niix -z y -o NIFTI_FOLDER '{folder}'")


@pytest.mark.parametrize("name", ["1.dcm", "IM-0001"])
def test_a_dicom_file_says_how_to_convert_its_folder(tmp_path: Path, name: str) -> None:
    dicom(tmp_path / name)
    with pytest.raises(InputError, match="is a DICOM file, expected a NIfTI file; convert its folder first: dcm2niix"):
        Volume.load(tmp_path / name)


@pytest.mark.parametrize("words", [["series"], ["series/1"], ["t1=series"], ["series", "t1=5"], ["cases.csv"]])
def test_dicom_says_which_extra_reads_it(tiny: Path, tmp_path: Path, words: list[str]) -> None:
    dicom(tmp_path / "series" / "1")
    (tmp_path / "cases.csv").write_text("t1\nseries\n", encoding="utf-8")
    hidden = (
        "import sys; from importlib import util; real = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'pydicom' else real(name, *a)\n"
        "from lowres_seg.cli import main; main()"
    )
    command = [sys.executable, "-c", hidden, "predict", str(tiny), *words, "-o", "m.nii"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: dicom needs pydicom")
    assert "not installed here: pip install" in done.stderr


def test_a_folder_of_scans_names_one_and_an_empty_one_says_what_it_is(tiny: Path, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "scans" / "sub").mkdir(parents=True)
    within = scan.rename(tmp_path / "scans" / "sub" / "HEAD.NII.GZ")
    done = run("predict", tiny, tmp_path / "scans", "-o", tmp_path / "m.nii")
    assert f"is a folder, expected a NIfTI file; name the scans in it, such as {within}" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run("predict", tiny, tmp_path / "empty", "-o", tmp_path / "m.nii")
    assert done.stderr == f"error: {tmp_path / 'empty'}: is a folder, expected a NIfTI file\n"


@pytest.fixture
def busy_host() -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


def test_doctor_doubts_its_figures_on_a_busy_host(busy_host: None) -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^load +\d+\.\d processes", done.stdout, re.MULTILINE)
    assert re.search(r"^doubt: busy host: other work", done.stdout, re.MULTILINE), done.stdout
    found = json.loads(run("doctor", "--json").stdout)
    assert found["load_average"] >= 0
    assert any("busy host" in doubt for doubt in found["doubts"])


def test_bench_through_a_pipe_says_how_long_and_each_step(tiny: Path, cases: Path, tmp_path: Path) -> None:
    suite = tmp_path / "s.json"
    done = run("bench", tiny, "--cases", cases, *QUICK, "--no-pictures", "-o", suite)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[:2] == ["checking one", "preparing tiny"]
    assert re.fullmatch(r"2 benchmarks, 2 passes of 3 rounds: about \d+ (second|minute)s?", lines[2]), lines[2]
    assert lines[3] == "pass 1 of 2: starting the fixed workload on 1 core"
    assert any(re.fullmatch(r"first pass done; about \d+ seconds? for the other passes", line) for line in lines)
    assert "pass 2 of 2, round 3 of 3" in lines
    assert "judging tiny, openvino, on one" in lines
    assert max(map(len, table(done.stdout))) <= 80
    assert sum("  brain " in line for line in done.stdout.splitlines()) == 1
    assert re.search(r"^  brain +\d\.\d{4} +\d+\.\d\d mm +1 case$", done.stdout, re.MULTILINE), done.stdout
    assert "cases" not in done.stdout

    compared = run("compare", suite, suite)
    assert compared.returncode == 0
    assert max(map(len, table(compared.stdout))) <= 80
    assert sum("brain Dice" in line for line in compared.stdout.splitlines()) == 1


def table(text: str) -> list[str]:
    """Lines without those of prose, which a terminal may fold."""
    return [line for line in text.splitlines() if not re.match(r"(doubt|note): |.*: written", line)]


def test_bench_on_a_terminal_keeps_within_80_columns(tiny: Path, scan: Path, tmp_path: Path) -> None:
    words = [
        "bench",
        tiny,
        "--scan",
        scan,
        *("--cores", 1, "--passes", 2, "--rounds", 1),
        "--what",
        "network,end-to-end,throughput",
        "-o",
        tmp_path / "s.json",
    ]
    code, shown = on_terminal(*words)
    assert code == 0, shown
    assert "about" in shown
    lines = left_over(shown)
    at = next(number for number, line in enumerate(lines) if "95% interval" in line)
    rows = lines[at : at + 5]
    assert [row.split()[0] for row in rows[1:]] == ["tiny,", "network", "end-to-end", "throughput"]
    assert max(map(len, rows)) <= 80


def test_one_pass_gives_no_verdict_on_time(one_pass: tuple[Path, str], tmp_path: Path) -> None:
    measured, said = one_pass
    assert re.search(r"^  network +\d+\.\d+ ms +one pass ", said, re.MULTILINE), said
    suites = [measured, tmp_path / "b.json"]
    # As if everything took three times as long.
    content = json.loads(measured.read_text(encoding="utf-8"))
    for one in content["benchmarks"][0]["runs"]:
        one["values_s"] = [3 * value for value in one["values_s"]]
    suites[1].write_text(json.dumps(content), encoding="utf-8")
    done = run("compare", *suites)
    assert done.returncode == 0, done.stdout
    assert "note: one pass has no interval, so there is no verdict on time; measure base and new with" in done.stdout
    assert re.search(r"^  latency .* no verdict$", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "no regression in what was judged; no verdict on time"
    assert run("compare", *suites, "--what", "time").stdout.splitlines()[-1] == "no verdict"
    found = json.loads(run("compare", *suites, "--what", "time", "--format", "json").stdout)
    assert [change["verdict"] for change in found["changes"]] == ["no verdict"]


def test_accuracy_is_compared_across_hosts(one_pass: tuple[Path, str], tmp_path: Path) -> None:
    (here, _), there = one_pass, tmp_path / "there.json"
    content = json.loads(here.read_text(encoding="utf-8"))
    content["host"] |= {"cpu": "another", "cores": 64}
    content["benchmarks"][0]["cores"] = 64
    there.write_text(json.dumps(content), encoding="utf-8")
    refused = run("compare", here, there)
    assert refused.returncode == 1
    assert "or compare --what accuracy" in refused.stderr
    done = run("compare", here, there, "--what", "accuracy")
    assert done.returncode == 0, done.stderr
    assert "brain Dice" in done.stdout
    assert "latency" not in done.stdout
    assert "note: the suites are of different hosts" in done.stdout
    content["benchmarks"][0]["accuracy"][0]["dice"] -= 0.1
    there.write_text(json.dumps(content), encoding="utf-8")
    worse = run("compare", here, there, "--what", "accuracy")
    assert worse.returncode == 3
    assert worse.stderr == f"error: {there}: 1 regression against {here}\n"


def test_a_scan_is_timed_with_the_bundles_of_a_plan_and_quiet_says_nothing(
    tiny: Path, scan: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('passes = 1\nrounds = 1\nwhat = ["network"]\n[[bundles]]\npath = "tiny"\n', encoding="utf-8")
    done = run("bench", "--plan", plan, "--scan", scan, "--cores", 1, "-o", tmp_path / "s.json", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["timed"] == "head.nii.gz"


def test_counts_have_their_nouns(tiny: Path, scan: Path, tmp_path: Path) -> None:
    scans = [scan]
    for name in ("b", "c"):
        (tmp_path / f"{name}.nii.gz").write_bytes(scan.read_bytes())
        scans.append(tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    for count, says in enumerate(
        ("head_mask.nii.gz: exists already; ", "exists already, and so does 1 other; ", "and so do 2 others; "), start=1
    ):
        run("predict", tiny, scans[count - 1], "-o", out)
        assert says in run("predict", tiny, *scans, "-o", out).stderr
    (scan.parent / "short.nii").write_bytes(b"x")
    assert (
        "it holds 1 byte and no NIfTI header"
        in run("predict", tiny, tmp_path / "short.nii", "-o", out / "m.nii").stderr
    )
    Volume(np.zeros((16, 16, 16), np.float32) + np.indices((16, 16, 16))[0] / 1000, Volume.load(scan).grid).save(
        tmp_path / "dark.nii"
    )
    doubted = run("predict", tiny, tmp_path / "dark.nii", "-o", tmp_path / "m.nii", "--strict")
    assert doubted.returncode == 3
    assert "error: 1 of 1 result has a doubt, and --strict allows none" in doubted.stderr
