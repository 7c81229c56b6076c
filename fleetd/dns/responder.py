"""From the bytes of a DNS question to the bytes of its answer. Does no I/O, and never raises."""

from collections.abc import Callable, Iterator
from itertools import islice

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.rrset
from dns.rdata import Rdata
from dns.rdataclass import IN
from dns.rdatatype import RdataType

from fleetd.model import announcement
from fleetd.model.name_table import Labels, NameData, Names, NameTable

TTL_S = int(announcement.TTL_S)
PLAIN_UDP_BYTES = 512  # what every client takes
EDNS_UDP_BYTES = 1232  # no packet is cut into fragments on its way
MAX_BYTES = 65535  # of a message over TCP
MOST_TURNS = 8  # orders in which the addresses of one name are told
CACHE_BYTES = 8 * 1024 * 1024
_LARGEST_CACHED = 512  # bytes of a question: more is no name, and junk
_OVERHEAD_BYTES = 500  # of what Python needs for an answer that is kept
_HEADER_BYTES = 12
_LEAST_RECORD_BYTES = 16  # of an answer: fewer does no record take
_DNSSEC_OK = 0x80  # in the fourth byte from the end of an answer with EDNS and without options
_RESPONSE, _OPCODE, _RECURSION_DESIRED = 0x80, 0x78, 0x01  # in the third byte

_Cached = list[bytes]


