"""A process that is asked to end does so at once, or after what must be whole."""

from __future__ import annotations

import pytest

from lowres_seg import endings


def test_it_ends_at_once_where_nothing_puts_it_off() -> None:
    with pytest.raises(SystemExit) as ended:
        endings.ask(15)
    assert ended.value.code == 143


def test_what_must_be_whole_is_done_first() -> None:
    done = []
    with pytest.raises(SystemExit) as ended:
        with endings.put_off():
            with endings.put_off():
                endings.ask(2)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert ended.value.code == 130
    assert done == ["inner", "outer"]


def test_within_it_a_long_step_may_be_ended() -> None:
    done = []
    with pytest.raises(SystemExit), endings.put_off():
        try:
            with endings.allowed():
                endings.ask(2)
                done.append("went on")
        finally:
            endings.ask(2)  # a second time: what is left is put off again
            done.append("whole")
    assert done == ["whole"]
    with pytest.raises(SystemExit):
        endings.ask(2)


def test_who_was_asked_before_a_long_step_does_not_begin_it() -> None:
    done = []
    with pytest.raises(SystemExit), endings.put_off():
        endings.ask(2)
        try:
            with endings.allowed():
                done.append("began")
        finally:
            endings.ask(2)
            done.append("whole")
    assert done == ["whole"]
    with pytest.raises(SystemExit):
        endings.ask(2)


def test_an_error_that_comes_of_the_end_is_the_end() -> None:
    with pytest.raises(SystemExit) as ended, endings.ended_as_asked():
        try:
            endings.ask(15)
        except SystemExit as error:
            raise ImportError("initialization failed") from error
    assert ended.value.code == 143
    with pytest.raises(ImportError, match="of its own"), endings.ended_as_asked():
        raise ImportError("of its own")
