"""Requests to machines, and their answers."""

import json
import random
import re
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.machine_request import (
    MAX_ANSWER_BYTES,
    MAX_ENTRY_BYTES,
    MAX_FIELD,
    MAX_LINES,
    MAX_REQUEST_BYTES,
    MAX_TEXT_BYTES,
    MAX_UNITS,
    InvalidAnswer,
    JournalQuery,
    MachineAnswer,
    MachineRequest,
    UnitProperties,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    merge_entries,
    pack_whole,
    shorten_entry,
)

WEB = ("web@1.service",)
CURSOR = "s=0639fb6db0e240a7ad8b9a7e4a4b3a9d;i=4f;b=f9b1;m=2c;t=5f;x=9e"


def _entry(number: int, text: str = "said", **fields: object) -> msgspec.Raw:
    said = {"__REALTIME_TIMESTAMP": str(number), "MESSAGE": text, **fields}
    return msgspec.Raw(json.dumps(said).encode())


@pytest.mark.parametrize(
    "request_",
    [
        MachineRequest("m1", JournalQuery(WEB)),
        MachineRequest("m1", JournalQuery(("a.service", "b.socket"), 0, 1764240000.5, "fail(ed|ure)", CURSOR)),
        MachineRequest("m1", status=WEB),
        MachineRequest("m1", JournalQuery(WEB), WEB),
        MachineRequest("m1", JournalQuery(WEB, follow=True), stream_to="10.0.0.1:7444"),
    ],
)
def test_a_request_is_read_as_it_was_written(request_: MachineRequest) -> None:
    assert decode_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (MachineRequest("m1"), "nothing is asked for"),
        (MachineRequest("m1", image="alpine"), "names no image of a registry"),
        (MachineRequest("m1", JournalQuery(())), "no unit is named"),
        (MachineRequest("m1", JournalQuery(WEB, lines=-1)), "lines=-1: from 0 to"),
        (MachineRequest("m1", JournalQuery(WEB, lines=MAX_LINES + 1)), "from 0 to"),
        (MachineRequest("m1", JournalQuery(WEB, since_s=-1.0)), "no Unix time"),
        (MachineRequest("m1", JournalQuery(WEB, since_s=1e300)), "no Unix time"),
        (MachineRequest("m1", JournalQuery(WEB, grep="a\0b")), "a pattern has at most"),
        (MachineRequest("m1", JournalQuery(WEB, grep="a" * 2000)), "a pattern has at most"),
        (MachineRequest("m1", JournalQuery(WEB, after="s=1 --file=/x")), "is no cursor"),
        (MachineRequest("m1", JournalQuery(WEB, after="s" * 2000)), "is no cursor"),
        (MachineRequest("m1", JournalQuery(("*",))), 'must contain "."'),
        (MachineRequest("m1", JournalQuery(("*.service",))), "invalid character"),
        (MachineRequest("m1", status=("web@.service",)), "is a template"),
        (MachineRequest("m1", status=("a.service",) * (MAX_UNITS + 1)), "at most"),
    ],
)
def test_what_cannot_be_asked_is_refused(request_: MachineRequest, cause: str) -> None:
    assert cause in request_.refuse()
    with pytest.raises(ValueError, match=re.escape(cause)):
        decode_request(encode_request(request_))


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"", "does not understand"),
        (b"[" * 5000, "does not understand"),
        (b'{"format":2,"asker":"m1"}', "does not understand"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "too large"),
        (encode_request(MachineRequest("m1", JournalQuery(WEB, follow=True))), "nowhere to send it"),
    ],
)
def test_what_is_no_request_is_refused(value: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        decode_request(value)


def test_a_request_names_each_unit_once() -> None:
    assert MachineRequest("m1", JournalQuery(WEB), (*WEB, "b.service")).units == (*WEB, "b.service")
    assert MachineRequest("m1", status=WEB).units == WEB


def test_an_answer_is_read_as_it_was_written() -> None:
    answer = MachineAnswer((_entry(1), _entry(2)), (UnitProperties("a.service", {"Id": "a.service"}),), True, "why")
    read = decode_answer(encode_answer(answer))
    assert [bytes(entry) for entry in read.entries] == [bytes(entry) for entry in answer.entries]
    assert (read.units, read.is_cut, read.failure) == (answer.units, True, "why")


@pytest.mark.parametrize("keeps_first", [False, True])
def test_an_answer_has_as_many_entries_as_there_is_room_for(keeps_first: bool) -> None:
    noise = random.Random(1)
    entries = tuple(_entry(number, f"{noise.getrandbits(400):x}") for number in range(400))
    value = encode_answer(MachineAnswer(entries), keeps_first=keeps_first)
    read = decode_answer(value)
    count = len(read.entries)
    assert 50 < count < 400
    assert read.is_cut
    kept = entries[:count] if keeps_first else entries[-count:]
    assert [bytes(entry) for entry in read.entries] == [bytes(entry) for entry in kept]
    assert MAX_ANSWER_BYTES - 300 < len(value) <= MAX_ANSWER_BYTES


def test_an_answer_that_has_no_room_is_not_packed_whole() -> None:
    assert decode_answer(pack_whole(MachineAnswer((_entry(1),)))) == MachineAnswer((_entry(1),))
    noise = random.Random(1).randbytes(MAX_ANSWER_BYTES).hex()
    assert pack_whole(MachineAnswer((_entry(1, noise),))) == b""
    assert pack_whole(MachineAnswer((_entry(1, "x" * MAX_TEXT_BYTES),))) == b""


def test_an_answer_without_room_for_any_entry_is_cut_to_none() -> None:
    noise = f"{random.Random(1).getrandbits(200_000):x}"
    read = decode_answer(encode_answer(MachineAnswer((_entry(1, noise),))))
    assert (read.entries, read.is_cut) == ((), True)


def test_an_answer_about_too_many_units_says_so() -> None:
    noise = f"{random.Random(1).getrandbits(200_000):x}"
    read = decode_answer(encode_answer(MachineAnswer(units=(UnitProperties("a.service", {"Description": noise}),))))
    assert read.units == ()
    assert "ask for fewer units" in read.failure


def _pack_many(*, count: int, **item: bytes) -> bytes:
    """An answer with so many of this item, which takes little room."""
    [(name, value)] = item.items()
    return zlib.compress(b'{"format":1,"%s":[%s]}' % (name.encode(), b",".join([value] * count)))


def test_an_answer_has_as_much_as_can_be_asked_for() -> None:
    assert len(decode_answer(_pack_many(entries=b"{}", count=MAX_LINES)).entries) == MAX_LINES
    assert len(decode_answer(_pack_many(units=b'{"unit":"a"}', count=MAX_UNITS)).units) == MAX_UNITS


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"", "not complete"),
        (b"plain", "cannot be unpacked"),
        (zlib.compress(b"{}")[:-1], "not complete"),
        (zlib.compress(b" " * (3 * MAX_TEXT_BYTES)), "too large"),
        (zlib.compress(b"[]"), "cannot be read"),
        (zlib.compress(b'{"units":' + b"[" * 100_000), "cannot be read"),
        pytest.param(_pack_many(entries=b"{}", count=MAX_LINES + 1), "more entries or units than", id="entries"),
        pytest.param(_pack_many(units=b'{"unit":"a"}', count=MAX_UNITS + 1), "more entries or units than", id="units"),
    ],
)
def test_what_is_no_answer_is_refused(value: bytes, cause: str) -> None:
    with pytest.raises(InvalidAnswer, match=cause):
        decode_answer(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(text: bytes) -> None:
    for value in (text, zlib.compress(text)):
        try:
            read = decode_answer(value)
        except InvalidAnswer:
            continue
        merge_entries([("m1", read)])


def test_a_short_entry_is_kept_as_it_is() -> None:
    line = bytes(_entry(1))
    assert shorten_entry(line) == line


def test_long_fields_of_a_long_entry_are_cut() -> None:
    line = bytes(
        _entry(
            1,
            "é" * MAX_ENTRY_BYTES,
            BINARY=[104, 105, 255],
            TWICE=["a", "b"],
            NUMBERS=[1000],
            NOTHING=None,
            SHORT="kept",
        )
    )
    assert json.loads(shorten_entry(line)) == {
        "__REALTIME_TIMESTAMP": "1",
        "MESSAGE": "é" * MAX_FIELD + "…",
        "BINARY": "hi\ufffd",
        "TWICE": None,
        "NUMBERS": None,
        "NOTHING": None,
        "SHORT": "kept",
    }


@pytest.mark.parametrize("line", [b"", b"-- No entries --", b"{" + b"x" * 2 * MAX_ENTRY_BYTES])
def test_what_is_no_entry_is_left_out(line: bytes) -> None:
    assert shorten_entry(line) == b""


def test_entries_of_several_machines_are_merged_by_time() -> None:
    first = MachineAnswer((_entry(1, "a"), _entry(5, "b"), _entry(4, "clock set back"), _entry(9, "c")))
    second = MachineAnswer((_entry(3, "d"), _entry(5, "e")))
    merged = merge_entries([("m1", first), ("m2", second)])
    assert [(entry["MESSAGE"], entry["machine"]) for entry in merged] == [
        ("a", "m1"),
        ("d", "m2"),
        ("b", "m1"),
        ("clock set back", "m1"),
        ("e", "m2"),
        ("c", "m1"),
    ]


def test_a_machine_cannot_speak_for_another_one() -> None:
    forged = MachineAnswer((_entry(1, machine="m2"), msgspec.Raw(b"[1]"), msgspec.Raw(b'{"__REALTIME_TIMESTAMP":1}')))
    assert [entry["machine"] for entry in merge_entries([("m1", forged)])] == ["m1", "m1"]