class Responder:
    """Answers from one table. Answers are kept, up to CACHE_BYTES: the same question costs nothing the second time, and
    little in other bytes, as strangers may send it: capitals, flags, options of EDNS. `on_bug` is called with an error
    in this code or in the table, for which no client is to blame."""

    def __init__(self, table: NameTable, on_bug: Callable[[Exception], None] = lambda error: None) -> None:
        self._on_bug = on_bug
        self._domain = dns.name.from_text(table.domain + ".")
        self._names = Names(table)
        self._cache: dict[tuple[bytes, bool], _Cached] = {}  # by the bytes of the question
        self._whole: dict[tuple[dns.name.Name, RdataType, int, bool], _Cached] = {}  # by what was asked
        self._cached_bytes = 0
        self._turn = 0

    def answer(self, request: bytes, *, over_tcp: bool = False) -> bytes | None:
        """The answer to a message; None for what is none, or is itself an answer, and gets no reply."""
        if len(request) < _HEADER_BYTES or request[2] & _RESPONSE:
            return None
        key = (request[2:], over_tcp)
        answers = self._cache.get(key)
        if answers is None:
            answers = [answer[2:] for answer in self._make(request, over_tcp)]
            if len(key[0]) <= _LARGEST_CACHED:
                self._make_room(len(key[0]), answers)
                self._cache[key] = answers
        self._turn += 1
        return request[:2] + answers[self._turn % len(answers)]

    def _make_room(self, key_bytes: int, answers: _Cached) -> None:
        size = key_bytes + sum(map(len, answers)) + _OVERHEAD_BYTES
        if self._cached_bytes + size > CACHE_BYTES:
            self._cache.clear()
            self._whole.clear()
            self._cached_bytes = 0
        self._cached_bytes += size

    def _make(self, request: bytes, over_tcp: bool) -> _Cached:
        """The answers to a message, each as good as the others."""
        if request[2] & _OPCODE:
            return [_bare(request, dns.rcode.NOTIMP)]
        try:
            asked = dns.message.from_wire(request)
        except Exception:  # whatever the library finds wrong with bytes of strangers
            return [_bare(request, dns.rcode.FORMERR)]
        if len(asked.question) != 1:
            return [_bare(request, dns.rcode.FORMERR)]
        try:
            return self._answers(asked, over_tcp)
        except Exception as error:  # the client asks others then, and tells nobody that its question was wrong
            self._on_bug(error)
            return [_bare(request, dns.rcode.SERVFAIL)]

    def _answers(self, asked: dns.message.Message, over_tcp: bool) -> _Cached:
        question = asked.question[0]
        if asked.edns <= 0 and self._is_ours(question):
            return [_adapt(answer, asked) for answer in self._find(question, asked.edns >= 0, _limit(asked, over_tcp))]
        response = _begin(asked.question, has_edns=asked.edns >= 0)
        response.set_rcode(dns.rcode.BADVERS if asked.edns > 0 else dns.rcode.REFUSED)
        return [_adapt(_render(response, PLAIN_UDP_BYTES), asked)]

    def _find(self, question: dns.rrset.RRset, has_edns: bool, limit: int) -> _Cached:
        """The answers to a question about a name of ours, without what _adapt adds."""
        name, kind = question.name.canonicalize(), question.rdtype
        key = (name, kind, limit, has_edns)
        answers = self._whole.get(key)
        if answers is None:
            found = self._names.find(self._below_domain(name))
            response = _begin([dns.rrset.RRset(name, IN, kind)], has_edns=has_edns)
            response.flags |= dns.flags.AA
            answers = []
            for turn in range(min(found.turns, MOST_TURNS) if found else 1):
                self._fill(response, name, kind, found, turn, limit // _LEAST_RECORD_BYTES + 1)
                answers.append(_render(response, limit))
            self._make_room(len(name.to_wire() or b""), answers)
            self._whole[key] = answers
        return answers

    def _is_ours(self, question: dns.rrset.RRset) -> bool:
        return (
            question.rdclass in (IN, dns.rdataclass.ANY)
            and question.rdtype not in (RdataType.AXFR, RdataType.IXFR)
            and question.name.is_subdomain(self._domain)
        )

    def _fill(
        self,
        response: dns.message.Message,
        name: dns.name.Name,
        kind: RdataType,
        found: NameData | None,
        turn: int,
        most: int,
    ) -> None:
        """Fill a response with what was found, of each kind with `most` records at most: more fit into no response."""
        response.answer, response.authority, response.additional = [], [], []
        if found is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            records = _records(found, turn, most)
            if name == self._domain:
                records[RdataType.SOA] = [self._soa()]
            wanted = list(records) if kind == RdataType.ANY else list(dict.fromkeys((RdataType.CNAME, kind)))
            response.answer = [_rrset(name, each, records[each]) for each in wanted if records.get(each)]
            if RdataType.SRV in wanted:
                response.additional = list(self._glue(found, most))
        if not response.answer:
            response.authority = [_rrset(self._domain, RdataType.SOA, [self._soa()])]

    def _glue(self, found: NameData, most: int) -> Iterator[dns.rrset.RRset]:
        """The addresses of the hosts that services name, which saves the client a question for each."""
        for host in dict.fromkeys(service.host for service in found.services[:most]):
            name = dns.name.from_text(host + ".")
            if not name.is_subdomain(self._domain) or not (data := self._names.find(self._below_domain(name))):
                continue
            for kind, records in _records(data, 0, most).items():
                if kind in (RdataType.A, RdataType.AAAA) and records:
                    yield _rrset(name, kind, records)

    def _soa(self) -> Rdata:
        root = self._domain
        mailbox = dns.name.Name((b"hostmaster", *root.labels))
        return dns.rdtypes.ANY.SOA.SOA(IN, RdataType.SOA, root, mailbox, 1, 3600, 600, 86400, TTL_S)

    def _below_domain(self, name: dns.name.Name) -> Labels:
        below = name.labels[: len(name.labels) - len(self._domain.labels)]
        return tuple(label.decode("latin-1").lower() for label in below)


def _begin(question: list[dns.rrset.RRset], *, has_edns: bool) -> dns.message.Message:
    response = dns.message.QueryMessage(id=0)
    response.flags = dns.flags.QR
    response.question = list(question)
    if has_edns:
        response.use_edns(0, 0, EDNS_UDP_BYTES)
    return response


def _limit(asked: dns.message.Message, over_tcp: bool) -> int:
    """How many bytes the answer may have. Of two limits over UDP, since each costs answers of its own."""
    if over_tcp:
        return MAX_BYTES
    return EDNS_UDP_BYTES if asked.edns >= 0 and asked.payload >= EDNS_UDP_BYTES else PLAIN_UDP_BYTES


def _adapt(answer: bytes, asked: dns.message.Message) -> bytes:
    """The answer to another question about the same as one to this, which it repeats: in its capitals and its class.
    All other names in an answer point to these bytes, or are not in them."""
    wire = bytearray(answer)
    question = asked.question[0]
    name = question.name.to_wire() or b""
    after = _HEADER_BYTES + len(name)
    wire[_HEADER_BYTES:after] = name
    wire[after + 2 : after + 4] = question.rdclass.to_bytes(2)
    if asked.flags & dns.flags.RD:
        wire[2] |= _RECURSION_DESIRED
    if asked.edns >= 0 and asked.ednsflags & dns.flags.DO:
        wire[-4] |= _DNSSEC_OK
    return bytes(wire)


def _records(found: NameData, turn: int, most: int) -> dict[RdataType, list[Rdata]]:
    addresses = found.addresses_at(turn)
    old = islice((address for address in addresses if ":" not in address), most)
    new = islice((address for address in addresses if ":" in address), most)
    return {
        RdataType.CNAME: [
            dns.rdtypes.ANY.CNAME.CNAME(IN, RdataType.CNAME, dns.name.from_text(found.alias + "."))
            for _ in range(found.alias != "")
        ],
        RdataType.A: [dns.rdtypes.IN.A.A(IN, RdataType.A, address) for address in old],
        RdataType.AAAA: [dns.rdtypes.IN.AAAA.AAAA(IN, RdataType.AAAA, address) for address in new],
        RdataType.SRV: [
            dns.rdtypes.IN.SRV.SRV(
                IN, RdataType.SRV, service.priority, 1, service.port, dns.name.from_text(service.host + ".")
            )
            for service in found.services[:most]
        ],
    }


def _rrset(name: dns.name.Name, kind: RdataType, records: list[Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL_S, records)


def _render(response: dns.message.Message, limit: int) -> bytes:
    """The bytes of a response: whole, or without what a client can ask for itself, or with as many answers as fit, and
    marked as truncated, so that the client asks again over TCP."""
    with_glue = response.additional
    for additional in (with_glue, []):
        response.additional = additional
        try:
            return response.to_wire(max_size=limit, want_shuffle=False)
        except dns.exception.TooBig:
            continue
    response.flags |= dns.flags.TC
    whole, response.answer = response.answer, []
    wire = response.to_wire(max_size=limit, want_shuffle=False)
    low, high = 0, len(whole[0]) if whole else 0
    while low < high:  # the most records of the first set that fit
        count = (low + high + 1) // 2
        response.answer = [dns.rrset.from_rdata_list(whole[0].name, TTL_S, list(whole[0])[:count])]
        try:
            wire, low = response.to_wire(max_size=limit, want_shuffle=False), count
        except dns.exception.TooBig:
            high = count - 1
    response.flags &= ~dns.flags.TC
    return wire


def _bare(request: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A header alone: the reply to what is not understood."""
    return request[:2] + bytes([_RESPONSE | request[2] & (_OPCODE | _RECURSION_DESIRED), rcode]) + bytes(8)
