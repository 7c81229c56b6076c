"""From questions to answers, byte by byte."""

import time

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.dns import responder
from fleetd.dns.responder import Responder
from fleetd.model.announcement import Announcement
from fleetd.model.name_table import NamedMachine, NameTable
from tests.dns.tables import make_table


def ask(
    name: str, kind: str = "A", *, edns: int = 0, instances: int = 10, over_tcp: bool = False, payload: int = 1232
) -> dns.message.Message:
    """The answer to a question; with `edns` -1, that of a client of before EDNS."""
    options = {} if edns < 0 else {"use_edns": edns, "payload": payload}
    question = dns.message.make_query(name, kind, **options)
    wire = Responder(make_table(instances)).answer(question.to_wire(), over_tcp=over_tcp)
    assert wire is not None
    assert over_tcp or len(wire) <= (min(payload, 1232) if edns >= 0 else 512)
    answer = dns.message.from_wire(wire)
    assert question.is_response(answer)
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return [str(record) for rrset in answer.answer for record in rrset]


def test_a_service_has_ports_and_the_addresses_of_their_hosts_with_them() -> None:
    answer = ask("_web._tcp.fleet.internal", "SRV", instances=2)
    assert texts(answer) == [
        "1 1 8000 11111111.machine.fleet.internal.",
        "3 1 8001 22222222.machine.fleet.internal.",
    ]
    assert [rrset.to_text() for rrset in answer.additional] == [
        "11111111.machine.fleet.internal. 1 IN A 10.0.0.1",
        "22222222.machine.fleet.internal. 1 IN A 10.0.0.2",
    ]
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA
    assert answer.answer[0].ttl == 1


@pytest.mark.parametrize("name", ["web", "WEB", "web@0.service.unit", "web-0.unit", "11111111.machine"])
def test_names_stand_for_addresses(name: str) -> None:
    answer = ask(f"{name}.fleet.internal", instances=1)
    assert texts(answer) == ["10.0.0.1"]
    assert answer.question[0].name.to_text().replace("\\", "") == f"{name}.fleet.internal."


def test_names_stand_for_addresses_of_both_kinds() -> None:
    table = NameTable(
        "fleet.internal", (), "", "", (), (Announcement("web", "a.service", "m", "fd00::1", 1, "tcp"),
                                           Announcement("web", "b.service", "n", "10.0.0.1", 1, "tcp"))
    )  # fmt: skip
    found = Responder(table)
    for kind, address in (("A", "10.0.0.1"), ("AAAA", "fd00::1")):
        wire = found.answer(dns.message.make_query("web.fleet.internal", kind).to_wire())
        assert wire is not None
        assert texts(dns.message.from_wire(wire)) == [address]


def test_a_machine_with_a_host_name_is_an_alias_whatever_is_asked() -> None:
    found = Responder(NameTable("fleet.internal", (), "", "", (NamedMachine("two", "two.example.org"),)))
    for kind in ("A", "AAAA", "CNAME", "ANY"):
        wire = found.answer(dns.message.make_query("two.machine.fleet.internal", kind).to_wire())
        assert wire is not None
        assert texts(dns.message.from_wire(wire)) == ["two.example.org."]


