from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fakes import fixed
from lowres_seg import EngineError, InputError, IntegrityError, Manifest, Segmenter, Volume, host
from lowres_seg.volumes.grid import Reorientation

Make = Callable[..., Any]
ORIENTATIONS = [
    "".join(pair[end] for pair, end in zip(axes, ends, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for ends in itertools.product((0, 1), repeat=3)
]


def copy_in(volume: Volume, orientation: str) -> Volume:
    """The same voxels in space, stored in another orientation."""
    there = Reorientation(volume.grid, orientation)
    return Volume(np.ascontiguousarray(there.apply(volume.data)), there.result)


def right_of(volume: Volume) -> np.ndarray:
    """What the tiny bundle must find: the voxels whose neighbour to the right is bright."""
    there = Reorientation(volume.grid, "RAS")
    ras = there.apply(volume.data)
    shifted = np.concatenate([ras[1:], np.zeros_like(ras[:1])])
    return np.ascontiguousarray(there.undo((shifted > 0.5).astype(np.uint8)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_the_same_mask_in_space(tiny: Path, lopsided: Make, orientation: str) -> None:
    scan = copy_in(lopsided(), orientation)
    found = Segmenter.load(tiny, threads=1).predict(scan).labels
    assert found.grid == scan.grid
    assert found.data.any()
    assert np.array_equal(found.data, right_of(scan))


def test_a_volume_beyond_the_limits_of_its_label_is_a_doubt(content: Make, lopsided: Make) -> None:
    def doubts(low: float, high: float) -> tuple[str, ...]:
        manifest = Manifest.model_validate(
            content(labels=[{"value": 1, "name": "brain", "volume_ml": [low, high]}], schema_version=3)
        )
        return Segmenter(manifest, {"only": [fixed(np.ones((2, 16, 16, 16)))]}, threads=1).predict(scan).doubts

    scan = lopsided((16, 16, 16), np.diag([10.0, 10, 10, 1]))
    assert doubts(4095.9, 4096.1) == ()
    assert doubts(4097, 5000) == ("brain has 4096 ml, expected 4097 to 5000 ml",)
    assert doubts(0, 4095) == ("brain has 4096 ml, expected 0 to 4095 ml",)


def test_the_bundle_recommends_threads_and_the_caller_decides(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 3, "threads": 3}))
    available = host.inspect()
    for count, expected in ((8, 3), (2, 2)):
        monkeypatch.setattr(
            host,
            "inspect",
            lambda count=count: replace(available, affinity=count, quota=None, physical_cores=8, omp_threads=None),
        )
        assert Segmenter.load(tiny).threads == expected
    assert Segmenter.load(tiny, threads=1).threads == 1


def test_an_oblique_anisotropic_scan_keeps_its_grid(tiny: Path, lopsided: Make) -> None:
    oblique = np.array([[0.9, -0.1, 0.2, -80], [0.12, 1.1, -0.05, -100], [-0.2, 0.1, 2.9, -60], [0, 0, 0, 1.0]])
    scan = lopsided((16, 16, 16), oblique)
    found = Segmenter.load(tiny, threads=1).predict(scan).labels
    assert np.array_equal(found.grid.affine, oblique)
    assert np.array_equal(found.data, right_of(scan))


def test_another_shape_is_stretched_there_and_back(tiny: Path, lopsided: Make) -> None:
    small = lopsided()
    scan = Volume.from_array(np.kron(small.data, np.ones((2, 3, 1), np.float32)), np.diag([-0.5, -0.3, 1.0, 1.0]))
    found = Segmenter.load(tiny, threads=1).predict(scan).labels
    expected = np.kron(Segmenter.load(tiny, threads=1).predict(small).labels.data, np.ones((2, 3, 1), np.uint8))
    assert found.data.shape == (32, 48, 16)
    assert np.array_equal(found.data, expected)


def test_lean_gives_the_same(tiny: Path, lopsided: Make) -> None:
    scan = lopsided()
    a, b = (Segmenter.load(tiny, threads=1, lean=lean).predict(scan).labels.data for lean in (False, True))
    assert np.array_equal(a, b)


def test_one_segmenter_serves_many_scans(tiny: Path, lopsided: Make) -> None:
    segmenter = Segmenter.load(tiny, threads=1)
    for seed in range(3):
        scan = lopsided(seed=seed, shape=(16, 18, 20 + seed))
        again = Segmenter.load(tiny, threads=1).predict(scan).labels.data
        assert np.array_equal(segmenter.predict(scan).labels.data, again)


def test_the_scan_is_not_changed(tiny: Path, lopsided: Make) -> None:
    scan = lopsided(affine=np.eye(4))
    before = scan.data.copy()
    Segmenter.load(tiny, threads=1).predict(scan)
    assert np.array_equal(scan.data, before)


def two_stages(content: Make, **second: Any) -> Manifest:
    """A coarse stage that locates and a fine one in its box."""
    only = content()["stages"][0]
    locate = {**only, "name": "locate", "networks": ["net"], "restore": {"what": "nothing"}}
    fine = {**only, "name": "fine", "networks": ["fine"], "region": {"kind": "box-of", "stage": "locate", **second}}
    network = content()["networks"]["net"]
    return Manifest.model_validate(content(stages=[locate, fine], networks={"net": network, "fine": network}))


def scores_of(mask: np.ndarray) -> np.ndarray:
    return np.stack([1 - mask, mask])


def test_a_stage_looks_only_into_the_box_of_another(content: Make) -> None:
    manifest = two_stages(content, margin_voxels=1)
    located = np.zeros((16, 16, 16))
    located[4:8, 2:6, 10:14] = 1
    locate, fine = fixed(scores_of(located)), fixed(scores_of(np.ones((16, 16, 16))))
    data = np.random.default_rng(0).random((32, 32, 32), dtype=np.float32)
    scan = Volume.from_array(data, np.diag([-1.0, 1.0, -1.0, 1.0]))  # LAI: two axes run against RAS
    result = Segmenter(manifest, {"locate": [locate], "fine": [fine]}, threads=1).predict(scan)
    box = np.zeros((32, 32, 32), np.uint8)
    box[7:17, 3:13, 19:29] = 1  # in RAS: twice the box, one voxel of margin
    assert np.array_equal(result.labels.data[::-1, :, ::-1], box)
    crop = data[::-1, :, ::-1][7:17, 3:13, 19:29]
    rows = np.minimum(np.floor((np.arange(16) + 0.5) * 10 / 16).astype(int), 9)
    assert np.array_equal(fine.seen[0][0], crop[np.ix_(rows, rows, rows)])


def test_a_stage_that_finds_nothing_gives_an_empty_mask_and_says_so(content: Make, lopsided: Make) -> None:
    nothing = fixed(scores_of(np.zeros((16, 16, 16))))
    result = Segmenter(two_stages(content), {"locate": [nothing], "fine": [nothing]}, threads=1).predict(lopsided())
    assert not result.labels.data.any()
    assert "found no foreground" in result.doubts[0]
    assert "the result is empty" in result.doubts
    assert len(nothing.seen) == 1


def test_statistics_of_another_stage(content: Make) -> None:
    manifest = two_stages(content)
    first, second = manifest.model_dump()["stages"]
    rule = {"rule": "percentile-scale", "lower": 0, "upper": 100, "statistics_of": "locate"}
    second["normalise"] = {"rules": [rule]}
    manifest = Manifest.model_validate({**manifest.model_dump(), "stages": [first, second]})
    located = np.zeros((16, 16, 16))
    located[:8, :8, :8] = 1
    data = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    data[:8, :8, :8] *= 0.1
    fine = fixed(scores_of(located))
    segmenter = Segmenter(manifest, {"locate": [fixed(scores_of(located))], "fine": [fine]}, threads=1)
    segmenter.predict(Volume.from_array(data, np.eye(4)))
    assert fine.seen[0].max() < 0.11  # scaled by the whole scan, not by its own dim box


def test_the_scores_of_several_networks_are_averaged(content: Make, lopsided: Make) -> None:
    only = content()["stages"][0]
    network = content()["networks"]["net"]
    names = ["a", "b", "c"]
    manifest = Manifest.model_validate(
        content(stages=[{**only, "networks": names}], networks=dict.fromkeys(names, network))
    )
    votes = [np.zeros((16, 16, 16)) for _ in names]
    votes[0][0], votes[1][0], votes[2][0] = 0.9, 0.8, 0.0  # mean 0.57
    votes[0][1] = 0.9  # mean 0.3
    engines = [fixed(scores_of(v)) for v in votes]
    found = Segmenter(manifest, {"only": engines}, threads=1).predict(lopsided(affine=np.eye(4))).labels.data
    assert found[0].all()
    assert not found[1:].any()


def test_channels_go_in_the_manifests_order(content: Make, lopsided: Make) -> None:
    networks = {"net": {**content()["networks"]["net"], "input_shape": [1, 2, 16, 16, 16]}}
    manifest = Manifest.model_validate(content(channels=["flair", "t1"], networks=networks))
    engine = fixed(scores_of(np.ones((16, 16, 16))))
    t1, flair = lopsided(seed=1, affine=np.eye(4)), lopsided(seed=2, affine=np.eye(4))
    Segmenter(manifest, {"only": [engine]}, threads=1).predict({"t1": t1, "flair": flair})
    assert np.array_equal(engine.seen[0], np.stack([flair.data, t1.data]))


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.copy()
        data[3, 4, 5] = value
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(np.nan), "1 of 4096 voxels are NaN or infinite"),
        (_with(np.inf), "NaN or infinite"),
        (np.zeros_like, "every voxel is 0"),
        (lambda d: np.full_like(d, 7.5), "every voxel is 7.5"),
    ],
)
def test_voxels_that_say_nothing_are_refused(
    tiny: Path, lopsided: Make, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    scan = lopsided()
    with pytest.raises(InputError, match=message):
        Segmenter.load(tiny, threads=1).predict(Volume(change(scan.data), scan.grid))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["t1"], "channels given: t1; the bundle takes flair, t1"),
        (["t1", "flair", "t2"], "channels given: t1, flair, t2"),
        ([], "channels given: none"),
    ],
)
def test_missing_and_extra_channels_are_named(content: Make, lopsided: Make, names: list[str], message: str) -> None:
    networks = {"net": {**content()["networks"]["net"], "input_shape": [1, 2, 16, 16, 16]}}
    manifest = Manifest.model_validate(content(channels=["flair", "t1"], networks=networks))
    segmenter = Segmenter(manifest, {"only": []}, threads=1)
    with pytest.raises(InputError, match=message):
        segmenter.predict({name: lopsided() for name in names})
    with pytest.raises(InputError, match="one scan given, the bundle takes the channels flair, t1"):
        segmenter.predict(lopsided())


