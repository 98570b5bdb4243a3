"""`predict` on many scans: what is full, closed, gone, changed, done before or interrupted costs one case at most."""

from __future__ import annotations

import csv
import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import InputError, Segmenter, Volume
from lowres_seg.cli import app
from lowres_seg.cohort.jobs import list_jobs, run_jobs

LEDGER = ".lowres-seg.jsonl"
Lopsided = Callable[..., Volume]


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own; bytes, because names may not be UTF-8."""
    command = [os.fsencode(word) if isinstance(word, (str, Path)) else word for word in words]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "lowres_seg", *command], check=False, timeout=120, **options)


def here(*words: object) -> Any:
    """The command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def lines(stderr: bytes | str, kind: str) -> list[str]:
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith(f"{kind}: ")]


@pytest.fixture
def scans(tmp_path: Path, lopsided: Lopsided) -> list[Path]:
    """Four scans."""
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{name}.nii.gz" for name in "abcd"]
    for seed, path in enumerate(paths):
        lopsided(seed=seed).save(path)
    return paths


def rows(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def written(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.name != LEDGER)


def without_privileges() -> None:
    """Take the rights from a child of root to read and write what modes forbid."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_only_the_scans_that_do_not_fit(tiny: Path, small_disk: Path, tmp_path: Path) -> None:
    scans = []
    for index in range(6):
        # Noise, so that a masked scan of it takes 20 KiB.
        data = np.random.default_rng(index).uniform(1, 2, (24, 24, 24)).astype(np.float32)
        scans.append(tmp_path / f"{index}.nii.gz")
        Volume.from_array(data, np.eye(4)).save(scans[-1])
    table, out = tmp_path / "t.csv", small_disk / "out"
    done = run("predict", tiny, *scans, "-o", out, "--apply-mask", "--volume-table", table)
    assert done.returncode == 1
    errors = lines(done.stderr, "error")
    found = rows(table)
    assert len(found) == 6
    failed = [row for row in found if row["error"]]
    assert 1 <= len(errors) == len(failed) < 6
    assert all("cannot be written (No space left on device); free space there" in error for error in errors)
    masks = [name for name in written(out) if name.endswith("_mask.nii.gz")]
    assert len(masks) == 6 - len(failed)
    assert written(out) == sorted(masks + [name.replace("_mask.", "_mask_masked.") for name in masks])
    assert not [p for p in out.iterdir() if p.is_dir()]


def test_a_limit_on_the_size_of_files_costs_only_the_scans_beyond_it(
    tiny: Path, scans: list[Path], tmp_path: Path
) -> None:
    large = scans[1].with_name("large.nii.gz")
    data = np.random.default_rng(0).uniform(1, 2, (40, 40, 40)).astype(np.float32)
    Volume.from_array(data, np.eye(4)).save(large)
    words = ["predict", tiny, scans[0], large, scans[1], "-o", tmp_path / "out", "--apply-mask"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    done = run(*words, "--volume-table", tmp_path / "t.csv", preexec_fn=limit)
    (error,) = lines(done.stderr, "error")
    assert "large_mask" in error
    assert "cannot be written (File too large); raise the limit" in error
    assert done.returncode == 1
    assert written(tmp_path / "out") == [f"{n}_mask{m}.nii.gz" for n in "ab" for m in ("", "_masked")]
    assert [bool(row["error"]) for row in rows(tmp_path / "t.csv")] == [False, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_what_may_not_be_read_or_written_is_one_line(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    shutil.copy(scans[1], locked / "scan.nii.gz")
    table, out = tmp_path / "t.csv", tmp_path / "out"
    locked.chmod(0)
    done = run(
        *("predict", tiny, scans[0], locked / "scan.nii.gz", scans[2], "-o", out, "--volume-table", table),
        preexec_fn=without_privileges,
    )
    inside = run("predict", tiny, scans[0], "-o", locked / "m.nii", preexec_fn=without_privileges)
    locked.chmod(0o500)
    beside = run("predict", tiny, scans[0], "-o", locked / "new", preexec_fn=without_privileges)
    locked.chmod(0o700)
    (error,) = lines(done.stderr, "error")
    assert error == (
        f"error: {locked / 'scan.nii.gz'}: cannot be read (Permission denied); see that the file is there and that you "
        "may read it"
    )
    assert done.returncode == 1
    assert written(out) == ["a_mask.nii.gz", "c_mask.nii.gz"]
    assert [bool(row["error"]) for row in rows(table)] == [False, True, False]
    for refused in (inside, beside):
        assert (refused.returncode, refused.stderr.count(b"\n"), len(lines(refused.stderr, "error"))) == (1, 1, 1)
        assert b"Permission denied" in refused.stderr


def test_a_scan_beyond_the_memory_is_one_line(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    large = tmp_path / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_shape((1500, 1500, 1500))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1\x00"
    with large.open("wb") as stream:  # a sparse file
        stream.write(header.binaryblock)
        stream.truncate(352 + 1500**3)
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # noqa: E731
    words = ["predict", tiny, scans[0], large, scans[1], "-o", tmp_path / "out"]
    done = run(*words, "--volume-table", tmp_path / "t.csv", preexec_fn=limit)
    (error,) = lines(done.stderr, "error")
    assert error == f"error: {large}: 1500×1500×1500 voxels take more memory than there is; crop the scan"
    assert done.returncode == 1
    assert written(tmp_path / "out") == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert [bool(row["error"]) for row in rows(tmp_path / "t.csv")] == [False, True, False]


def test_a_name_that_is_not_utf8_is_in_the_table_in_json_and_in_the_ledger(
    tiny: Path, scans: list[Path], tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.nii.gz"
    shutil.copy(os.fsencode(scans[1]), odd)
    words = ["predict", tiny, scans[0], odd, "-o", tmp_path / "out", "--volume-table", tmp_path / "t.csv"]
    done = run(*words)
    assert (done.returncode, lines(done.stderr, "error")) == (0, [])
    assert len(done.stdout.decode().splitlines()) == 3
    assert done.stdout.decode().splitlines()[-1] == f"{tmp_path / 't.csv'}: written"
    assert [row["scan"] for row in rows(tmp_path / "t.csv")] == [str(scans[0]), f"{tmp_path}/caf\\udce9.nii.gz"]
    again = run(*words, "--resume", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["summary"] == {"done": 0, "failed": 0, "skipped": 2}
    assert os.fsencode(found["cases"][1]["scan"]["t1"]) == odd
    assert (tmp_path / "out").joinpath(os.fsdecode(b"caf\xe9_mask.nii.gz")).is_file()


def test_a_folder_that_vanishes_between_two_scans_is_made_again(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = list_jobs([str(scan) for scan in scans], out, ["t1"], force=False, apply_mask=False)
    results = run_jobs(Segmenter.load(tiny, threads=1), jobs, force=False)
    assert next(results).status == "done"
    shutil.rmtree(out)
    out.write_text("no folder any more")
    failed = next(results)
    assert "out/b_mask.nii.gz: cannot be written" in str(failed.error)
    out.unlink()
    assert [result.status for result in results] == ["done", "done"]
    assert written(out) == ["c_mask.nii.gz", "d_mask.nii.gz"]


def test_a_fault_of_a_network_costs_one_scan(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    """Also an exception that is none of this package's."""

    class Faulty(Segmenter):
        def predict(self, scan: Any, **options: Any) -> Any:
            if np.allclose(next(iter(scan.values())).data, Volume.load(scans[1]).data):
                raise KeyError("xyz")
            return super().predict(scan, **options)

    jobs = list_jobs([str(scan) for scan in scans], tmp_path / "out", ["t1"], force=False, apply_mask=False)
    results = list(run_jobs(Faulty.load(tiny, threads=1), jobs, force=False))
    assert [result.status for result in results] == ["done", "failed", "done", "done"]
    assert "b.nii.gz: met a fault of this tool (KeyError: 'xyz')" in str(results[1].error)


@pytest.mark.parametrize("kind", [MemoryError, InputError])
def test_a_scan_that_failed_takes_no_memory_from_the_next(
    tiny: Path, scans: list[Path], tmp_path: Path, kind: type[Exception]
) -> None:
    held: list[weakref.ref[Any]] = []

    class Failing(Segmenter):
        def predict(self, scan: Any, **_: Any) -> Any:
            held.append(weakref.ref(next(iter(scan.values()))))
            raise kind("too large")

    jobs = list_jobs([str(scan) for scan in scans], tmp_path / "out", ["t1"], force=False, apply_mask=False)
    results = list(run_jobs(Failing.load(tiny, threads=1), jobs, force=False))
    assert [result.status for result in results] == ["failed"] * 4
    gc.collect()
    assert [ref() for ref in held] == [None] * 4


def test_a_scan_that_changes_while_it_is_read_is_refused(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    busy = tmp_path / "busy.nii.gz"
    Volume.from_array(np.random.default_rng(0).random((160, 160, 160), np.float32), np.eye(4)).save(busy)
    code = (  # a byte that is written again, whatever it is
        "import sys\nwith open(sys.argv[1], 'r+b', buffering=0) as stream:\n"
        "    byte = stream.read(1); print(flush=True)\n    while True: stream.seek(0); stream.write(byte)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, busy], stdout=subprocess.PIPE) as writing:
        assert writing.stdout is not None
        writing.stdout.readline()
        done = here("predict", tiny, busy, scans[0], "-o", tmp_path / "out")
        writing.kill()
    (error,) = lines(done.stderr, "error")
    assert "busy.nii.gz: changed while it was read, expected a file at rest" in error
    assert done.exit_code == 1
    assert written(tmp_path / "out") == ["a_mask.nii.gz"]


class TestLedger:
    def entries(self, out: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]

    def test_it_has_a_line_for_each_case(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        from lowres_seg.bundle.bundle import file_sha256

        (tmp_path / "bad.nii").write_text("x")
        out = tmp_path / "out"
        assert here("predict", tiny, scans[0], tmp_path / "bad.nii", "-o", out, "--apply-mask").exit_code == 1
        done, failed = self.entries(out)
        assert done["outcome"] == "done"
        assert done["inputs"] == {"t1": file_sha256(scans[0])}
        assert done["bundle"] == file_sha256(tiny / "manifest.json")
        assert done["options"] == {"apply_mask": True, "reproducible": False}
        assert done["files"] == {name: file_sha256(out / name) for name in ("a_mask.nii.gz", "a_mask_masked.nii.gz")}
        assert failed["outcome"] == "failed"
        assert "cannot be read as NIfTI" in failed["why"]

    def test_resume_skips_what_agrees_and_does_the_rest(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        out, table = tmp_path / "out", tmp_path / "t.csv"
        words = ["predict", tiny, *scans, "-o", out, "--volume-table", table]
        assert here(*words).exit_code == 0
        masks = {name: (out / name).read_bytes() for name in written(out)}
        volumes = table.read_text()
        for option, message in [
            ("", "exists already, and so do 3 others; pass --resume to do what is missing or --force")
        ]:
            refused = here("predict", tiny, *scans, "-o", out, *option.split())
            assert (refused.exit_code, len(lines(refused.stderr + str(refused.exception), "error"))) != (0, 0)
            assert message in str(refused.exception)
        times = {name: (out / name).stat().st_mtime_ns for name in masks}
        skipped = here(*words, "--resume")
        assert skipped.exit_code == 0, skipped.stderr
        assert skipped.stderr == "summary: 0 done, 0 failed, 4 skipped\n"
        assert table.read_text() == volumes
        assert {name: (out / name).stat().st_mtime_ns for name in masks} == times
        (out / "a_mask.nii.gz").unlink()
        (out / "b_mask.nii.gz").write_bytes(b"half")
        shutil.copy(scans[3], scans[2])  # another scan of the same name
        found = here(*words, "--resume", "--json")
        assert found.exit_code == 1
        statuses = [case["outcome"] for case in json.loads(found.stdout)["cases"]]
        assert statuses == ["done", "failed", "done", "skipped"]
        assert "b_mask.nii.gz: exists, and is not what this tool wrote" in found.stderr
        assert "c.nii.gz: was done again, because its scan has changed" in found.stderr
        now = {name: (out / name).read_bytes() for name in masks}
        assert now == masks | {"b_mask.nii.gz": b"half", "c_mask.nii.gz": now["c_mask.nii.gz"]}
        mask_of = {name: nib.load(out / f"{name}_mask.nii.gz").get_fdata() for name in "cd"}
        assert np.array_equal(mask_of["c"], mask_of["d"])
        assert here(*words[:-2], "--force").exit_code == 0

    def test_another_bundle_or_option_is_not_believed(
        self, tiny: Path, make_bundle: Callable[..., Path], scans: list[Path], tmp_path: Path
    ) -> None:
        words = [scans[0], scans[1], "-o", tmp_path / "out", "--json"]
        other = make_bundle("other", version="2")
        assert here("predict", tiny, *words).exit_code == 0
        for bundle, more in ((other, []), (tiny, ["--apply-mask"])):
            found = json.loads(here("predict", bundle, *words, *more, "--resume").stdout)
            assert found["summary"] == {"done": 2, "failed": 0, "skipped": 0}
        found = json.loads(here("predict", tiny, *words, "--apply-mask", "--resume").stdout)
        assert found["summary"] == {"done": 0, "failed": 0, "skipped": 2}

    @pytest.mark.parametrize(
        "tail", [b'{"outcome": "do', b"[" * 100_000, b'{"a": 1}', b"\xff\x00", b'{"doubts": 3}', b"null"]
    )
    def test_what_is_no_line_of_it_proves_nothing(
        self, tiny: Path, scans: list[Path], tmp_path: Path, tail: bytes
    ) -> None:
        words = ["predict", tiny, scans[0], scans[1], "-o", tmp_path / "out", "--json", "--resume"]
        assert here(*words).exit_code == 0
        ledger = tmp_path / "out" / LEDGER
        first, _, _ = ledger.read_bytes().split(b"\n")
        ledger.write_bytes(first + b"\n" + tail)
        found = json.loads(here(*words).stdout)
        assert found["summary"] == {"done": 0, "failed": 1, "skipped": 1}  # nobody knows whose mask it is
        (tmp_path / "out" / "b_mask.nii.gz").unlink()
        found = json.loads(here(*words).stdout)
        assert found["summary"] == {"done": 1, "failed": 0, "skipped": 1}
        found = json.loads(here(*words).stdout)
        assert found["summary"] == {"done": 0, "failed": 0, "skipped": 2}

    def test_a_forged_line_is_not_believed(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        words = ["predict", tiny, scans[0], "-o", tmp_path / "out", "--json", "--resume"]
        assert here(*words).exit_code == 0
        ledger = tmp_path / "out" / LEDGER
        (entry,) = self.entries(tmp_path / "out")
        for change in ({"volumes_ml": {"brain": "many"}}, {"files": {}}, {"more": 1}, {"outcome": "failed"}):
            ledger.write_text(json.dumps({**entry, **change}) + "\n")
            found = json.loads(here(*words).stdout)
            assert found["summary"] == {"done": 0, "failed": 1, "skipped": 0}

    def test_a_mask_that_this_tool_did_not_write_is_kept(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        own = tmp_path / "out" / "a_mask.nii.gz"
        own.parent.mkdir()
        own.write_bytes(b"drawn by hand")
        words = ["predict", tiny, scans[0], scans[1], "-o", own.parent]
        assert here(*words, "--resume").exit_code == 1
        assert own.read_bytes() == b"drawn by hand"
        assert here(*words, "--resume", "--force").exit_code == 2
        assert here(*words, "--force").exit_code == 0
        assert own.read_bytes() != b"drawn by hand"

    @pytest.mark.parametrize(
        "change",
        [
            {"voxels": {}},
            {"volumes_ml": {"zz": 1.0}},
            {"volumes_ml": {"brain": 10**400}},
            {"files": {"a\0b": ""}},
            {"files": {"\ud800": ""}},
            {"files": {"../a.nii.gz": ""}},
        ],
    )
    def test_an_edited_line_ends_nothing(
        self, tiny: Path, scans: list[Path], tmp_path: Path, change: dict[str, Any]
    ) -> None:
        table = tmp_path / "t.csv"
        words = ["predict", tiny, scans[0], scans[1], "-o", tmp_path / "out", "--resume", "--volume-table", table]
        assert here(*words).exit_code == 0
        first, _ = self.entries(tmp_path / "out")
        ledger = tmp_path / "out" / LEDGER
        ledger.write_text(json.dumps({**first, **change}) + "\n" + ledger.read_text().split("\n")[1] + "\n")
        found = here(*words)
        assert "fault of this tool" not in found.stderr
        assert found.exception is None or isinstance(found.exception, SystemExit)
        assert len(rows(table)) == 2
        assert "1 skipped" in found.stderr

    def test_a_ledger_that_is_no_file_is_refused(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        os.mkfifo(tmp_path / "out" / LEDGER)
        refused = here("predict", tiny, scans[0], scans[1], "-o", tmp_path / "out")
        assert isinstance(refused.exception, InputError)
        assert "regular file" in str(refused.exception) or "pipe" in str(refused.exception)

    def test_an_output_without_a_name_is_refused(self, tiny: Path, scans: list[Path]) -> None:
        assert "the output has no name" in str(here("predict", tiny, scans[0], "-o", "").exception)

    def test_it_is_never_a_link_to_a_scan(self, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / LEDGER).symlink_to(scans[0])
        before = scans[0].read_bytes()
        done = here("predict", tiny, *scans, "-o", tmp_path / "out")
        assert "is the input" in str(done.exception)
        assert scans[0].read_bytes() == before


def test_masks_of_this_tool_are_skipped_unless_they_are_all_there_is(
    tiny: Path, scans: list[Path], tmp_path: Path
) -> None:
    folder = scans[0].parent
    assert here("predict", tiny, *scans[:2], "-o", folder, "--apply-mask").exit_code == 0
    everything = sorted(folder.glob("*.nii.gz"))
    assert len(everything) == 8
    again = here("predict", tiny, *everything, "-o", tmp_path / "out")
    assert again.exit_code == 0
    assert written(tmp_path / "out") == [f"{name}_mask.nii.gz" for name in "abcd"]
    assert len(lines(again.stderr, "note")) == 1
    assert "and 1 more: written by this tool" in again.stderr
    renamed = folder / "renamed.nii.gz"
    masked = folder / "a_mask_masked.nii.gz"
    entry = json.loads((folder / LEDGER).read_text().splitlines()[0])
    entry["files"]["renamed.nii.gz"] = "0" * 64
    (folder / LEDGER).write_text(json.dumps(entry) + "\n")
    shutil.copy(masked, renamed)
    assert (
        "renamed.nii.gz: written by this tool"
        in here("predict", tiny, scans[0], renamed, "-o", tmp_path / "named").stderr
    )
    for number, words in enumerate(([masked], [f"t1={masked}"])):
        alone = here("predict", tiny, *words, "-o", tmp_path / f"alone{number}.nii.gz")
        assert (alone.exit_code, lines(alone.stderr, "note")) == (0, [])


@pytest.mark.parametrize(
    ("name", "kind"), [("out.v2", "folder"), ("s-2024.11", "folder"), ("out.x/", "folder"), ("there.x", "folder")]
)
def test_folders_whose_names_have_dots(tiny: Path, scans: list[Path], tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "there.x").mkdir()
    assert here("predict", tiny, scans[0], "-o", f"{tmp_path}/{name}").exit_code == 0
    assert written(tmp_path / name) == ["a_mask.nii.gz"]


def test_a_name_in_capitals_is_read(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    for capital, small in (("UPPER.NII", "lower.nii"), ("UPPER.NII.GZ", "lower.nii.gz")):
        Volume.load(scans[0]).save(tmp_path / small)
        (tmp_path / small).rename(tmp_path / capital)
        assert np.array_equal(Volume.load(tmp_path / capital).data, Volume.load(scans[0]).data)
    done = here("predict", tiny, tmp_path / "UPPER.NII", scans[0], "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert written(tmp_path / "out") == ["UPPER_mask.nii.gz", "a_mask.nii.gz"]


def test_the_masked_scan_is_no_input_either(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    masked = tmp_path / "m_masked.nii.gz"
    shutil.copy(scans[0], masked)
    before = masked.read_bytes()
    done = here("predict", tiny, masked, "-o", tmp_path / "m.nii.gz", "--apply-mask", "--force")
    assert "an input is never an output" in str(done.exception)
    assert masked.read_bytes() == before
    assert not (tmp_path / "m.nii.gz").exists()
    both = here("predict", tiny, masked, "-o", tmp_path / "x.nii.gz", "--volume-table", tmp_path / "x.nii.gz")
    assert "two outputs have this name" in str(both.exception)


def test_strict_makes_doubts_a_gate(
    make_bundle: Callable[..., Path], content: Any, scans: list[Path], tmp_path: Path
) -> None:
    stage = content()["stages"][0]
    stage["decode"] = {"kind": "regions", "regions": [{"channel": 1, "threshold": 2.0, "label": 1}]}
    doubtful = make_bundle(stages=[stage])
    words = ["predict", doubtful, scans[0]]
    assert here(*words, "-o", tmp_path / "a").exit_code == 0
    assert here(*words, "-o", tmp_path / "b", "--strict").exit_code == 3
    assert written(tmp_path / "b") == ["a_mask.nii.gz"]
    assert here(*words, "-o", tmp_path / "b", "--strict", "--resume").exit_code == 3
    assert here(*words, tmp_path / "none.nii", "-o", tmp_path / "c", "--strict").exit_code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_standard_output_is_one_line(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    many = ["predict", tiny, *scans[:2], "-o", tmp_path / "out"]
    with Path("/dev/full").open("wb") as full:
        for words in (many, [*many, "--json", "--resume"], ["verify", tiny], ["--version"], ["predict", "--help"]):
            done = run(*words, stdout=full)
            (line,) = lines(done.stderr, "error")
            assert line.startswith("error: standard output: cannot be written (No space left on device)")
            assert done.returncode == 1
    assert written(tmp_path / "out") == ["a_mask.nii.gz", "b_mask.nii.gz"]


def test_a_closed_pipe_is_quiet_and_ends_nothing(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    for words in (["predict", tiny, *scans, "-o", tmp_path / "out"], ["predict", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(*words, stdout=writing)
        os.close(writing)
        assert done.returncode == 0
        assert lines(done.stderr, "error") == []
    assert len(written(tmp_path / "out")) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_keeps_what_is_done(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    scans = []
    for index in range(24):
        scans.append(tmp_path / f"{index}.nii.gz")
        data = np.random.default_rng(index).random((96, 96, 96), np.float32)
        Volume.from_array(data, np.eye(4)).save(scans[-1])
    out, table, provenance = tmp_path / "out", tmp_path / "t.csv", tmp_path / "p.json"
    words = ["predict", tiny, *scans, "-o", out, "--volume-table", table, "--provenance", provenance]
    command = [sys.executable, "-u", "-m", "lowres_seg", *map(str, words)]
    asked = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731 - a shell may have it ignored in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=asked) as child:  # noqa: PLW1509
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(bytes(out))
        child.send_signal(number)
        errors = child.stderr.read().decode()
        child.stdout.read()
    assert child.returncode == 128 + number
    assert "Traceback" not in errors
    assert "--resume goes on with them" in errors
    done = len(rows(table))
    assert 1 <= done < 24
    assert len(written(out)) == done
    assert [case["outcome"] for case in json.loads(provenance.read_text())["cases"]] == ["done"] * done
    assert [p.name for p in out.iterdir() if p.is_dir()] == []
    rest = here(*words, "--resume", "--json")
    assert json.loads(rest.stdout)["summary"] == {"done": 24 - done, "failed": 0, "skipped": done}
    assert len(rows(table)) == 24
    cases = json.loads(provenance.read_text())["cases"]
    assert [case["outcome"] for case in cases] == ["skipped"] * done + ["done"] * (24 - done)
    assert all(set(case["inputs"]) == {"t1"} and set(case["outputs"]) == {"mask"} for case in cases)


def test_two_processes_that_write_one_mask(tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lowres_seg", "predict", tiny, scans[0], "-o", tmp_path / "m.nii.gz"]
    both = [subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1]
    assert b"exists already" in said[codes.index(1)]
    assert nib.load(tmp_path / "m.nii.gz").get_fdata().any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "m.nii.gz", "tiny"]
