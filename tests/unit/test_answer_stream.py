"""The lines of an answer that a machine sends as a stream."""

import pytest

from fleetd.model.answer_stream import (
    ALIVE,
    MAX_WORDS_BYTES,
    begin_line,
    end_line,
    entry_line,
    read_line,
    refusal_line,
)
from fleetd.model.machine_request import MAX_UNITS, InvalidAnswer, MachineAnswer, UnitProperties


def test_what_is_written_is_read() -> None:
    assert read_line(entry_line(b'{"MESSAGE":"a"}')) == b'{"MESSAGE":"a"}'
    assert read_line(end_line(MachineAnswer(failure="why", is_cut=True))) == MachineAnswer(failure="why", is_cut=True)
    assert read_line(ALIVE) is None
    assert read_line(b"?of a later fleetd\n") is None
    assert begin_line("1f") == b"1f\n"


def test_a_refusal_is_one_line_of_bounded_length() -> None:
    assert refusal_line("one\ntwo") == b"one two\n"
    assert len(refusal_line("x" * 2 * MAX_WORDS_BYTES)) == MAX_WORDS_BYTES


MANY = end_line(MachineAnswer(units=(UnitProperties("a.service"),) * (MAX_UNITS + 1)))


@pytest.mark.parametrize("line", [b"+{", b"={}", b"=\n", b"={\n", b'={"format":9}\n', b"=\xff\n", b"=", MANY])
def test_lines_that_are_none_are_refused(line: bytes) -> None:
    with pytest.raises(InvalidAnswer, match="stream"):
        read_line(line)