def test_channels_on_different_grids_are_refused(content: Make, lopsided: Make) -> None:
    networks = {"net": {**content()["networks"]["net"], "input_shape": [1, 2, 16, 16, 16]}}
    manifest = Manifest.model_validate(content(channels=["flair", "t1"], networks=networks))
    flipped = copy_in(lopsided(), "LPI")
    with pytest.raises(InputError, match="channel t1 lies on another grid.*orientation LPI"):
        Segmenter(manifest, {"only": []}, threads=1).predict({"flair": lopsided(), "t1": flipped})


def test_a_network_that_gives_another_shape_is_an_error(content: Make, lopsided: Make) -> None:
    manifest = Manifest.model_validate(content())
    with pytest.raises(EngineError, match=r"gave \(1, 2, 8, 8, 8\)"):
        Segmenter(manifest, {"only": [fixed(np.zeros((2, 8, 8, 8)))]}, threads=1).predict(lopsided())


def test_volumes_are_in_millilitres(tiny: Path, lopsided: Make) -> None:
    result = Segmenter.load(tiny, threads=1).predict(lopsided(affine=np.diag([2.0, 2.0, 2.5, 1.0])))
    assert result.volumes_ml() == {"brain": pytest.approx(result.voxels()["brain"] * 0.01)}
    assert result.voxels()["brain"] == np.count_nonzero(result.labels.data)


