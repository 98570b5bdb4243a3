"""No command of the workstation reaches for a network, or repeats what a header says.

None writes beside its outputs and its cache, and with --no-cache none writes beside its outputs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lowres_seg import Volume

PATIENT = "DOE^JANE"
#: Runs the command line under an audit hook that writes down every socket that Python makes.
WITHOUT_SOCKETS = """
import sys
made = []
sys.addaudithook(lambda event, arguments: made.append(event) if event.startswith("socket.") else None)
sys.argv = ["lowres-seg", *sys.argv[1:]]
from lowres_seg.cli import main
try:
    main()
finally:
    print(made, file=sys.stderr)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a home, a folder for temporary files and a working folder, all empty."""
    for name in ("home", "temporary", "work", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name.lower()))
    monkeypatch.delenv("LOWRES_SEG_CACHE")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.fixture
def scan(place: Path, lopsided: Callable[..., Volume]) -> Path:
    """A scan whose header names a patient wherever it can."""
    volume = lopsided()
    image = nib.Nifti1Image(volume.data, volume.grid.affine)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = PATIENT.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
    image.to_filename(place / "head.nii")
    return place / "head.nii"


def run(place: Path, *words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "lowres_seg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=place / "work")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def words(tiny: Path, scan: Path, out: Path) -> list[object]:
    """`predict` with all that it can write."""
    more = ["--volume-table", out / "v.csv", "--provenance", out / "p.json", "--apply-mask", "--json"]
    return ["predict", tiny, scan, "-o", out / "masks", *more]


def test_it_runs_in_a_namespace_without_interfaces(tiny: Path, scan: Path, place: Path) -> None:
    alone = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode != 0:
        pytest.skip("this system makes no namespaces of networks")
    links = subprocess.run([*alone, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^ *(\w+):", links, re.MULTILINE) == ["lo"]
    for name, before in (("with", ()), ("without", alone)):
        done = run(place, "predict", tiny, scan, "-o", place / "out" / f"{name}.nii", before=before)
        assert done.returncode == 0, done.stderr
    assert (place / "out" / "with.nii").read_bytes() == (place / "out" / "without.nii").read_bytes()


def test_no_socket_is_made(tiny: Path, scan: Path, place: Path) -> None:
    for command in (words(tiny, scan, place / "out"), ["verify", tiny], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_SOCKETS, *map(str, command)], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("option", [[], ["--no-cache"]])
def test_the_system_is_asked_for_no_socket_and_for_no_other_file(
    tiny: Path, scan: Path, place: Path, option: list[str]
) -> None:
    """Also by what is no Python: every call to the system is traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed here")
    calls = place / "calls"
    tracer = (
        "strace",
        "-f",
        "-qq",
        "-o",
        str(calls),
        "-e",
        "trace=%network,open,openat,creat,mkdir,rename,link,symlink",
    )
    done = run(place, *words(tiny, scan, place / "out"), *option, before=tracer)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("this system lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    lines = [line for line in calls.read_text(errors="replace").splitlines() if "ENOENT" not in line]
    assert any("head.nii" in line for line in lines)
    assert [line for line in lines if re.search(r" (socket|connect|bind|send\w*|recv\w*)\(", line)] == []
    changes = r"O_WRONLY|O_RDWR|O_CREAT| (creat|mkdir|mkdirat|rename\w*|link|linkat|symlink\w*|mknod\w*|truncate)\("
    made = [line for line in lines if re.search(changes, line)]
    assert made
    allowed = (str(place / "out"), "/dev/null", "/proc/self/", *([] if option else [str(place / "home" / "cache")]))
    elsewhere = [path for line in made for path in re.findall(r'"([^"]*)"', line)[:1] if not path.startswith(allowed)]
    # What is tried for, and removed at once, lies in the folder for temporary files.
    assert [path for path in elsewhere if not path.startswith(str(place / "temporary"))] == []


@pytest.mark.parametrize("option", [[], ["--no-cache"]])
def test_nothing_is_left_beside_the_outputs_and_the_cache(
    tiny: Path, scan: Path, place: Path, option: list[str]
) -> None:
    before = files(place)
    assert run(place, *words(tiny, scan, place / "out"), *option).returncode == 0
    assert run(place, "verify", tiny, *option).returncode == 0
    assert run(place, "doctor").returncode == 0
    assert run(place, "predict", tiny, place / "gone.nii", "-o", place / "out" / "m.nii", *option).returncode == 1
    masks = [f"out/masks/{name}" for name in (".lowres-seg.jsonl", "head_mask.nii.gz", "head_mask_masked.nii.gz")]
    cache = {path for path in files(place) - before if path.startswith("home/cache")}
    assert files(place) - before - cache == {"out/masks", "out/v.csv", "out/p.json", *masks}
    if option:
        assert cache == set()
    else:
        assert len(cache) == 4  # the user's folder for such things, two folders of this program, one network
        assert {path.rpartition(".")[2] for path in cache if (place / path).is_file()} == {"compiled"}


def test_nothing_that_is_written_or_said_repeats_a_header(tiny: Path, scan: Path, place: Path) -> None:
    assert scan.read_bytes().count(PATIENT.encode()) == 5
    broken = scan.with_name("broken.nii")
    raw = bytearray(scan.read_bytes())
    raw[252:256] = (2).to_bytes(2, "little") + (77).to_bytes(2, "little")  # forms that the format does not define
    broken.write_bytes(raw)
    cut = scan.with_name("cut.nii")
    cut.write_bytes(scan.read_bytes()[:-1000])
    command = ["--debug", *words(tiny, scan, place / "out"), broken, cut, "--verbose"]
    done = run(place, *command)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "sform_code of its header is 77" in done.stdout
    assert PATIENT not in done.stdout + done.stderr
    written = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len(written) == 7
    for path in written:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            image = nib.load(path)
            content = image.header.binaryblock + np.asanyarray(image.dataobj).tobytes()
            assert len(image.header.extensions) == 0
        assert PATIENT.encode() not in content, path
