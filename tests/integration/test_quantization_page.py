"""The page of a quantization, from a bundle, from its report, and from what `quantize` printed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lowres_seg.cohort import Cases
from lowres_seg.export import export, phantom
from lowres_seg.quantize import Limits, Settings, quantize
from lowres_seg.quantize.settings import Precision
from lowres_seg.volumes.volume import Volume

from .conftest import Command, Tiny, beside

OLD = "tests/data/3b2aec7/bundle-int8"


@pytest.fixture
def bundle(checkout: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkout / OLD, tmp_path / "int8"))


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8").partition("<body>")[2]))


def test_a_report_is_drawn_layer_by_layer(bundle: Path, tmp_path: Path, command: Command) -> None:
    report = json.loads((bundle / "reports" / "quantize.json").read_text(encoding="utf-8"))
    done = command("report", bundle / "reports" / "quantize.json", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    said = text_of(tmp_path / "page.html")
    assert "Quantization of int8" in said
    assert "Attempt 2 of 3 was written" in said
    for attempt in report["attempts"]:
        for breach in attempt["breaches"]:
            assert breach in said
    for layer in report["layers"]:
        assert f"{layer['layer']} {layer['network']} {layer['type']} {layer['precision']} {layer['why']}" in said
    for row in report["result"]["cases"]:
        assert f"{row['case']}, {row['label']} {row['dice_fp32']:.4f} {row['dice']:.4f}" in said
    assert "Speed of network" not in said  # that is in the bundle, and not in the report


def test_a_bundle_is_drawn_with_its_speed(bundle: Path, tmp_path: Path, command: Command) -> None:
    done = command("report", bundle, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    said = text_of(tmp_path / "page.html")
    latency = json.loads((bundle / "reports" / "run.json").read_text(encoding="utf-8"))["gain"]["net"]["latency_s"]
    assert f"int8, as it is {1000 * latency['candidate']:.1f} ms" in said
    (bundle / "reports" / "quantize.json").write_text("{}", encoding="utf-8")
    done = command("report", bundle, "-o", tmp_path / "other.html")
    assert done.returncode == 1
    assert "has changed" in done.stderr
    assert not (tmp_path / "other.html").exists()


def test_what_quantize_printed_is_drawn_too(bundle: Path, tmp_path: Path, command: Command) -> None:
    reports = (bundle / "reports" / name for name in ("quantize.json", "run.json"))
    content = {"bundle": "x", "digest": "y"}
    for report in reports:
        content |= json.loads(report.read_text(encoding="utf-8"))
    (tmp_path / "printed.json").write_text(json.dumps(content), encoding="utf-8")
    done = command("report", tmp_path / "printed.json", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "Quantization of printed.json" in text_of(tmp_path / "page.html")
    assert "Speed of network net" in text_of(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reports/export.json", "is neither a suite nor the report of a quantization"),
        ("reports/run.json", "is neither a suite nor the report of a quantization"),
        ("manifest.json", "is the manifest of a bundle; name its folder"),
        ("networks/net.xml", "is not JSON"),
        ("none.json", "cannot be read"),
        ("reports", "expected a bundle"),
    ],
)
def test_what_is_no_report_is_named(bundle: Path, tmp_path: Path, command: Command, name: str, message: str) -> None:
    done = command("report", bundle / name, "-o", tmp_path / "page.html")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_an_fp32_bundle_has_no_quantization(checkout: Path, tmp_path: Path, command: Command) -> None:
    bundle = shutil.copytree(checkout / "tests/data/3b2aec7/bundle-fp32", tmp_path / "fp32")
    done = command("report", bundle, "-o", tmp_path / "page.html")
    assert done.returncode == 1
    assert f"see this one with: lowres-seg show {bundle}" in done.stderr


def test_compare_says_that_a_report_is_no_suite(bundle: Path, command: Command) -> None:
    report = bundle / "reports" / "quantize.json"
    done = command("compare", report, report)
    assert done.returncode == 1
    assert "quantize.json: is no suite, expected what `lowres-seg bench` wrote" in done.stderr


@pytest.fixture(scope="module")
def cases_and_fp32(tiny_network: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and a folder with a table to calibrate on and one to judge on: a case with a label map, one without."""
    folder = tmp_path_factory.mktemp("cases")
    fp32 = export(tiny_network.recipe, folder / "fp32", weights=tiny_network.weights)
    for number in range(3):
        head = phantom.head((40, 44, 36), 5.0, seed=number)
        head.save(folder / f"{number}.nii.gz")
        Volume((head.data > head.data.mean()).astype("uint8"), head.grid).save(folder / f"{number}_label.nii.gz")
    (channel,) = fp32.manifest.channels
    (folder / "a.csv").write_text(f"{channel}\n0.nii.gz\n", encoding="utf-8")
    rows = ["one,1.nii.gz,1_label.nii.gz", "two,2.nii.gz,"]
    (folder / "b.csv").write_text("\n".join([f"id,{channel},label", *rows]) + "\n", encoding="utf-8")
    return folder, fp32.path


@pytest.mark.parametrize(("precision", "judged"), [("int8", True), ("int8", False), ("bf16", True)])
def test_every_kind_of_quantization_is_drawn(
    cases_and_fp32: tuple[Path, Path], tmp_path: Path, command: Command, precision: Precision, judged: bool
) -> None:
    """Judged against labels and against fp32, or not judged at all; with layers and without."""
    folder, fp32 = cases_and_fp32
    a, b = (Cases.read(folder / name, ["t1"]) for name in ("a.csv", "b.csv"))
    quantize(fp32, tmp_path / "out", a, b if judged else None, Settings(Limits(1, 1000), precision=precision))
    done = command("report", tmp_path / "out", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    said = text_of(tmp_path / "page.html")
    assert ("one, brain" in said and "two, brain" in said) == judged
    assert ("nothing was judged" in said) != judged
    assert ("Layer by layer" in said) == (precision == "int8")
    shown = command("show", tmp_path / "out")
    assert ("judged on 2 cases" in " ".join(shown.stdout.split())) == judged
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_show_tells_an_nnunet_bundle(tmp_path: Path, command: Command) -> None:
    folder = beside("nnunet_folders").make_folder(
        tmp_path / "results",
        channels=["T1", "FLAIR"],
        patch_size=(16, 16, 16),
        spacing=(1.0, 1.0, 1.0),
        labels={"background": 0, "lesion": 1},
        features=(4, 8),
        folds=(0, 1),
    )
    done = command("export", folder, "-o", tmp_path / "net", "--quiet")
    assert done.returncode == 0, done.stderr
    shown = command("show", tmp_path / "net")
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    said = " ".join(shown.stdout.split())
    for expected in (
        "channels t1, flair",
        "1 lesion",
        "of 2 networks",
        "as nnU-Net places them, which overlap by 50%, gaussian weights",
        "mirrored along the axes 1, 2 and 3: 8 runs of each network",
        "intensities: z-score, z-score",
        "openvino gives the scores of torch to within",
    ):
        assert expected in said, (expected, said)