def test_every_step_is_timed(tiny: Path, lopsided: Make) -> None:
    timings = Segmenter.load(tiny, threads=1).predict(lopsided()).timings_s
    steps = ("conform", "normalise", "network", "decode", "restore", "cleanup")
    assert list(timings) == ["load", *(f"only.{step}" for step in steps)]
    assert all(seconds >= 0 for seconds in timings.values())


def test_paths_are_loaded_and_named_in_errors(tiny: Path, tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((5, 5, 5), np.int16), np.eye(4)).to_filename(tmp_path / "flat.nii")
    with pytest.raises(InputError, match=r"flat\.nii: every voxel is 0"):
        Segmenter.load(tiny, threads=1).predict(tmp_path / "flat.nii")


def test_the_self_test_passes_and_a_changed_network_fails_it(tiny: Path) -> None:
    segmenter = Segmenter.load(tiny, threads=1)
    passed = segmenter.self_test()
    assert passed.passed
    assert passed.max_abs_diff == {"only.0": 0.0}
    assert passed.flipped == 0.0
    wrong = fixed(scores_of(np.ones((16, 16, 16))))
    segmenter._engines["only"][0] = wrong
    failed = segmenter.self_test()
    assert not failed.passed
    assert failed.flipped > 0.5
    assert failed.max_abs_diff["only.0"] == pytest.approx(1, abs=1e-3)


