"""The checkers of certificates find what breaks their rules; and certificates that sign nothing decide as real ones."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleetd.model.certificate import CertificateIdentity, Revocation, uris
from fleetd.registry.records import AUTHORITIES
from fleetd.store.protocol import Delete
from fleetd.trust.contexts import Contexts, MakeContexts, TlsContexts
from fleetd.trust.files import OwnKnowledge
from fleetd.trust.signing import Signer
from tests.simulation.certificates import SimulatedContexts, SimulatedSigning, SimulatedTls, TlsRefused, shake_hands
from tests.simulation.clock import run_cluster
from tests.simulation.world import Failure, World
from tests.unit.trusting_server import answer_here

Violation = Callable[[World], Awaitable[None]]
WORKER = CertificateIdentity("machine", "2" * 32, "worker", issued_at_s=1.0)
REVOKED = Revocation(1, WORKER.subject, 2.0, "ann")


def failure_after(violation: Violation, directory: Path) -> Failure | None:
    """The failure that checkers report for a server and a worker, after this was done to them."""

    async def run() -> Failure | None:
        world = World(directory, 0, {"m1": {}, "m2": {"role": "worker"}}, life_s=600.0)
        try:
            for machine in world.machines.values():
                await machine.boot()
            await asyncio.sleep(10)
            assert world.failure is None
            await violation(world)
            await asyncio.sleep(1)
            for checker in world.checkers:
                checker.see_end()
            return world.failure
        finally:
            await world.close()

    return run_cluster(run())


async def serve_who_was_removed(world: World) -> None:
    await world.server.store.transact([], [world.registry.put(REVOKED, "1")])
    await asyncio.sleep(10)
    world._see_served("m2", "m1", WORKER)


async def serve_who_was_just_removed(world: World) -> None:
    await world.server.store.transact([], [world.registry.put(REVOKED, "1")])
    world._see_served("m2", "m1", WORKER)


async def delete_an_authority(world: World) -> None:
    (number,) = world.records.authorities
    await world.server.store.transact([], [Delete(world.registry.key(AUTHORITIES, number))])


async def forget_on_the_disk(world: World) -> None:
    trust = world.machines["m1"].trust
    assert trust is not None
    trust._files().write_known(OwnKnowledge())


async def refuse_a_worker(world: World) -> None:
    world._see_refused("m2", "m1", "no reason")
    for checker in world.checkers:
        checker.see_answer = lambda worker, call, body: None  # type: ignore[method-assign]
    await asyncio.sleep(600)


@pytest.mark.parametrize(
    ("rule", "violation"),
    [
        ("RevokedAreNotServed", serve_who_was_removed),
        ("TrustOnlyGrows", delete_an_authority),
        ("Certificates", forget_on_the_disk),
        ("WorkersAreLetIn", refuse_a_worker),
    ],
)
def test_a_violation_that_concerns_certificates_is_found(rule: str, violation: Violation, tmp_path: Path) -> None:
    failure = failure_after(violation, tmp_path)
    assert failure is not None
    assert failure.rule == rule


def test_a_server_may_serve_until_it_learns_of_a_removal(tmp_path: Path) -> None:
    assert failure_after(serve_who_was_just_removed, tmp_path) is None


# Certificates that sign nothing, beside real ones.


async def refuse_to_ask(*_: object) -> tuple[int, bytes]:
    raise OSError("nobody is asked")


def simulated_signer() -> Signer:
    numbers = iter(range(1000))

    async def take_time() -> None:
        pass

    return Signer(SimulatedSigning(lambda: f"k-{next(numbers)}", take_time, refuse_to_ask))


def shake_simulated(client: Contexts, server: Contexts, now_s: float) -> str:
    made, served = (each for each in (client.client, server.server))
    assert isinstance(made, SimulatedTls)
    assert served is None or isinstance(served, SimulatedTls)
    try:
        seen = shake_hands(made, served, now_s)
    except TlsRefused:
        return "refused"
    return str(dict(seen)["subjectAltName"]) if seen else "nobody"


def shake_real(client: Contexts, server: Contexts, _now_s: float) -> str:
    if server.server is None:
        return "refused"
    pipes = [ssl.MemoryBIO() for _ in range(2)]
    ends = [
        client.client.wrap_bio(pipes[0], pipes[1]),
        server.server.wrap_bio(pipes[1], pipes[0], server_side=True),
    ]
    done: set[int] = set()
    for _ in range(8):
        for number, end in enumerate(ends):
            try:
                end.do_handshake() if number not in done else end.read(1)
                done.add(number)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return "refused"
    seen = ends[1].getpeercert()
    return str([(kind, uri) for kind, uri in seen["subjectAltName"]]) if seen else "nobody"  # type: ignore[misc]


KINDS = [(SimulatedContexts, simulated_signer, shake_simulated), (TlsContexts, lambda: Signer(answer_here), shake_real)]
Shake = Callable[[Contexts, Contexts, float], str]


@pytest.mark.parametrize(("make_contexts", "make_signer", "shake"), KINDS, ids=["simulated", "real"])
async def test_connections_are_made_by_what_both_sides_trust_and_show(
    make_contexts: MakeContexts, make_signer: Callable[[], Signer], shake: Shake, tmp_path: Path
) -> None:
    signer, now_s = make_signer(), float(int(time.time()))
    first, _ = await signer.make_authority(1, now_s)
    second, cross = await signer.make_authority(2, now_s, former=first)
    server = CertificateIdentity("machine", "m1", "server")
    worker = CertificateIdentity("machine", "m2", "worker")
    counter = iter(range(100))

    async def holder(authority, identity, trusted, *, chain=(), refuse=None, age_s=0.0):
        made = make_contexts(refuse)
        made.trust([each.certificate for each in trusted])
        if authority is not None:
            key, certificate = await signer.issue(
                authority, identity, server=identity.role == "server", now_s=now_s - age_s, life_s=3600.0
            )
            path = tmp_path / str(next(counter))
            path.with_suffix(".pem").write_text("".join((certificate, *chain)))
            path.with_suffix(".key").write_text(key)
            made.load(path.with_suffix(".pem"), path.with_suffix(".key"))
        return made

    known, refused, nobody = str([("URI", uri) for uri in uris(worker)]), "refused", "nobody"
    serving = await holder(first, server, [first, second])
    for client, served, expected in [
        (await holder(first, worker, [first]), serving, known),
        (await holder(second, worker, [first]), serving, known),
        (await holder(None, worker, [first]), serving, nobody),
        (await holder(first, worker, [second]), serving, refused),
        (await holder(first, worker, [first], age_s=7200.0), serving, known),  # the server says it in words
        (await holder(first, worker, [first], refuse=lambda _: "removed"), serving, refused),
        (await holder(first, worker, [first], refuse=lambda _: ""), serving, known),
        (await holder(second, worker, [first]), await holder(first, server, [first]), refused),
        (await holder(first, worker, [first]), await holder(first, server, [first], age_s=7200.0), refused),
        (await holder(first, worker, [first]), await holder(second, server, [first]), refused),
        (await holder(first, worker, [first]), await holder(second, server, [first], chain=[cross]), known),
        (await holder(first, worker, [second]), await holder(second, server, [first], chain=[cross]), known),
        (await holder(first, worker, [first]), await holder(first, worker, [first]), refused),  # is no server
        (await holder(first, worker, [first]), await holder(None, server, [first]), refused),
    ]:
        assert shake(client, served, now_s) == expected


@pytest.mark.parametrize(("make_contexts", "make_signer"), [each[:2] for each in KINDS], ids=["simulated", "real"])
async def test_a_client_has_another_context_with_another_certificate_and_without_an_authority(
    make_contexts: MakeContexts, make_signer: Callable[[], Signer], tmp_path: Path
) -> None:
    signer = make_signer()
    first, _ = await signer.make_authority(1, time.time())
    second, _ = await signer.make_authority(2, time.time())
    identity = CertificateIdentity("machine", "m1", "server")
    key, certificate = await signer.issue(first, identity, server=True, now_s=time.time())
    (tmp_path / "key").write_text(key)
    (tmp_path / "pem").write_text(certificate)
    made = make_contexts(None)
    assert made.server is None
    made.trust([first.certificate])
    made.load(tmp_path / "pem", tmp_path / "key")
    assert made.can_trust(first.certificate)
    assert not made.can_trust("no certificate")

    client, server = made.client, made.server
    made.trust([first.certificate, second.certificate])
    assert (made.client, made.server) == (client, server)
    made.load(tmp_path / "pem", tmp_path / "key")
    assert made.client is not client
    assert made.server is server
    client = made.client
    made.trust([second.certificate])
    assert made.client is not client
    assert made.server is not server

    other, _ = await signer.make_request()
    (tmp_path / "key").write_text(other)
    with pytest.raises(OSError, match=r"(?i)key"):
        made.load(tmp_path / "pem", tmp_path / "key")
