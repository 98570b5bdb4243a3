"""`--brain-mask`: what lies outside of the brain is zero for the bundle that runs next, and the record says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lowres_seg import Bundle, InputError, Segmenter, Volume
from lowres_seg.cli import app
from lowres_seg.runtime import BrainMask
from lowres_seg.runtime.memory import bytes_of_scan


def run(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture
def brain(make_bundle: Callable[..., Path]) -> Path:
    """Marks where the right-hand neighbour is bright."""
    return make_bundle("brain")


@pytest.fixture
def tumor(make_bundle: Callable[..., Path], content: Callable[..., dict[str, Any]]) -> Path:
    network = {**content()["networks"]["net"], "input_shape": [1, 2, 16, 16, 16]}
    return make_bundle(
        "tumor", channels=["flair", "t1"], networks={"net": network}, labels=[{"value": 1, "name": "core"}]
    )


@pytest.fixture
def scans(tmp_path: Path, lopsided: Callable[..., Volume]) -> dict[str, Path]:
    """Two channels; beyond the blob of the second, the first has a bright corner."""
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("flair", "t1")}
    for seed, path in enumerate(paths.values()):
        volume = lopsided(seed=seed)
        if seed == 0:
            volume.data[13:16, 13:16, :3] = 1
        volume.save(path)
    return paths


def words_of(scans: dict[str, Path]) -> list[str]:
    return [f"{name}={path}" for name, path in scans.items()]


def test_the_brain_alone_is_left_in_all_channels(
    brain: Path, tumor: Path, scans: dict[str, Path], tmp_path: Path
) -> None:
    files = ("--json", "--provenance", tmp_path / "p.json")
    border = ("--brain-mask", brain, "--brain-border", "1")
    done = run("predict", tumor, *words_of(scans), "-o", f"{tmp_path}/out/", *border, *files)
    volumes = {name: Volume.load(path) for name, path in scans.items()}
    mask = Segmenter.load(brain, threads=1).predict(volumes["t1"]).border(1).labels.data != 0
    left = {name: Volume(np.where(mask, v.data, 0), v.grid, v.header) for name, v in volumes.items()}
    segmenter = Segmenter.load(tumor, threads=1)
    expected = segmenter.predict(left).labels.data
    (written,) = (tmp_path / "out").glob("*_mask.nii.gz")
    assert np.array_equal(Volume.load(written).data, expected)
    assert not np.array_equal(segmenter.predict(volumes).labels.data, expected)
    printed = json.loads(done.stdout)
    digest = Bundle.open(brain).digest
    assert printed["brain_mask"] == digest
    steps = list(printed["cases"][0]["timings_s"])
    assert {"brain-mask.only.network", "brain-mask.border", "brain-mask.apply", "only.network", "save"} <= set(steps)
    record = json.loads((tmp_path / "p.json").read_text())
    assert record["brain_mask"] == {
        "name": "tiny",
        "version": "1",
        "digest": digest,
        "signed_by": None,
        "path": str(brain),
    }
    assert {"brain_mask": digest, "brain_border": 1.0}.items() <= record["options"].items()
    again = run("predict", tumor, *words_of(scans), "-o", f"{tmp_path}/out/", *border, "--resume")
    assert "done before" in again.output
    other = run("predict", tumor, *words_of(scans), "-o", f"{tmp_path}/out/", "--resume")
    assert "was done again, because it was done with --brain-border 1, with --brain-mask" in " ".join(
        other.output.split()
    )
    secret = run(
        "predict",
        tumor,
        *words_of(scans),
        "-o",
        tmp_path / "m.nii",
        *border,
        *files[:2],
        tmp_path / "q.json",
        "--anonymous",
    )
    assert str(tmp_path) not in secret.stdout + (tmp_path / "q.json").read_text()


def test_from_python_and_with_a_bound_on_memory(brain: Path, tumor: Path, scans: dict[str, Path]) -> None:
    before = BrainMask(Segmenter.load(brain, threads=1), border_mm=1)
    masked = before.apply(scans)
    for name, path in scans.items():
        whole = Volume.load(path)
        assert np.array_equal(masked.scan[name].data, np.where(masked.mask.labels.data != 0, whole.data, 0))
        assert masked.scan[name].name == str(path)
    found = masked.recorded(Segmenter.load(tumor, threads=1).predict(masked.scan))
    assert next(iter(found.timings_s)) == "brain-mask.load"
    bounded = [Segmenter.load(one, threads=1, lean=True, max_ram_bytes=10**9) for one in (brain, tumor)]
    assert BrainMask(bounded[0]).apply(scans, then=bounded[1]).mask.labels.data.any()
    bound = bounded[0].bound
    assert bound is not None
    need = bytes_of_scan(bounded[0].pipeline, masked.mask.labels.grid, bound.heads, lean=True) + bound.networks_bytes
    tight = Segmenter.load(brain, threads=1, lean=True, max_ram_bytes=need + 4 * 16**3)
    assert tight.predict(scans["t1"]).labels.data.any()
    with pytest.raises(InputError, match="needs about"):
        BrainMask(tight).apply(scans)


def test_which_channel_the_brain_is_looked_for_in(
    brain: Path, tumor: Path, make_bundle: Callable[..., Path], scans: dict[str, Path], tmp_path: Path
) -> None:
    other = make_bundle("other", channels=["mri"])
    strict = ("-o", tmp_path / "m.nii", "--brain-mask", other, "--strict")
    found = run("predict", tumor, *words_of(scans), *strict, code=3)
    said = " ".join(found.output.split())
    assert "brain mask: its bundle takes the channel mri, which the scan does not have; it was given flair" in said
    assert BrainMask(Segmenter.load(other, threads=1)).apply(scans["t1"]).mask.doubts == ()
    with pytest.raises(InputError) as caught:
        BrainMask(Segmenter.load(tumor, threads=1)).apply({"t1": scans["t1"], "t2": scans["flair"]})
    assert str(caught.value).startswith("brain-mask: its bundle takes the channels flair, t1, and the scan has t1, t2")


def test_a_brain_mask_that_is_empty_or_cannot_be_is_refused(
    brain: Path, tumor: Path, scans: dict[str, Path], tmp_path: Path
) -> None:
    gone = run(
        "predict",
        tumor,
        *words_of(scans),
        "-o",
        tmp_path / "m.nii",
        "--brain-mask",
        brain,
        "--brain-border",
        "-40",
        code=1,
    )
    assert "its brain mask is empty, and nothing of the scan would be left" in " ".join(gone.output.split())
    alone = run("predict", tumor, *words_of(scans), "-o", tmp_path / "m.nii", "--brain-border", "2", code=2)
    assert "goes with --brain-mask" in alone.output
    lost = run("predict", tumor, *words_of(scans), "-o", tmp_path / "m.nii", "--brain-mask", tmp_path / "none", code=1)
    assert "none" in str(lost.exception)
    assert not (tmp_path / "m.nii").exists()