def test_labels_that_flip_fail_the_self_test_by_themselves(tiny: Path) -> None:
    """Scores as expected, labels not: as when another clean-up library is installed."""
    with np.load(tiny / "reference.npz") as stored:
        arrays = dict(stored)
    arrays["labels"][0, 0, :8] ^= 1
    _replace_reference(tiny, arrays)
    found = Segmenter.load(tiny, threads=1).self_test()
    assert found.max_abs_diff == {"only.0": 0.0}
    assert not found.passed


def _replace_reference(bundle: Path, arrays: dict[str, np.ndarray]) -> None:
    from lowres_seg.bundle.bundle import file_sha256

    np.savez(bundle / "reference.npz", **arrays)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["reference.npz"] = file_sha256(bundle / "reference.npz")
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_reference_case_that_does_not_fit_is_refused(tiny: Path) -> None:
    _replace_reference(tiny, {"labels": np.zeros((2, 2, 2))})
    with pytest.raises(IntegrityError, match="does not fit the bundle"):
        Segmenter.load(tiny, threads=1).self_test()


def test_threads_must_be_positive(tiny: Path) -> None:
    with pytest.raises(InputError, match="threads: found 0"):
        Segmenter.load(tiny, threads=0)


def test_a_result_in_memory_holds_no_text_of_the_scans_header(tiny: Path, tmp_path: Path, lopsided: Make) -> None:
    """Also where it is pickled for another process, or written by nibabel."""
    lopsided().save(tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = b"DOE^JANE"
    image.header.set_xyzt_units("mm", "sec")
    image.header["intent_code"] = 1002
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient: DOE^JANE"))
    image.to_filename(tmp_path / "named.nii")
    result = Segmenter.load(tiny, threads=1).predict(tmp_path / "named.nii")
    assert b"DOE^JANE" not in pickle.dumps(result)
    labels = result.labels
    nib.Nifti1Image(labels.data, labels.grid.affine, labels.header).to_filename(tmp_path / "m.nii")
    assert b"DOE^JANE" not in (tmp_path / "m.nii").read_bytes()
    labels.save(tmp_path / "saved.nii")
    saved = nib.load(tmp_path / "saved.nii").header
    for field in ("dim", "pixdim", "datatype", "intent_code", "xyzt_units", "sform_code", "srow_x", "descrip"):
        assert np.array_equal(labels.header[field], saved[field]), field
