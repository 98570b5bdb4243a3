"""What `gallery` says about the recipes that come along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowres_seg.export import recipes


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowres_seg", "gallery", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_table_has_every_recipe_within_the_columns_of_a_terminal() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["id", "name", "task", "parameters", "weights"]
    assert sorted(row.split()[1] for row in rows) == recipes.names()
    assert max(map(len, done.stdout.splitlines())) <= 80
    ids = [row.split()[0] for row in rows]
    assert ids == [*recipes.ids(), *["–"] * (len(ids) - len(recipes.ids()))]
    assert next(row for row in rows if " gandlf_resunet " in row).split()[2:] == ["tumor", "segmentation", "33.4", "M", "to", "train"]  # fmt: skip
    assert next(row for row in rows if " deepbet " in row).split()[2:] == ["segmentation", "–", "on", "PyPI"]


@pytest.mark.parametrize("name", ["S09", "s09", "acs-resnet50-unet"])
def test_one_is_shown_with_what_is_assumed_and_how_it_is_exported(name: str) -> None:
    done = run(name)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    for expected in (
        "name S09, acs_resnet50_unet",
        "source Baheti et al.",
        "parameters 25,740,676 of a network in full width; the paper states 25,821,000",
        "assumed The decoder has 128, 64, 32 and 16 filters, which the paper does not name",
        "weights not published: train the network of network.py, or take those that were trained on phantoms",
        "files model.pt",
        "export lowres-seg export S09 --weights FOLDER -o BUNDLE",
    ):
        assert expected in said, expected
    card = next(line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if line.startswith("model card"))
    assert "| S09 | `acs_resnet50_unet` |" in Path(card).read_text(encoding="utf-8")


def test_json_says_the_same_of_one_and_of_all() -> None:
    every = json.loads(run("--json").stdout)["recipes"]
    one = json.loads(run("S21c", "--json").stdout)
    assert one in every
    assert [entry["name"] for entry in sorted(every, key=lambda entry: entry["name"])] == recipes.names()
    assert (one["id"], one["parameters"], one["published_parameters"], one["weights"]) == ("S21c", 11_309_505, None, "to train")  # fmt: skip
    assert one["files"] == ["model.pt"]


def test_a_name_of_nothing_is_one_line_with_what_was_meant() -> None:
    done = run("acs-resnet18-nnunett")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.rstrip().endswith("; did you mean acs_resnet18_nnunet?")
