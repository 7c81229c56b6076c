"""Whatever machines, administrators, clocks and restores do: what must hold of join tokens and certificates."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.schema import JSON_TYPE
from fleetd.model.certificate import CertificateIdentity, is_revoked, parse_peer_certificate
from fleetd.model.join_token import LIFE_S, parse_token
from fleetd.model.machine import Machine
from fleetd.registry.records import REVOCATIONS
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Put
from fleetd.trust import x509
from tests.api.conftest import Fleet
from tests.api.issuing import Issuer

JSON = (("Content-Type", JSON_TYPE),)
SERVER = "0" * 32
MACHINES = ["1" * 32, "2" * 32]
REQUESTS = [x509.make_request()[1] for _ in MACHINES]
NOW = 1_800_000_000.0

machines = st.sampled_from(MACHINES)
actions = st.one_of(
    st.tuples(st.just("token"), st.sampled_from(["", MACHINES[0]])),
    st.tuples(st.just("join"), st.integers(0, 2), machines, st.sampled_from(REQUESTS)),
    st.tuples(st.just("join"), st.just(0), st.just(MACHINES[0]), st.just(REQUESTS[0])),
    st.tuples(st.just("renew"), machines),
    st.tuples(st.just("remove"), st.just(MACHINES[0])),
    st.tuples(st.just("wait"), st.sampled_from([60.0, LIFE_S / 2, LIFE_S])),
    st.tuples(st.just("restore")),
)


class History:
    """A cluster, what was done to it, and who got certificates."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = EmbeddedStore(":memory:", offload=inline, now=lambda: self.now_s)
        self.fleet = Fleet(
            Registry(self.store),
            trust=Issuer(NOW),
            unix_now=lambda: NOW + self.now_s,
            machine=lambda: Machine(SERVER),
        )
        self.tokens: list[tuple[str, str, float, int]] = []  # text, bound to, made at, restores by then
        self.users: dict[str, tuple[str, str]] = {}  # token → who has used it, and with which request
        self.certificates: dict[str, tuple[str, str]] = {}  # machine → its last certificate, and the request for it
        self.void: set[str] = set()  # tokens of machines that were removed
        self.restores = 0

    async def begin(self) -> None:
        await self.fleet.put(Machine(SERVER, address="10.0.0.5", https=":7443"), SERVER)

    async def post(self, path: str, body: object) -> tuple[int, dict[str, str]]:
        answer = await self.fleet.ask(f"POST /fleet/v2/{path}", body, JSON)
        assert answer.status < 500, answer.body
        return answer.status, json.loads(answer.body or b"{}")

    async def token(self, machine: str) -> None:
        _, made = await self.post("machine-tokens", {"machine": machine})
        self.tokens.append((made["token"], machine, self.now_s, self.restores))

    async def join(self, number: int, machine: str, request: str) -> None:
        if number >= len(self.tokens):
            return
        text, bound_to, made_at_s, restores = self.tokens[number]
        body = {"secret": parse_token(text).secret, "machine": machine, "csr": request}
        status, answer = await self.post("join", body)
        if status == 200:
            assert text not in self.void
            assert bound_to in ("", machine)
            assert self.now_s - made_at_s < LIFE_S
            assert restores == self.restores or text in self.users
            assert self.users.setdefault(text, (machine, request)) == (machine, request)
            self.certificates[machine] = answer["certificate"], request
            assert not await self.is_revoked(answer["certificate"])

    async def renew(self, machine: str) -> None:
        if machine not in self.certificates:
            return
        certificate, request = self.certificates[machine]
        status, answer = await self.post("renew", {"certificate": certificate, "csr": request})
        assert (status == 200) is not await self.is_revoked(certificate)
        if status == 200:
            self.certificates[machine] = answer["certificate"], request

    async def remove(self, machine: str) -> None:
        status, _ = await self.post(f"machines/{machine}/remove", {})
        if status == 204:
            self.void |= {text for text, (user, _) in self.users.items() if user == machine}
            self.void |= {text for text, bound_to, *_ in self.tokens if bound_to == machine}
            assert machine not in self.certificates or await self.is_revoked(self.certificates[machine][0])

    async def wait(self, span_s: float) -> None:
        self.now_s += span_s

    async def restore(self) -> None:
        self.restores += 1
        registry = self.fleet.registry
        await self.store.transact([], [Put(registry.history_key, str(self.restores).encode())])

    async def is_revoked(self, certificate: str) -> bool:
        revocations = (await self.fleet.registry.read(REVOCATIONS)).values()
        return is_revoked(identity_of(certificate), revocations)


def identity_of(certificate: str) -> CertificateIdentity:
    return parse_peer_certificate(x509.describe(certificate))


@pytest.mark.covers("R.11")
@settings(deadline=None)
@given(st.lists(actions, min_size=4, max_size=20))
def test_a_token_makes_one_member_and_a_removed_one_has_nothing_that_counts(done: list[tuple]) -> None:  # type: ignore[type-arg]
    async def scenario() -> None:
        history = History()
        await history.begin()
        await history.token("")
        for name, *arguments in done:
            await getattr(history, name)(*arguments)
        await history.store.close()

    asyncio.run(scenario())
