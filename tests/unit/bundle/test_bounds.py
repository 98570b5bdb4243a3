"""What a manifest may not say, and what may not lie in a bundle: refused at load, in one line, within a second."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile import refused, write_manifest
from lowres_seg import Bundle, Manifest, Segmenter
from lowres_seg.bundle import bounds

Change = Callable[[dict[str, Any]], object]


def only(m: dict[str, Any], **changes: Any) -> None:
    m["stages"][0].update(changes)


def windowed(m: dict[str, Any], **changes: Any) -> None:
    only(m, windows={"roi_size": [16, 16, 16], "rules": "monai", **changes})


def many(m: dict[str, Any], count: int) -> None:
    m["stages"] = [{**m["stages"][0], "name": f"s{index}"} for index in range(count)]


CHANGES: dict[str, tuple[Change, str]] = {
    "thousand stages": (lambda m: many(m, 1000), "stages: .*at most 32"),
    "stages of many networks": (
        lambda m: (many(m, 20), [s.update(networks=["net"] * 10) for s in m["stages"]]),
        "run 200 networks; expected at most 128",
    ),
    "overlap": (lambda m: windowed(m, overlap=0.9999), "overlap.*0.9999"),
    "overlap of an axis": (lambda m: windowed(m, overlap=[0, 0, 0.99]), "overlap"),
    "huge shape": (lambda m: only(m, conform={"shape": [10**9] * 3}), "less than or equal to 4096"),
    "large shape": (lambda m: only(m, conform={"shape": [4000] * 3}), "expected at most 268435456 voxels"),
    "huge window": (lambda m: windowed(m, roi_size=[10**7] * 3), "roi_size"),
    "large window": (lambda m: windowed(m, roi_size=[2048] * 3), "expected at most 268435456 voxels"),
    "huge padding": (lambda m: only(m, conform={"shape": [16] * 3, "at_least": [10**9] * 3}), "at_least"),
    "tiny spacing": (lambda m: only(m, conform={"shape": [16] * 3, "spacing_mm": [1e-300] * 3}), "spacing_mm"),
    "many channels": (lambda m: m.update(channels=[f"c{i}" for i in range(3000)]), "channels: .*at most 32"),
    "many labels": (
        lambda m: m.update(labels=[{"value": 1, "name": f"l{i}"} for i in range(4000)]),
        "labels: .*at most 255",
    ),
    "many rules": (
        lambda m: only(m, normalise={"rules": [{"rule": "affine"}] * 4000}),
        "rules: .*at most 64",
    ),
    "many clean-ups": (lambda m: only(m, cleanup=[{"rule": "fill-holes"}] * 4000), "cleanup: .*at most 64"),
    "many regions": (
        lambda m: only(m, decode={"kind": "regions", "regions": [{"channel": 1, "label": 1}] * 4000}),
        "regions: .*at most 1024",
    ),
    "many members": (lambda m: only(m, networks=["net"] * 4000), "networks: .*at most 128"),
    "many networks": (
        lambda m: m.update(networks={f"n{i}": m["networks"]["net"] for i in range(5000)}),
        "5000 items",
    ),
    "many files": (lambda m: m["files"].update({f"f{i}": "0" * 64 for i in range(9000)}), "items in one list"),
    "many mirrors": (lambda m: only(m, mirror_axes=[0, 1, 2] * 900), "mirror_axes"),
    "channel twice": (lambda m: m.update(channels=["t1", "t1"]), "channel t1 is there twice"),
    "channel of a rule twice": (
        lambda m: only(m, normalise={"rules": [{"rule": "affine", "channels": ["t1", "t1"]}]}),
        "stage only: channel t1 is there twice",
    ),
    "label value twice": (
        lambda m: m.update(labels=[{"value": 1, "name": "a"}, {"value": 1, "name": "b"}]),
        "label value 1 is there twice",
    ),
    "label name twice": (
        lambda m: m.update(labels=[{"value": 1, "name": "a"}, {"value": 2, "name": "a"}]),
        "label a is there twice",
    ),
    "region twice": (lambda m: m.update(regions=[{"name": "r", "labels": [1]}] * 2), "region r is there twice"),
    "class twice": (lambda m: only(m, decode={"kind": "classes", "names": ["a", "a"]}), "class a is there twice"),
    "channel of scores": (
        lambda m: only(m, decode={"kind": "regions", "regions": [{"channel": 2, "label": 1}]}),
        "decodes channel 2; expected less than 2",
    ),
    "labels too few": (
        lambda m: (
            m["networks"]["net"].update(output_shape=[1, 3, 16, 16, 16])
            or only(m, decode={"kind": "argmax", "labels": [0, 1]})
        ),
        "names 2 channels; expected 3",
    ),
    "scores of another grid": (
        lambda m: m["networks"]["net"].update(output_shape=[1, 2, 8, 8, 8]),
        r"gives scores \[1, 2, 8, 8, 8\]",
    ),
    "input shape": (
        lambda m: (
            only(m, conform={"shape": [8] * 3, "interpolation": "nearest"}),
            m["networks"]["net"].update(input_shape=[1, 1, 8, 8, 8], output_shape=[1, 2, 8, 8, 8]),
        ),
        "takes and gives 1×1×16×16×16 → 1×2×16×16×16, the manifest says 1×1×8×8×8 → 1×2×8×8×8",
    ),
    "channels of the scores": (
        lambda m: m["networks"]["net"].update(output_shape=[1, 3, 16, 16, 16]),
        "→ 1×2×16×16×16, the manifest says 1×1×16×16×16 → 1×3×16×16×16",
    ),
    "empty shape": (lambda m: m["networks"]["net"].update(output_shape=[]), "output_shape"),
    "listed run": (lambda m: m["files"].update({"reports/run.json": "0" * 64}), "none that a manifest lists"),
    "listed signature": (lambda m: m["files"].update({"manifest.sig": "0" * 64}), "none that a manifest lists"),
    "listed manifest": (lambda m: m["files"].update({"manifest.json": "0" * 64}), "none that a manifest lists"),
    "listed hidden file": (lambda m: m["files"].update({"a/.b/c": "0" * 64}), "none that a manifest lists"),
    "odd path": (lambda m: m["files"].update({"networks//x": "0" * 64}), "expected 'networks/x'"),
    "long path": (lambda m: m["files"].update({"a/" * 900: "0" * 64}), "files"),
    "long name": (lambda m: m.update(name="a" * 9000), "name: .*at most 64"),
    "long text": (lambda m: m.update(description="a" * 90_000), "string of 90000 characters"),
    "long key": (lambda m: m.update({"k" * 9000: 1}), "no such key"),
    "key of several lines": (lambda m: m.update({"a\nb\x1b[2J\u2028": 1}), "no such key"),
    "value of several lines": (lambda m: m.update(name="a\nb\x1b[2J"), "name"),
    "half a surrogate": (lambda m: m.update(description="\ud800"), "surrogate"),
    "half a surrogate as a key": (lambda m: m.update({"\ud800": 1}), "surrogate"),
    "schema version": (lambda m: m.update(schema_version="x" * 9000), "schema version"),
    "large number": (lambda m: m["reference"].update(max_abs_diff=10**40), "expected at most 2\\^53"),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("lean", [False, True])
def test_a_manifest_that_says_too_much_or_a_thing_twice_is_refused(tiny: Path, case: str, lean: bool) -> None:
    change, message = CHANGES[case]
    write_manifest(tiny, change)
    with refused(match=message):
        Segmenter.load(tiny, threads=1, lean=lean)


TEXTS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "deep lists": (lambda m: "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": (lambda m: '{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
    "deep within": (lambda m: m.replace('"tests"', "[" * 500 + "]" * 500), "nested too deeply"),
    "just too deep": (lambda m: m.replace('"tests"', "[" * 33 + "]" * 33), "nested too deeply"),
    "open brackets": (lambda m: "[" * 1_000_000, "nested too deeply|not JSON"),
    "infinite": (lambda m: m.replace("0.001", "1e400"), "1e400.*no float64"),
    "minus infinite": (lambda m: m.replace("0.001", "-1e400"), "no float64"),
    "NaN": (lambda m: m.replace("0.001", "NaN"), "value NaN"),
    "Infinity": (lambda m: m.replace("0.001", "-Infinity"), "value -Infinity"),
    "digits": (lambda m: m.replace("0.001", "9" * 900_000), "expected at most 2"),
    "twice": (lambda m: m.replace('"name"', '"name": "other", "name"', 1), "the key 'name' twice"),
    "large": (lambda m: m + " " * (100 << 20), "more than 1048576 bytes"),
    "other encoding": (lambda m: m.encode("utf-16"), "UTF-8"),
    "not text": (lambda m: os.urandom(900_000), "UTF-8|not JSON"),
    "empty": (lambda m: "", "not JSON"),
    "many small values": (lambda m: "[" + ",".join(["[]"] * 300_000) + "]", "300000 items"),
    "wide tree": (lambda m: "[" + ",".join(["[" + "0," * 4000 + "0]"] * 100) + "]", "expected a JSON object"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_manifest_that_is_no_plain_json_is_refused(tiny: Path, case: str) -> None:
    change, message = TEXTS[case]
    path = tiny / "manifest.json"
    text = change(path.read_text(encoding="utf-8"))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused(match=message):
        Segmenter.load(tiny, threads=1)


def test_a_manifest_within_the_bounds_is_read(content: Callable[..., dict[str, Any]]) -> None:
    text = json.dumps(content(description="é" * bounds.TEXT, source=' \\ " { [ '))
    assert len(Manifest.parse(text, where="m").description) == bounds.TEXT


def stray(tiny: Path) -> None:
    (tiny / "networks" / "evil.so").write_bytes(b"")


def moved(tiny: Path) -> None:
    (tiny / "networks").rename(tiny / "nets")


def fifo(tiny: Path) -> None:
    (tiny / "reference.npz").unlink()
    os.mkfifo(tiny / "reference.npz")


def stray_fifo(tiny: Path) -> None:
    os.mkfifo(tiny / "pipe")


def listens(tiny: Path) -> None:
    here = Path.cwd()
    os.chdir(tiny)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("server")
    os.chdir(here)


def to_itself(tiny: Path) -> None:
    (tiny / "reference.npz").unlink()
    (tiny / "reference.npz").symlink_to("reference.npz")


def to_the_bundle(tiny: Path) -> None:
    (tiny / "networks" / "again").symlink_to(tiny)


def to_a_file_within(tiny: Path) -> None:
    (tiny / "reference.npz").rename(tiny / ".reference")
    (tiny / "reference.npz").symlink_to(".reference")


def folder_behind_a_link(tiny: Path) -> None:
    shutil.move(tiny / "networks", tiny.parent / "elsewhere")
    (tiny / "networks").symlink_to(tiny.parent / "elsewhere")


def hard_link(tiny: Path) -> None:
    os.link(tiny / "reference.npz", tiny.parent / "other-name")


def hard_link_within(tiny: Path) -> None:
    os.link(tiny / "reference.npz", tiny / ".other-name")


def folder(tiny: Path) -> None:
    (tiny / "reference.npz").unlink()
    (tiny / "reference.npz").mkdir()


def stray_folder(tiny: Path) -> None:
    (tiny / "cache" / "deep").mkdir(parents=True)


def sparse(tiny: Path) -> None:
    with (tiny / "networks" / "net.bin").open("r+b") as stream:
        stream.truncate(5 << 40)


def sparse_xml(tiny: Path) -> None:
    with (tiny / "networks" / "net.xml").open("r+b") as stream:
        stream.truncate(1 << 30)


def manifest_is_a_link(tiny: Path) -> None:
    (tiny / "manifest.json").rename(tiny / ".m")
    (tiny / "manifest.json").symlink_to(".m")


def manifest_is_a_link_to_itself(tiny: Path) -> None:
    (tiny / "manifest.json").unlink()
    (tiny / "manifest.json").symlink_to("manifest.json")


def manifest_is_a_fifo(tiny: Path) -> None:
    (tiny / "manifest.json").unlink()
    os.mkfifo(tiny / "manifest.json")


def odd_name(tiny: Path) -> None:
    (tiny / os.fsdecode(b"a\xff\nb\x1b[2J")).write_text("")


FOLDERS: dict[Callable[[Path], None], str] = {
    stray: r"does not list the file 'networks/evil.so'; remove it",
    moved: r"lists no file in 'nets'; remove it",
    fifo: "'reference.npz' is a device",
    stray_fifo: "'pipe' is a device",
    listens: "'server' is a device",
    to_itself: "'reference.npz' is a link",
    to_the_bundle: "'networks/again' is a link",
    to_a_file_within: "'reference.npz' is a link within the bundle",
    folder_behind_a_link: "'networks' is a link that leads outside the bundle",
    hard_link: "reference.npz is a hard link",
    hard_link_within: "reference.npz is a hard link",
    folder: "lists no file in 'reference.npz'",
    stray_folder: "lists no file in 'cache'",
    sparse: "expected at most 4294967296",
    sparse_xml: "expected at most 67108864",
    manifest_is_a_link: "is a link",
    manifest_is_a_link_to_itself: "is a link",
    manifest_is_a_fifo: "that is no plain file",
    odd_name: "does not list the file",
}


@pytest.mark.parametrize("change", FOLDERS)
def test_what_no_manifest_lists_is_refused_by_name(tiny: Path, change: Callable[[Path], None]) -> None:
    change(tiny)
    with refused(match=FOLDERS[change]):
        Bundle.open(tiny)


def test_run_times_signatures_and_hidden_files_are_neither_needed_nor_trusted(tiny: Path) -> None:
    digest = Bundle.open(tiny).digest
    (tiny / "reports").mkdir()
    (tiny / "reports" / "run.json").write_text("no JSON")
    (tiny / "manifest.sig").write_bytes(os.urandom(64))
    (tiny / ".DS_Store").write_bytes(os.urandom(64))
    (tiny / "networks" / "._net.xml").symlink_to("/dev/zero")
    (tiny / ".git" / "objects").mkdir(parents=True)
    (tiny / ".git" / "objects" / "x").write_text("")
    assert Bundle.open(tiny).digest == digest
    (tiny / "reports" / "run.json").unlink()
    (tiny / "reports" / "run.json").symlink_to("run.json")
    assert Bundle.open(tiny).digest == digest
    shutil.rmtree(tiny / "reports")
    (tiny / "manifest.sig").unlink()
    (tiny / "manifest.sig").mkdir()
    assert Bundle.open(tiny).digest == digest


def test_the_documentation_names_every_bound(checkout: Path) -> None:
    page = (checkout / "docs" / "bundle.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| [^|]+ \| `([A-Z_]+)` \| ([^|]+) \|$", page, re.MULTILINE))
    named = {name: value for name, value in vars(bounds).items() if name.isupper()}
    assert set(rows) == set(named)
    for name, value in named.items():
        told = rows[name].strip()
        powers = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
        number, _, unit = told.replace(",", "").partition(" ")
        base, _, power = number.partition("^")
        found = float(base) ** int(power or 1) * powers.get(unit, 1)
        assert found == value, name
