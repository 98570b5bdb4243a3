from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lowres_seg import Bundle, BundleError, IntegrityError, ManifestError, Segmenter
from lowres_seg.bundle import bundle as bundles


def test_opens(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert bundle.manifest.name == "tiny"
    assert bundle.digest == bundles.file_sha256(tiny / "manifest.json")


@pytest.mark.parametrize("name", ["networks/net.xml", "networks/net.bin", "reference.npz"])
def test_every_changed_byte_is_seen(tiny: Path, name: str) -> None:
    raw = bytearray((tiny / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tiny / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=f"{name}: has changed"):
        Segmenter.load(tiny)


def test_a_missing_file_is_seen(tiny: Path) -> None:
    (tiny / "networks" / "net.bin").unlink()
    with pytest.raises(IntegrityError, match=r"net\.bin is missing"):
        Bundle.open(tiny)


def test_a_link_out_of_the_bundle_is_refused(tiny: Path, tmp_path: Path) -> None:
    weights = tiny / "networks" / "net.bin"
    weights.rename(tmp_path / "elsewhere.bin")
    weights.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(IntegrityError, match="leads outside"):
        Bundle.open(tiny)


def test_a_newer_schema_is_named(tiny: Path) -> None:
    path = tiny / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 4}))
    with pytest.raises(ManifestError, match="schema version 4, this lowres-seg reads 1 to 3; install a newer"):
        Bundle.open(tiny)


@pytest.mark.parametrize(
    ("make", "found"), [(None, "does not exist"), ("file", "is a file"), ("folder", "is a folder")]
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, make: str | None, found: str) -> None:
    path = tmp_path / "x"
    if make == "file":
        path.write_text("")
    elif make == "folder":
        path.mkdir()
    with pytest.raises(BundleError, match=f"{found}.*expected a bundle"):
        Bundle.open(path)


def test_a_bundle_may_lie_behind_a_link_and_hold_stray_files(tiny: Path, tmp_path: Path) -> None:
    (tiny / ".DS_Store").write_text("x")
    (tmp_path / "link").symlink_to(tiny)
    assert Bundle.open(tmp_path / "link").manifest.name == "tiny"


def test_what_is_staged_must_be_a_bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    make_bundle()
    with pytest.raises(BundleError), bundles.staged(tmp_path / "new") as staging:
        (staging.folder / "manifest.json").write_text("{}")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
