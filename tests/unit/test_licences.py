"""NOTICE says what is installed, and what runs without the packages that are under the LGPL."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import pytest

from lowres_seg import Volume

#: Runs Python where the packages under the LGPL are not installed.
WITHOUT = "import sys\nfor name in ('cc3d', 'fill_voids', 'edt', 'fastremap'): sys.modules[name] = None\n"
COMMAND = WITHOUT + "sys.argv = ['lowres-seg', *sys.argv[1:]]\nfrom lowres_seg.cli import main\nmain()"


@pytest.fixture
def notice(checkout: Path) -> Any:
    spec = importlib.util.spec_from_file_location("notice", checkout / "scripts" / "notice.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notice_names_every_base_dependency_with_its_licence(notice: Any, checkout: Path) -> None:
    text = (checkout / "NOTICE").read_text(encoding="utf-8")
    assert text.startswith(notice.HEAD)
    rows = [re.split(r" {2,}", line, maxsplit=2) for line in text.removeprefix(notice.HEAD).splitlines()]
    named = {notice.plain(name): licence for name, _, licence in rows}
    versions = {notice.plain(name): version for name, version, _ in rows}
    direct = {
        notice.plain(re.split(r"[ <>=!~;\[]", line)[0]) for line in requires("lowres-seg") or [] if "extra" not in line
    }
    assert {"numpy", "openvino", "connected-components-3d"} <= direct <= set(named)
    pyproject = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    listed = pyproject.partition("\ndependencies = [\n")[2].partition("]")[0]
    assert {notice.plain(name) for name in re.findall(r'"([\w.-]+)', listed)} <= set(named)
    installed = {name: one.version for name, one in notice.packages("lowres-seg").items()}
    # The lowest versions that may be installed bring other packages, and some had another licence.
    assert set(installed) <= set(named) or any(installed[name] != versions[name] for name in direct)
    for name, licence in named.items():
        try:
            one = distribution(name)
        except PackageNotFoundError:  # of another version of Python
            assert name not in direct
        else:
            assert notice.licence(one) == licence or one.version != versions[name]


def test_the_page_names_every_package_under_the_lgpl(notice: Any, checkout: Path) -> None:
    page = (checkout / "docs" / "licences.md").read_text(encoding="utf-8")
    found = [name for name, one in notice.packages("lowres-seg").items() if "GPL" in notice.licence(one)]
    assert sorted(found) == ["connected-components-3d", "edt", "fastremap", "fill-voids"]
    assert all(name in page for name in found)


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_bundle_that_needs_none_runs_without_them(
    make_bundle: Callable[..., Path], tmp_path: Path, lopsided: Callable[..., Volume]
) -> None:
    lopsided().save(tmp_path / "head.nii.gz")
    bundle = make_bundle(labels=[{"value": 1, "name": "lesion"}])
    assert run(COMMAND, "verify", bundle).returncode == 0
    done = run(COMMAND, "predict", bundle, tmp_path / "head.nii.gz", "-o", tmp_path / "m.nii.gz")
    assert (done.returncode, done.stderr) == (0, "")
    assert Volume.load(tmp_path / "m.nii.gz").data.any()


@pytest.mark.parametrize(
    ("label", "rule", "package"),
    [
        ("brain", None, "connected-components-3d"),  # the doubt `fragments`
        ("lesion", {"rule": "largest-component", "connectivity": 26}, "connected-components-3d"),
        ("lesion", {"rule": "fill-holes", "label": 1}, "fill-voids"),
        ("lesion", {"rule": "fill-holes", "label": 1, "connectivity": 26}, "connected-components-3d"),
    ],
)
def test_a_bundle_that_needs_one_says_which(
    make_bundle: Callable[..., Path],
    content: Any,
    tmp_path: Path,
    lopsided: Callable[..., Volume],
    label: str,
    rule: dict[str, Any] | None,
    package: str,
) -> None:
    lopsided().save(tmp_path / "head.nii.gz")
    stages = [{**content()["stages"][0], "cleanup": [] if rule is None else [rule]}]
    bundle = make_bundle(labels=[{"value": 1, "name": label}], stages=stages)
    done = run(COMMAND, "predict", bundle, tmp_path / "head.nii.gz", "-o", tmp_path / "m.nii.gz")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"pip install {package}" in done.stderr
    assert not (tmp_path / "m.nii.gz").exists()
    load = "from lowres_seg import MissingExtraError, Segmenter\ntry:\n    Segmenter.load(sys.argv[1], lean=True)\n"
    done = run(f"{WITHOUT}{load}except MissingExtraError as error:\n    print(error)", bundle)
    assert f"pip install {package}" in done.stdout, done.stderr  # before the first patient


def test_hd95_needs_edt_and_dice_does_not() -> None:
    code = """
import numpy as np
from lowres_seg import MissingExtraError
from lowres_seg.metrics.agreement import dice, hd95_mm
a = np.zeros((64, 64, 64), bool); a[8:20, 8:20, 8:20] = True
print(dice(a, a))
try:
    hd95_mm(a, np.roll(a, 1, 0), (1.0, 1.0, 1.0))
except MissingExtraError as error:
    print(error)
"""
    done = run(WITHOUT + code)
    assert done.stdout.splitlines() == ["1.0", "HD95 needs edt, not installed here: pip install edt"], done.stderr
