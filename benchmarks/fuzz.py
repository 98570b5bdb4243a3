"""Mutated scans and manifests: how many are read, how many refused, and whether anything else comes out.

    .venv-dev/bin/python benchmarks/fuzz.py [--share 1.0] [--seed 0] [--only KIND ...] [-o results/fuzz.json]

Each kind of input runs in a process of its own, so that a crash would be seen and peak memory is the kind's own. What
comes out of an input is a volume or a bundle that opens, or an error of this project in one line of at most 1500
characters. Anything else is counted, printed and ends the script with exit code 1: another exception, a warning,
several lines, a damaged file that is read as another scan, an input that takes longer than a second. All values of all
bytes of a NIfTI-1 header are tried, and all bits of a gzip stream; ``--share`` takes a random share. A kind that is not
tried keeps its row. About ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from lowres_seg import InputError, Volume

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "fuzz.json"
#: Seconds of this thread within which an input is read or refused, and characters of an error.
SECONDS, CHARACTERS = 1.0, 1500
#: Mutated manifests at a share of 1.
MANIFESTS = 10_000
#: Mutated inputs: file name, content, and whether the voxels must be those of the good file if it is read.
Inputs = Iterator[tuple[str, bytes, bool]]


@dataclass
class Row:
    """What came out of inputs of one kind.

    Attributes
    ----------
    inputs, read : int
        Inputs, and those that were read.
    refused : dict of str to int
        Errors of this project by type.
    anything_else : int
        All that is neither.
    slowest_s : float
        Longest time of one input, of its thread.
    peak_mb : int
        Peak memory of the process, in MB.
    """

    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    anything_else: int = 0
    slowest_s: float = 0.0
    peak_mb: int = 0


def voxels() -> np.ndarray:
    """Voxels of the good file, of which every one counts."""
    return np.random.default_rng(0).integers(0, 999, (6, 7, 8)).astype(np.int16)


def good(kind: type = nib.Nifti1Image, order: str = "<") -> bytes:
    """Content of a sound single file."""
    affine = np.array([[-1.9, 0.1, 0, 80], [0.1, 1.9, 0, -90], [0, 0, 2.5, -60], [0, 0, 0, 1]])
    image = kind(voxels(), affine, kind.header_class(endianness=order))
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return bytes(image.to_bytes())


def every_byte(random: np.random.Generator, share: float) -> Inputs:
    """A NIfTI-1 header with one byte changed: every byte, to every other value."""
    return _one_byte(good(), 348, random, share)


def every_byte_of_2(random: np.random.Generator, share: float) -> Inputs:
    """A NIfTI-2 header in the other order of bytes with one byte changed: every byte, to an eighth of all values."""
    return _one_byte(good(nib.Nifti2Image, ">"), 540, random, share / 8)


def many_bytes(random: np.random.Generator, share: float) -> Inputs:
    """Headers with 2 to 40 bytes changed, of both versions and orders of bytes, half of them gzipped."""
    files = [(good(kind, order), size) for kind, size in _KINDS for order in "<>"]
    for index in range(round(16_000 * share)):
        content, size = files[index % len(files)]
        raw = bytearray(content)
        for at in random.integers(0, size, random.integers(2, 41)):
            raw[at] = random.integers(256)
        yield ("b.nii.gz", gzip.compress(bytes(raw), 1), False) if index % 8 < 4 else ("b.nii", bytes(raw), False)


def every_bit(random: np.random.Generator, share: float) -> Inputs:
    """A gzip stream with one bit flipped: every bit."""
    content = gzip.compress(good(), mtime=0)
    for at in range(8 * len(content)):
        if random.random() < share:
            raw = bytearray(content)
            raw[at // 8] ^= 1 << (at % 8)
            yield "b.nii.gz", bytes(raw), True


def cut(random: np.random.Generator, share: float) -> Inputs:
    """Files that end early, at every byte, or have bytes behind their end."""
    plain = good()
    for name, content in (("b.nii", plain), ("b.nii.gz", gzip.compress(plain, mtime=0))):
        for end in range(len(content)):
            if random.random() < share:
                yield name, content[:end], True
                yield name, content + random.bytes(int(random.integers(1, 64))), True


def any_bytes(random: np.random.Generator, share: float) -> Inputs:
    """Bytes that nobody wrote as an image, some of them behind the marks of one."""
    starts = (b"", b"\x1f\x8b\x08\x00", (348).to_bytes(4, "little"), (540).to_bytes(4, "big"), good()[:348])
    for index in range(round(6_000 * share)):
        content = starts[index % len(starts)] + random.bytes(int(random.integers(0, 700)))
        yield ("b.nii.gz" if index % 2 else "b.nii"), content, False


_KINDS = ((nib.Nifti1Image, 348), (nib.Nifti2Image, 540))
SCANS: dict[str, Callable[[np.random.Generator, float], Inputs]] = {
    "NIfTI-1 header, one byte": every_byte,
    "NIfTI-2 header, one byte": every_byte_of_2,
    "headers, 2 to 40 bytes": many_bytes,
    "gzip stream, one bit": every_bit,
    "cut off, or bytes behind the end": cut,
    "any bytes": any_bytes,
}


def _one_byte(content: bytes, size: int, random: np.random.Generator, share: float) -> Inputs:
    for at in range(size):
        for value in range(256):
            if value != content[at] and (share >= 1 or random.random() < share):
                yield "b.nii", content[:at] + bytes([value]) + content[at + 1 :], False


def scans(kind: str, share: float, seed: int, folder: Path) -> tuple[Row, list[str]]:
    """Read mutated scans of a kind; counts, and what was neither read nor refused in one line."""
    row, odd, expected = Row(), [], voxels()
    warnings.simplefilter("error")  # a warning is a line that nobody asked for
    for name, content, same in SCANS[kind](np.random.default_rng(seed), share):
        path = folder / name
        path.write_bytes(content)
        row.inputs += 1
        began, wrong = time.thread_time(), ""
        try:
            volume = Volume.load(path)
        except InputError as error:
            row.refused[type(error).__name__] += 1
            wrong = _not_one_line(str(error), path)
        except Exception as error:  # noqa: BLE001 - what must not come out
            wrong = repr(error)
        else:
            row.read += 1
            if same and not np.array_equal(volume.data, expected):
                wrong = "read, with other voxels"
            elif row.read % 16 == 0:
                wrong = _not_written(volume, folder)
        took = time.thread_time() - began
        row.slowest_s = max(row.slowest_s, took)
        if wrong or took > SECONDS:
            row.anything_else += 1
            odd.append(f"{kind}, input {row.inputs} of seed {seed}: {wrong or f'{took:.1f} s'}")
    return row, odd


def _not_one_line(said: str, path: Path) -> str:
    """What is wrong with an error's message."""
    sound = said.startswith(f"{path}: ") and said.isprintable() and len(said) < CHARACTERS
    return "" if sound else f"said {said[:200]!r}"