def test_addresses_are_told_in_turns() -> None:
    found = Responder(make_table())
    question = dns.message.make_query("web.fleet.internal", "A").to_wire()
    told = {tuple(texts(dns.message.from_wire(found.answer(question) or b""))) for _ in range(4)}
    assert told == {("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("10.0.0.1", "10.0.0.3", "10.0.0.2")}


@pytest.mark.parametrize("name", ["nothing", "_web._udp", "a.web", "9.machine"])
def test_a_name_that_there_is_not_is_denied_with_how_long_that_holds(name: str) -> None:
    answer = ask(f"{name}.fleet.internal")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.authority[0].rdtype == dns.rdatatype.SOA
    assert (answer.authority[0].ttl, answer.authority[0][0].minimum) == (1, 1)


@pytest.mark.parametrize(
    ("name", "kind"), [("web", "AAAA"), ("_tcp", "A"), ("unit", "TXT"), ("_web._tcp", "A"), ("web", "SRV")]
)
def test_a_name_that_has_nothing_of_this_kind_is_not_denied(name: str, kind: str) -> None:
    answer = ask(f"{name}.fleet.internal", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer
    assert answer.authority[0].rdtype == dns.rdatatype.SOA


def test_the_domain_itself_exists() -> None:
    assert texts(ask("fleet.internal", "SOA"))[0].startswith("fleet.internal. hostmaster.fleet.internal.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("example.org", "A"), (".", "NS"), ("internal", "A"), ("xfleet.internal", "A"), ("fleet.internal", "AXFR")],
)
def test_questions_about_others_are_refused(name: str, kind: str) -> None:
    answer = ask(name, kind)
    assert answer.rcode() == dns.rcode.REFUSED
    assert not answer.flags & dns.flags.AA


def test_another_class_is_refused() -> None:
    wire = Responder(make_table()).answer(dns.message.make_query("version.bind", "TXT", "CH").to_wire())
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.REFUSED


def test_what_does_not_fit_comes_without_the_addresses_first() -> None:
    answers = [ask("_web._tcp.fleet.internal", "SRV", edns=-1, instances=count) for count in range(1, 16)]
    kinds = [(bool(answer.additional), bool(answer.flags & dns.flags.TC)) for answer in answers]
    assert set(kinds) == {(True, False), (False, False), (False, True)}
    assert kinds == sorted(kinds, key=lambda kind: (kind[1], not kind[0]))
    assert all(
        len(texts(answer)) == count for count, answer in enumerate(answers, 1) if not answer.flags & dns.flags.TC
    )


@pytest.mark.parametrize(("edns", "payload"), [(-1, 0), (0, 512), (0, 1232), (0, 65535), (0, 0)])
def test_what_does_not_fit_at_all_is_truncated_and_whole_over_tcp(edns: int, payload: int) -> None:
    if payload == 0 and edns == 0:
        payload = 512  # what is less than every client takes counts as that
    answer = ask("_web._tcp.fleet.internal", "SRV", edns=edns, instances=100, payload=payload)
    assert answer.flags & dns.flags.TC
    assert 5 < len(texts(answer)) < 100
    whole = ask("_web._tcp.fleet.internal", "SRV", edns=edns, instances=100, payload=payload, over_tcp=True)
    assert not whole.flags & dns.flags.TC
    assert len(texts(whole)) == 100


def test_what_does_not_even_fit_over_tcp_is_truncated_there() -> None:
    answer = ask("_web._tcp.fleet.internal", "SRV", instances=1800, over_tcp=True)
    assert answer.flags & dns.flags.TC
    assert len(texts(answer)) > 1000


def test_the_size_that_is_taken_is_said() -> None:
    assert ask("web.fleet.internal").payload == 1232
    assert ask("web.fleet.internal", edns=-1).edns == -1


def test_a_later_edns_is_told_so() -> None:
    assert ask("web.fleet.internal", edns=1).rcode() == dns.rcode.BADVERS


def test_other_operations_are_not_implemented() -> None:
    found = Responder(make_table())
    wire = found.answer(dns.update.UpdateMessage("fleet.internal", id=7).to_wire())
    assert wire == bytes([0, 7, 0xA8, dns.rcode.NOTIMP]) + bytes(8)


def test_what_is_malformed_is_told_so() -> None:
    found = Responder(make_table())
    question = dns.message.make_query("web.fleet.internal", "A", id=7).to_wire()
    two = bytearray(question + question[12:])
    two[5] = 2
    looping = question[:12] + b"\xc0\x0c" + question[-4:]
    for wrong in (question[:-1], question + b"\0", question[:4] + bytes(8), bytes(two), looping):
        assert found.answer(wrong) == bytes([0, 7, 0x81, dns.rcode.FORMERR]) + bytes(8)


def test_answers_and_less_than_a_header_get_no_reply() -> None:
    found = Responder(make_table())
    answer = found.answer(dns.message.make_query("web.fleet.internal", "A").to_wire())
    assert answer is not None
    assert found.answer(answer) is None
    assert found.answer(b"") is None
    assert found.answer(answer[:11]) is None


def test_a_kept_answer_is_that_to_the_same_question_under_another_id() -> None:
    found = Responder(make_table(1))
    first = found.answer(dns.message.make_query("web.fleet.internal", "A", id=1).to_wire())
    second = found.answer(dns.message.make_query("web.fleet.internal", "A", id=2).to_wire())
    assert first is not None
    assert second is not None
    assert (first[:2], second[:2], first[2:]) == (b"\0\1", b"\0\2", second[2:])


def variant(number: int, kind: str, *, edns: int = 0) -> dns.message.Message:
    """The same question in other bytes: capitals, options and flags that change nothing."""
    name = "".join(char.upper() if number >> at & 1 else char for at, char in enumerate("web.fleet.internal"))
    option = dns.edns.GenericOption(65001, number.to_bytes(4))
    made = (
        {}
        if edns < 0
        else {"use_edns": 0, "payload": 1232 + number, "options": [option], "want_dnssec": number % 3 == 0}
    )
    question = dns.message.make_query(name, kind, **made)
    if number % 2:
        question.flags &= ~dns.flags.RD
    return question


@pytest.mark.parametrize("edns", [-1, 0])
@pytest.mark.parametrize("kind", ["A", "AAAA", "ANY"])
def test_the_same_question_in_other_bytes_gets_its_own_answer(kind: str, edns: int) -> None:
    found = Responder(make_table())
    for number in range(100):
        question = variant(number, kind, edns=edns)
        if number % 5 == 0:
            question.question[0].rdclass = dns.rdataclass.ANY
        wire = found.answer(question.to_wire())
        assert wire is not None
        answer = dns.message.from_wire(wire)
        assert question.is_response(answer)
        assert answer.question[0].name.labels == question.question[0].name.labels
        assert answer.flags & dns.flags.RD == question.flags & dns.flags.RD
        assert (answer.edns, answer.ednsflags & dns.flags.DO) == (question.edns, question.ednsflags & dns.flags.DO)
        assert sorted(texts(answer)) == ([] if kind == "AAAA" else ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        assert all(rrset.rdclass == dns.rdataclass.IN for rrset in answer.answer)


def test_the_same_question_in_other_bytes_costs_little_however_many_addresses_there_are() -> None:
    announced = tuple(Announcement("web", f"web@{n}.service", f"m{n}", f"10.0.1.{n}", 80, "tcp") for n in range(200))
    found = Responder(NameTable("fleet.internal", (), "", "", (), announced))
    taken_s = []
    for number in range(101):
        question = variant(number, "A").to_wire()
        before_s = time.process_time()
        found.answer(question)
        taken_s.append(time.process_time() - before_s)
    assert sum(taken_s[1:]) < 25 * taken_s[0]


def test_other_questions_without_end_take_a_bounded_memory() -> None:
    found = Responder(make_table(1))
    for number in range(30_000):
        found.answer(number.to_bytes(2) + bytes([0, 0, *number.to_bytes(8)]))
        assert found._cached_bytes <= responder.CACHE_BYTES
    assert len(found._cache) * 500 <= responder.CACHE_BYTES
    found.answer(dns.message.make_query("web.fleet.internal", "A").to_wire() + bytes(60_000))
    assert max(len(request) for request, _ in found._cache) < 60_000


def test_what_cannot_be_answered_is_no_fault_of_the_client() -> None:
    bugs: list[Exception] = []
    broken = Announcement("web", "web.service", "m1", "10.0.0.1", 70_000, "tcp")  # no port is as high
    found = Responder(NameTable("fleet.internal", (), "", "", (), (broken,)), bugs.append)
    question = dns.message.make_query("_web._tcp.fleet.internal", "SRV", id=7).to_wire()
    assert found.answer(question) == bytes([0, 7, 0x81, dns.rcode.SERVFAIL]) + bytes(8)
    assert found.answer(question[:-1]) == bytes([0, 7, 0x81, dns.rcode.FORMERR]) + bytes(8)
    assert len(bugs) == 1


BUGS: list[Exception] = []
RESPONDER = Responder(make_table(), BUGS.append)
HEADERS = st.binary(min_size=12, max_size=12).map(lambda header: header[:2] + bytes([header[2] & 0x7F]) + header[3:])


def _check(request: bytes, over_tcp: bool) -> None:
    wire = RESPONDER.answer(request, over_tcp=over_tcp)
    assert BUGS == []
    if wire is not None:
        answer = dns.message.from_wire(wire)
        assert wire[:2] == request[:2]
        assert wire[2] & 0x80
        assert len(wire) <= 1232 or over_tcp
        assert not answer.flags & dns.flags.RA


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_get_an_answer_that_can_be_read_or_none(request_: bytes, over_tcp: bool) -> None:
    _check(request_, over_tcp)


@given(HEADERS, st.binary(max_size=200))
def test_any_question_after_a_header_gets_one(header: bytes, rest: bytes) -> None:
    _check(header + rest, False)


@given(
    st.lists(st.sampled_from([b"web", b"_web", b"_tcp", b"fleet", b"internal", b"\xff", b"machine"]), max_size=9),
    st.integers(0, 65535),
    st.sampled_from([1, 255, 3, 254]),
    st.binary(max_size=40),
)  # fmt: skip
def test_any_name_and_kind_get_one(labels: list[bytes], kind: int, class_: int, rest: bytes) -> None:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    header = b"\0\7\1\0\0\1\0\0\0\0" + (b"\0\1" if rest else b"\0\0")
    _check(header + name + kind.to_bytes(2) + class_.to_bytes(2) + rest, False)


@given(st.integers(0, 200), st.integers(0, 65535), st.sampled_from(["A", "SRV", "ANY", "SOA"]))
def test_flipped_bytes_of_a_right_question_get_one(at: int, value: int, kind: str) -> None:
    question = bytearray(dns.message.make_query("_web._tcp.fleet.internal", kind, use_edns=0).to_wire())
    question[at % len(question)] ^= value & 0xFF
    _check(bytes(question), False)
