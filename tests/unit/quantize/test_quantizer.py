"""A whole run of `quantize`, in bf16: it needs no NNCF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowres_seg import Bundle, MissingExtraError, Segmenter, Volume, extras
from lowres_seg.bundle import bundle as bundles
from lowres_seg.cohort import Case
from lowres_seg.quantize import Settings, quantize
from lowres_seg.runtime import openvino_engine
from lowres_seg.runtime.openvino_engine import cpu_capabilities

needs_bf16 = pytest.mark.skipif("BF16" not in cpu_capabilities(), reason="this CPU does not compute in bf16")


def cases(folder: Path, lopsided: Callable[..., Volume], *seeds: int) -> list[Case]:
    found = []
    for seed in seeds:
        lopsided(seed=seed).save(folder / f"{seed}.nii.gz", force=True)
        found.append(Case(f"case-{seed}", {"t1": folder / f"{seed}.nii.gz"}))
    return found


@needs_bf16
def test_bf16_goes_through_the_gate(tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume]) -> None:
    done = quantize(
        tiny, tmp_path / "bf16", *(cases(tmp_path, lopsided, *s) for s in ((0,), (1, 2))), Settings(precision="bf16")
    )
    assert done.verdict is not None
    assert done.verdict.met
    assert {stage.inference_precision for stage in done.bundle.manifest.stages} == {"bf16"}
    assert done.bundle.path == tmp_path / "bf16"
    assert done.bundle.digest == Bundle.open(tmp_path / "bf16").digest
    assert done.bundle.manifest.lineage.parent == Bundle.open(tiny).digest
    assert Segmenter.load(done.bundle).self_test().passed
    report = json.loads(done.bundle.read("reports/quantize.json"))
    assert report["precision"] == "bf16"
    assert report["layers"] == []


@needs_bf16
@pytest.mark.parametrize("exported", [False, True])
def test_the_report_of_the_export_is_handed_on_if_there_is_one(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], exported: bool
) -> None:
    """No manifest needs to have it: a bundle may come from elsewhere."""
    if exported:
        (tiny / "reports").mkdir()
        (tiny / "reports" / "export.json").write_text('{"parity": []}', encoding="utf-8")
        manifest = json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))
        manifest["files"] = bundles.digests(tiny)
        (tiny / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = quantize(
        tiny, tmp_path / "b", cases(tmp_path, lopsided, 0), cases(tmp_path, lopsided, 1), Settings(precision="bf16")
    )
    assert (done.bundle.path / "reports" / "export.json").is_file() == exported


@needs_bf16
def test_networks_are_compiled_once_for_all_validation_cases(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model, compiled = openvino_engine.compile_model, [0]

    def counting(model: Any, *args: Any, **options: Any) -> Any:
        compiled[-1] += model.get_friendly_name() != "resize"
        return compile_model(model, *args, **options)

    monkeypatch.setattr(openvino_engine, "compile_model", counting)
    for seeds in ((1, 2), (1, 2, 3, 4, 5)):
        compiled.append(0)
        quantize(
            tiny,
            tmp_path / f"{len(seeds)}",
            cases(tmp_path, lopsided, 0),
            cases(tmp_path, lopsided, *seeds),
            Settings(precision="bf16"),
        )
    assert compiled[1] == compiled[2] > 0


@needs_bf16
def test_a_bundle_is_opened_once(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening hashes every file. The new bundle is opened once too, before it is put in place."""
    opened: list[str] = []
    open_ = Bundle._open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Bundle, "_open", classmethod(lambda cls, path, key: (opened.append(Path(path).name), open_(cls, path, key))[1])
    )
    quantize(
        tiny, tmp_path / "new", cases(tmp_path, lopsided, 0), cases(tmp_path, lopsided, 1), Settings(precision="bf16")
    )
    assert opened[0] == "tiny"
    assert len(opened) == 2
    assert opened[1].startswith(".new.")


def test_int8_needs_its_extra_and_says_so_at_once(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "missing", lambda _: ["nncf"])
    with pytest.raises(MissingExtraError, match=r"quantize needs nncf, not installed here: pip install"):
        quantize(tiny, tmp_path / "b", cases(tmp_path, lopsided, 0), cases(tmp_path, lopsided, 1))
    assert not (tmp_path / "b").exists()
