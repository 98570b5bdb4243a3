"""The journal of a run that can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowres_seg import InputError
from lowres_seg.quantize.journal import Journal, alone


def test_a_journal_remembers_across_processes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"a": 1}, resume=False)
    assert journal.remember("x", lambda: {"value": 0.1}) == {"value": 0.1}
    again = Journal(tmp_path / "j", {"a": 1}, resume=True)
    assert again.knows("x")
    assert again.remember("x", lambda: pytest.fail("asked again")) == {"value": 0.1}
    assert not Journal(tmp_path / "j", {"a": 1}, resume=False).knows("x")


def test_half_a_line_is_forgotten_and_not_glued_to_the_next(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {}, resume=False).remember("x", lambda: 1)
    file = tmp_path / "j" / "journal.jsonl"
    file.write_text(file.read_text() + '{"key": "y", "val')
    again = Journal(tmp_path / "j", {}, resume=True)
    assert again.knows("x")
    assert not again.knows("y")
    again.remember("y", lambda: 2)
    assert Journal(tmp_path / "j", {}, resume=True).remember("y", lambda: pytest.fail("asked again")) == 2


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"a": 1, "b": 2}, resume=False)
    with pytest.raises(InputError, match="the earlier run differs in: a; leave out --resume"):
        Journal(tmp_path / "j", {"a": 2, "b": 2}, resume=True)


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    with alone(tmp_path / "j"):
        Journal(tmp_path / "j", {}, resume=False).remember("x", lambda: 1)
        with pytest.raises(InputError, match="another process is at work for the same output"), alone(tmp_path / "j"):
            pytest.fail("two are alone")
    with alone(tmp_path / "j"):
        journal = Journal(tmp_path / "j", {}, resume=True)
        assert journal.knows("x")
        assert not Journal(tmp_path / "j", {}, resume=False).knows("x")
        journal.close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_before_there_is_a_journal_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a case"), alone(tmp_path / "j"):
        raise InputError("a case")
    assert list(tmp_path.iterdir()) == []