def _not_written(volume: Volume, folder: Path) -> str:
    """What is wrong with a mask on the grid of a scan that was read."""
    try:
        Volume(np.ones(volume.grid.shape, np.uint8), volume.grid, volume.header).save(folder / "m.nii", force=True)
        again = Volume.load(folder / "m.nii")
    except Exception as error:  # noqa: BLE001 - what must not come out
        return f"its mask: {error!r}"
    return "" if again.grid.shape == volume.grid.shape else f"its mask has the shape {again.grid.shape}"


def manifests(share: float, seed: int, folder: Path) -> Row:
    """Open bundles with mutated manifests; an error that is none of this project's ends it."""
    sys.path.append(str(CHECKOUT / "tests"))
    from fuzzed import run

    row, took = Row(), [0.0]
    bundles = sorted((CHECKOUT / "tests" / "data" / "3b2aec7").glob("bundle-*"))
    for number, bundle in enumerate(bundles):
        copy = shutil.copytree(bundle, folder / bundle.name)
        came_out = run(copy, round(MANIFESTS * share) // len(bundles), first_seed=seed + number, took=took)
        row.read += came_out.pop("opened", 0)
        row.refused += came_out
    row.inputs = row.read + row.refused.total()
    row.slowest_s = max(took)
    return row


def main() -> None:
    """Try all kinds, print a table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(*SCANS, "manifests"), metavar="KIND")
    parser.add_argument("--kind", help="one kind, in this process; prints its row")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.kind is not None:
        _one(given.kind, given.share, given.seed)
        return
    rows = json.loads(given.output.read_text(encoding="utf-8"))["kinds"] if given.output.exists() else {}
    print("| input | tried | read | refused | anything else | slowest | peak memory |\n|---|---|---|---|---|---|---|")
    for kind in given.only:
        words = [sys.executable, __file__, "--kind", kind, "--share", str(given.share), "--seed", str(given.seed)]
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
        rows[kind] = row = {"seed": given.seed, "share": given.share, **json.loads(done.stdout)}
        refused = ", ".join(f"{count} {name}" for name, count in sorted(row["refused"].items()))
        told = (kind, row["inputs"], row["read"], refused, row["anything_else"])
        print("|", *(f"{x} |" for x in told), f"{row['slowest_s']} s | {row['peak_mb']} MB |", flush=True)
    inputs, wrong = (sum(row[key] for row in rows.values()) for key in ("inputs", "anything_else"))
    print(f"{inputs} inputs, {wrong} of them neither read nor refused in one line")
    content = {"schema_version": 1, "kinds": {kind: rows[kind] for kind in (*SCANS, "manifests") if kind in rows}}
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


def _one(kind: str, share: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        row, odd = scans(kind, share, seed, Path(name)) if kind in SCANS else (manifests(share, seed, Path(name)), [])
    row.slowest_s = round(row.slowest_s, 3)
    row.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(*odd[:20], sep="\n", end="\n" if odd else "", file=sys.stderr)
    print(json.dumps(vars(row)))


if __name__ == "__main__":
    main()
