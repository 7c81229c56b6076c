"""The members of the servers' etcd: who they are, and how one is added, gets a vote and is removed.

A new member is first a learner: it gets a copy of the store and has no vote, so that the store does not depend on it.
The number of voters stays odd: two that vote are worse than one, for the store stops when either fails. A second server
therefore stays a learner until there is a third.
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

ANSWER_BYTES = 1 << 20
REQUEST_S = 5.0
POLL_S = 0.5
# etcd changes its members only while all have been connected for five seconds.
SETTLING_S = 30.0
_PASSES = ("unhealthy cluster", "in sync with leader", "too many requests", "no leader", "timed out", "leader changed")


class EtcdFailed(Exception):
    """etcd refused a request or does not answer. If it `may_pass`, a later try may succeed."""

    def __init__(self, text: str, *, may_pass: bool = False) -> None:
        super().__init__(text)
        self.may_pass = may_pass


class Member(msgspec.Struct, frozen=True):
    """A member of etcd. Its name is the machine-id of its server, '' until it has started for the first time."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def has_started(self) -> bool:
        return bool(self.name)

    @property
    def host(self) -> str:
        """Its address, for lists and messages."""
        return urlsplit(self.peer_urls[0]).hostname or "" if self.peer_urls else ""


def count_voters(members: Sequence[Member]) -> int:
    """How many members vote."""
    return sum(not member.is_learner for member in members)


def should_vote(members: Sequence[Member]) -> bool:
    """True if a further voter makes the number of voters odd."""
    return count_voters(members) % 2 == 0


def waiting_learner(members: Sequence[Member], newcomer: str) -> Member | None:
    """The learner that has to get its vote before a learner with this peer URL can be added: etcd takes one at a time.
    None if there is none."""
    return next((each for each in members if each.is_learner and newcomer not in each.peer_urls), None)


def failures_allowed(members: Sequence[Member]) -> int:
    """How many servers may fail before the store stops answering."""
    return max(count_voters(members) - 1, 0) // 2


class EtcdAdmin:
    """The members API of etcd, through its JSON gateway with a client certificate. The endpoints are tried in turn."""

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext) -> None:
        self._endpoints = tuple(endpoints)
        self._context = context

    def members(self) -> tuple[Member, ...]:
        """All members, by name. Raises EtcdFailed."""
        found = [_read_member(each) for each in self._ask("/v3/cluster/member/list", {}).get("members", [])]
        return tuple(sorted(found, key=lambda member: (member.name, member.id)))

    def add_learner(self, peer_url: str) -> Member:
        """Add a member that has no vote. Waits until etcd takes one. Raises EtcdFailed."""
        answer = self._insist("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True}, SETTLING_S)
        return _read_member(answer["member"])

    def promote(self, member: Member, timeout_s: float = SETTLING_S) -> None:
        """Give a learner its vote as soon as it has a whole copy of the store. Raises EtcdFailed, with `may_pass` if it
        has none within the timeout."""
        self._insist("/v3/cluster/member/promote", {"ID": member.id}, timeout_s)

    def remove(self, member: Member) -> None:
        """Remove a member; its etcd ends. Raises EtcdFailed."""
        self._insist("/v3/cluster/member/remove", {"ID": member.id}, SETTLING_S)

    def status(self) -> dict[str, Any]:
        """What the first endpoint that answers says of itself. Raises EtcdFailed."""
        return self._ask("/v3/maintenance/status", {})

    def serves(self) -> bool:
        """True if it reads and so has a leader."""
        try:
            self._ask("/v3/kv/range", {"key": "AA==", "count_only": True})
        except EtcdFailed:
            return False
        return True

    def at(self, endpoint: str) -> "EtcdAdmin":
        """The API of one member alone."""
        return EtcdAdmin((endpoint,), self._context)

    def is_running(self) -> bool:
        """True if it answers, with or without a vote."""
        return self.applied_index() >= 0

    def applied_index(self) -> int:
        """How far its copy of the store goes, as raft counts; -1 if it does not answer."""
        try:
            return int(self.status().get("raftAppliedIndex", 0))
        except EtcdFailed:
            return -1

    def _insist(self, path: str, request: object, timeout_s: float) -> dict[str, Any]:
        """Ask again while etcd refuses what may pass."""
        return insist(lambda: self._ask(path, request), timeout_s)

    def _ask(self, path: str, request: object) -> dict[str, Any]:
        failures: list[str] = []
        for endpoint in self._endpoints:
            try:
                return self._post(endpoint, path, request)
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures.append(f"{endpoint}: {error}")
        raise EtcdFailed(f"etcd does not answer ({'; '.join(failures)})", may_pass=True)

    def _post(self, endpoint: str, path: str, request: object) -> dict[str, Any]:
        place = urlsplit(endpoint)
        if place.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                place.hostname or "", place.port, context=self._context, timeout=REQUEST_S
            )
        else:
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=REQUEST_S)
        try:
            connection.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES)
        finally:
            connection.close()
        said = json.loads(body)
        if not isinstance(said, dict):
            raise ValueError("this is not etcd")
        if answer.status != 200:
            text = str(said.get("message") or said.get("error") or f"HTTP status {answer.status}")
            if "not supported for learner" in text:
                raise ValueError("it has no vote yet")
            raise EtcdFailed(text, may_pass=any(words in text for words in _PASSES))
        return said


def insist(attempt: Callable[[], dict[str, Any]], timeout_s: float) -> dict[str, Any]:
    """The answer of the first attempt that etcd does not refuse for what may pass. Raises EtcdFailed."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return attempt()
        except EtcdFailed as failure:
            if not failure.may_pass or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _read_member(said: dict[str, Any]) -> Member:
    return Member(
        id=str(said["ID"]),
        name=said.get("name", ""),
        peer_urls=tuple(said.get("peerURLs", ())),
        client_urls=tuple(said.get("clientURLs", ())),
        is_learner=bool(said.get("isLearner", False)),
    )
