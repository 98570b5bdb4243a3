"""Bundles that are signed, and runs that require it. openssl is the oracle: it makes and checks the same signatures."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Bundle, InputError, IntegrityError, Segmenter, Volume
from lowres_seg.bundle import signature

pytest.importorskip("cryptography")


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )


def openssl(*words: object) -> bytes:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True).stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public one lies beside it."""
    signature.new_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("key.pem.pub")


@pytest.fixture
def signed(tiny: Path, key: Path) -> Path:
    assert run("sign", tiny, "--key", key).returncode == 0
    return tiny


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    lopsided().save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


def test_a_new_pair_is_private_and_is_what_openssl_reads(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    before = os.umask(0)
    try:
        done = run("sign", "--new-key", key, "--json")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = key.with_name("key.pem.pub")
    assert openssl("pkey", "-pubout", "-in", key) == public.read_bytes()
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    (tmp_path / "der").write_bytes(der)
    assert json.loads(done.stdout)["key"] == openssl("dgst", "-sha256", "-r", tmp_path / "der").decode().split()[0]
    content = key.read_bytes()
    again = run("sign", "--new-key", key, "--force")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "exists already, and a key is never replaced; choose another name, or remove it" in again.stderr
    assert key.read_bytes() == content
    key.unlink()
    again = run("sign", "--new-key", key)
    assert "key.pem.pub: exists already, and a key is never replaced" in again.stderr
    assert not key.exists()


def test_openssl_checks_what_sign_wrote_and_verify_takes_what_openssl_signs(tiny: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "o.pem", tmp_path / "o.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    assert run("sign", tiny, "--key", key).returncode == 0
    manifest, made = tiny / "manifest.json", tiny / "manifest.sig"
    words = ["-pubin", "-inkey", public, "-rawin", "-in", manifest, "-sigfile", made]
    assert b"Verified Successfully" in openssl("pkeyutl", "-verify", *words)
    openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", manifest, "-out", tmp_path / "theirs")
    assert (tmp_path / "theirs").read_bytes() == made.read_bytes()
    done = run("verify", tiny, "--require-key", public)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"signed by the key {signature.key_identity(public)[:16]}" in done.stdout


def test_a_signed_bundle_gives_the_same_mask(signed: Path, public: Path, scan: Path, tmp_path: Path) -> None:
    assert run("predict", signed, scan, "-o", tmp_path / "a.nii", "--require-key", public).returncode == 0
    assert run("predict", signed, scan, "-o", tmp_path / "b.nii", LOWRES_SEG_REQUIRE_KEY=str(public)).returncode == 0
    assert run("predict", signed, scan, "-o", tmp_path / "c.nii").returncode == 0
    assert len({(tmp_path / f"{name}.nii").read_bytes() for name in "abc"}) == 1
    assert json.loads(run("verify", signed, "--json").stdout)["signed_by"] is None
    found = json.loads(run("verify", signed, "--json", "--require-key", public).stdout)["signed_by"]
    assert found == signature.key_identity(public)


def unsigned(bundle: Path) -> None:
    (bundle / "manifest.sig").unlink()


def changed(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"tiny"', b'"tine"'))


def damaged(bundle: Path) -> None:
    found = bytearray((bundle / "manifest.sig").read_bytes())
    found[7] ^= 1
    (bundle / "manifest.sig").write_bytes(found)


def resized(size: int) -> Callable[[Path], None]:
    return lambda bundle: (
        (bundle / "manifest.sig").write_bytes(((bundle / "manifest.sig").read_bytes() * 2)[:size]) and None
    )


def linked(bundle: Path) -> None:
    (bundle / "manifest.sig").rename(bundle.with_name("elsewhere.sig"))
    (bundle / "manifest.sig").symlink_to(bundle.with_name("elsewhere.sig"))


def a_pipe(bundle: Path) -> None:
    (bundle / "manifest.sig").unlink()
    os.mkfifo(bundle / "manifest.sig")


def another(bundle: Path) -> None:
    signature.new_key(bundle.with_name("mallory.pem"))
    assert run("sign", bundle, "--key", bundle.with_name("mallory.pem"), "--force").returncode == 0


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "unsigned": (unsigned, "is not signed, expected a manifest.sig"),
    "another key": (another, "is no signature by"),
    "changed manifest": (changed, "is no signature by"),
    "changed signature": (damaged, "is no signature by"),
    "truncated": (resized(63), "has 63 bytes, expected the 64"),
    "empty": (resized(0), "has 0 bytes, expected the 64"),
    "longer": (resized(65), "has more than 64 bytes, expected the 64"),
    "a link": (linked, "expected a plain file"),
    "a pipe": (a_pipe, "expected a plain file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_key_has_not_signed_is_refused(signed: Path, public: Path, case: str) -> None:
    change, message = REFUSED[case]
    change(signed)
    with pytest.raises(IntegrityError, match=message) as refused:
        Segmenter.load(signed, require_key=public)
    assert "\n" not in str(refused.value)
    if case != "changed manifest":
        Segmenter.load(signed)  # nobody asked for a signature


@pytest.mark.parametrize("command", ["predict", "verify", "quantize", "bench"])
@pytest.mark.parametrize("case", ["unsigned", "another key"])
def test_every_command_that_loads_a_bundle_obeys(
    signed: Path, public: Path, scan: Path, tmp_path: Path, command: str, case: str
) -> None:
    REFUSED[case][0](signed)
    (tmp_path / "cases.csv").write_text(f"t1,label\n{scan},{scan}\n")
    out, table = tmp_path / "out.nii.gz", tmp_path / "cases.csv"
    words = {
        "predict": [signed, scan, "-o", out],
        "verify": [signed],
        "quantize": [signed, "--calibrate", table, "--validate", table, "-o", out],
        "bench": [signed, "--scan", scan, "-o", tmp_path / "suite.json"],
    }[command]
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(command, *words, LOWRES_SEG_REQUIRE_KEY=str(public))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, ""), done.stderr
    assert REFUSED[case][1] in done.stderr
    if command in ("predict", "verify"):
        done = run(command, *words, "--require-key", public)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert REFUSED[case][1] in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_with_a_required_key_no_compiled_network_is_taken(
    signed: Path, public: Path, scan: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    required = ["--require-key", public]
    for number, (words, kept) in enumerate(((required, 0), ([], 1), (required, 1))):
        done = run("predict", signed, scan, "-o", tmp_path / f"{number}.nii", *words, LOWRES_SEG_CACHE=str(cache))
        assert done.returncode == 0, done.stderr
        assert len(list(cache.glob("*.compiled"))) == kept
        for file in cache.glob("*.compiled"):  # whoever looks at it now finds damage, and drops it
            file.write_bytes(b"by somebody else")
    assert [file.read_bytes() for file in cache.glob("*.compiled")] == [b"by somebody else"]


def test_a_file_that_is_no_public_key_is_refused(signed: Path, key: Path, public: Path, tmp_path: Path) -> None:
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", tmp_path / "rsa.pem")
    openssl("pkey", "-in", tmp_path / "rsa.pem", "-pubout", "-out", tmp_path / "rsa.pub")
    (tmp_path / "two.pub").write_bytes(public.read_bytes() * 2)
    (tmp_path / "cut.pub").write_bytes(public.read_bytes().replace(b"MCow", b"MCo"))
    (tmp_path / "ssh.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDk4")
    (tmp_path / "large.pub").write_bytes(public.read_bytes() + bytes(1 << 20))
    (tmp_path / "folder.pub").mkdir()
    for path, message in {
        key: "is a private key, expected the public one",
        tmp_path / "rsa.pem": "is a private key, expected the public one",
        tmp_path / "rsa.pub": "expected Ed25519",
        tmp_path / "two.pub": "holds 2 blocks of PEM, expected one public key",
        tmp_path / "cut.pub": "is no public key in PEM",
        tmp_path / "ssh.pub": "holds 0 blocks of PEM, expected one public key",
        tmp_path / "large.pub": "has more than 16384 bytes",
        tmp_path / "none.pub": "cannot be read",
        tmp_path / "folder.pub": "cannot be read",
        Path(): "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message) as refused:
            Bundle.open(signed, require_key=path)
        assert "\n" not in str(refused.value)
    for value in ("", " "):
        done = run("verify", signed, LOWRES_SEG_REQUIRE_KEY=value)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "LOWRES_SEG_REQUIRE_KEY: is empty" in done.stderr


def test_a_key_that_cannot_sign_is_refused_and_nothing_is_written(
    tiny: Path, key: Path, public: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:secret", "-v2", "aes256")
    openssl("genpkey", "-algorithm", "X25519", "-out", tmp_path / "x.pem")
    for path, message in {
        public: "is a public key, expected the private one",
        locked: "is protected by a passphrase",
        tmp_path / "x.pem": "expected Ed25519",
        tmp_path / "none.pem": "cannot be read",
    }.items():
        done = run("sign", tiny, "--key", path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert message in done.stderr
    assert not (tiny / "manifest.sig").exists()
    plain = openssl("pkey", "-in", locked, "-passin", "pass:secret")
    command = [sys.executable, "-m", "lowres_seg", "sign", str(tiny), "--key", "/dev/stdin"]
    piped = subprocess.run(command, input=plain, capture_output=True, check=False)
    assert piped.returncode == 0, piped.stderr
    assert Bundle.open(tiny, require_key=public).signed_by == signature.key_identity(public)


def test_what_has_changed_is_not_signed(tiny: Path, key: Path) -> None:
    weights = tiny / "networks" / "net.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    done = run("sign", tiny, "--key", key)
    assert done.returncode == 1
    assert "net.bin: has changed" in done.stderr
    assert not (tiny / "manifest.sig").exists()


def test_a_signature_is_replaced_with_force_alone(signed: Path, public: Path, tmp_path: Path) -> None:
    signature.new_key(tmp_path / "second.pem")
    done = run("sign", signed, "--key", tmp_path / "second.pem")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "exists already" in done.stderr
    assert Bundle.open(signed, require_key=public)
    assert run("sign", signed, "--key", tmp_path / "second.pem", "--force").returncode == 0
    assert Bundle.open(signed, require_key=tmp_path / "second.pem.pub")
    assert sorted(path.name for path in signed.iterdir()) == [
        "manifest.json",
        "manifest.sig",
        "networks",
        "reference.npz",
    ]


def test_what_is_signed_is_what_is_parsed(signed: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that is exchanged right after its signature was checked does not count."""
    theirs = signature.check

    def exchanged(folder: Path, manifest: bytes, key: Path) -> str:
        found = theirs(folder, manifest, key)
        changed(signed)
        return found

    monkeypatch.setattr(signature, "check", exchanged)
    assert Bundle.open(signed, require_key=public).manifest.name == "tiny"
    assert b'"tine"' in (signed / "manifest.json").read_bytes()


@pytest.mark.parametrize("lean", [False, True])
def test_a_network_that_is_exchanged_after_the_check_is_not_compiled(
    signed: Path, public: Path, lopsided: Callable[..., Volume], lean: bool
) -> None:
    weights = signed / "networks" / "net.bin"
    bundle = Bundle.open(signed, require_key=public)
    before = weights.read_bytes()
    weights.write_bytes(bytes(len(before)))
    with pytest.raises(IntegrityError, match=r"net\.bin: has changed"):
        Segmenter.load(bundle, require_key=public, lean=lean)
    weights.write_bytes(before)
    segmenter = Segmenter.load(bundle, require_key=public, lean=lean)
    weights.write_bytes(bytes(len(before)))
    if lean:  # which compiles when it runs
        with pytest.raises(IntegrityError, match=r"net\.bin: has changed"):
            segmenter.predict(lopsided())
    else:
        assert np.count_nonzero(segmenter.predict(lopsided()).labels.data) > 0


def test_an_opened_bundle_keeps_what_was_required_of_it(
    signed: Path, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IntegrityError, match="opened without a check of its signature"):
        Segmenter.load(Bundle.open(signed), require_key=public)
    signature.new_key(tmp_path / "second.pem")
    with pytest.raises(IntegrityError, match="opened without a check of its signature by .*second"):
        Segmenter.load(Bundle.open(signed, require_key=public), require_key=tmp_path / "second.pem.pub")
    assert Segmenter.load(Bundle.open(signed, require_key=public), require_key=public)
    unchecked = Bundle.open(signed)
    monkeypatch.setenv("LOWRES_SEG_REQUIRE_KEY", str(tmp_path / "second.pem.pub"))
    with pytest.raises(IntegrityError, match="is no signature by"):
        Bundle.open(signed)
    with pytest.raises(IntegrityError, match="opened without a check of its signature"):
        Segmenter.load(unchecked)
    assert Segmenter.load(Bundle.open(signed, require_key=public))  # the argument comes before the variable


def test_provenance_has_the_key_that_was_required(signed: Path, public: Path, scan: Path, tmp_path: Path) -> None:
    for name, words in (("with", ["--require-key", public]), ("without", [])):
        provenance = tmp_path / f"{name}.json"
        done = run("predict", signed, scan, "-o", tmp_path / f"{name}.nii", "--provenance", provenance, *words)
        assert done.returncode == 0, done.stderr
        found = json.loads(provenance.read_text())["bundle"]["signed_by"]
        assert found == (signature.key_identity(public) if words else None)
    before = public.read_bytes()
    words = ["-o", tmp_path / "m.nii", "--require-key", public, "--provenance", public, "--force"]
    done = run("predict", signed, scan, *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is the input" in done.stderr
    assert public.read_bytes() == before


def test_a_signed_bundle_is_measured_by_other_processes(signed: Path, public: Path, tmp_path: Path) -> None:
    words = ["--what", "network", "--backend", "openvino", "--passes", 1, "--rounds", 1, "--no-pictures"]
    done = run("bench", signed, *words, "-o", tmp_path / "s.json", LOWRES_SEG_REQUIRE_KEY=str(public))
    assert done.returncode == 0, done.stderr
