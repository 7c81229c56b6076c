"""What must hold of the certificates of machines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.certificate import CertificateIdentity, Revocation, is_revoked
from fleetd.model.placement import Placement
from fleetd.registry.records import AUTHORITIES, REVOCATIONS, RecordKey
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World

LEARNED_S = 4.0  # the longest time until a server that is well knows what is in the store
AWAY = 0.85  # of a certificate's life
ASK_S = 45.0  # the longest time for a renewal: servers that do not answer are asked, too


class RevokedAreNotServed(Checker):
    """A server that could know that a certificate was revoked does nothing for who shows it, also after a restore."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._written_s: dict[Revocation, float] = {}  # those in the store, and since when
        self._known: dict[str, dict[Revocation, None]] = {}  # by server, for good: they are on its disk

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, event in events:
            if path.kind is REVOCATIONS and event.item is not None:
                self._written_s.setdefault(_fact(self.records.revocations[path.names[0]]), now())

    def see_restore(self, before: dict[Key, Placement]) -> None:
        present = {_fact(each) for each in self.records.revocations.values()}
        self._written_s = {each: self._written_s.get(each, now()) for each in present}

    def see_rest(self) -> None:
        for machine in self.world.machines.values() if self.world.life_s else ():
            well_s = _served_by_store_for_s(self.world, machine)
            known = self._known.setdefault(machine.name, {})
            for revocation, at_s in self._written_s.items():
                if min(well_s, now() - at_s) > LEARNED_S and not machine.is_worker:
                    known[revocation] = None

    def see_served(self, worker: str, server: str, certificate: CertificateIdentity) -> None:
        if is_revoked(certificate, self._known.get(server, {})):
            self.fail(f"{server} serves {worker}, whose certificate was revoked")

    def see_end(self) -> None:
        present = {_fact(each) for each in self.records.revocations.values()}
        for server, known in self._known.items():
            if self.world.machines[server].node is not None and not known.keys() <= present:
                self.fail(f"a revocation that {server} knows is not in the store")


class TrustOnlyGrows(Checker):
    """No authority and no revocation in the store is deleted or changed; and what the store has lost in a restore, it
    has again in the end."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._present: dict[str, bytes] = {}

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, event in events:
            if path.kind not in (AUTHORITIES, REVOCATIONS):
                continue
            former = self._present.get(event.key)
            if event.item is None or former not in (None, event.item.value):
                self.fail(f"{event.key} is changed or deleted")
                continue
            self._present[event.key] = event.item.value

    def see_restore(self, before: dict[Key, Placement]) -> None:
        prefixes = tuple(self.world.registry.key(kind) + "/" for kind in (AUTHORITIES, REVOCATIONS))
        self._present = {key: item.value for key, item in self.records.items.items() if key.startswith(prefixes)}

    def see_end(self) -> None:
        servers = [each for each in self.world.machines.values() if each.node and each.node.trust]
        stored = self.records.authorities.values()
        for server in servers:
            trust = server.node.trust  # type: ignore[union-attr]
            lost = [each for each in trust._known.authorities if each not in stored]  # type: ignore[union-attr]
            if lost:
                self.fail(f"{server.name} knows of authority {lost[0].number}, which is not in the store")


class WorkersAreLetIn(Checker):
    """A worker that is not removed is not refused for longer than a renewal takes while it is well, and a server that
    is well is in its reach, and the store. Who was out of reach for nearly as long as a certificate lives may only know
    an authority that does not count any more, and joins again. In the end every certificate counts."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._served_s: dict[str, float] = {}
        self._refused_s: dict[str, float] = {}  # since when, and not served since
        self._why: dict[str, str] = {}
        self._joins: dict[str, None] = {}  # those that an operator has join again
        self._longest_s = world.life_s / 10 + ASK_S

    def see_answer(self, worker: str, call: str, body: bytes) -> None:
        self._served_s[worker] = now()
        self._refused_s.pop(worker, None)
        self._joins.pop(worker, None)

    def see_refused(self, worker: str, server: str, why: str) -> None:
        self._refused_s.setdefault(worker, now())
        self._why[worker] = f"{server}: {why}"

    def see_rest(self) -> None:
        for worker, since_s in self._refused_s.items():
            machine = self.world.machines[worker]
            served_s = self._in_reach_for_s(machine)
            away_s = max(since_s, now() - served_s) - self._served_s.get(worker, since_s)
            if min(now() - since_s, served_s) <= self._longest_s or self._is_removed(machine):
                continue
            if away_s > self.world.life_s * AWAY and worker not in self._joins:
                self._joins[worker] = None
                self.world.say(f"{worker} joins again")
                machine.run_errand(machine.join())
            elif worker not in self._joins:
                self.fail(f"{worker} has been refused for {now() - since_s:.0f} s, last by {self._why[worker]}")

    def _is_removed(self, machine: "SimulatedMachine") -> bool:
        """True for a clone of a machine that was removed and has joined again."""
        trust = machine.node._worker_trust if machine.node else None
        own = trust.own if trust else None
        return own is not None and is_revoked(own, self.records.revocations.values())

    def see_end(self) -> None:
        for machine in self.world.machines.values() if self.world.life_s else ():
            node = machine.node
            own = node and (node.trust or node._worker_trust)
            if own and own.expires_at_s <= machine.unix_now():
                self.fail(f"the certificate of {machine.name} has expired")

    def _in_reach_for_s(self, machine: "SimulatedMachine") -> float:
        world = self.world
        ways = [
            min(_served_by_store_for_s(world, server), world.way_is_open_for_s(machine.name, server.name))
            for server in world.machines.values()
            if not server.is_worker
        ]
        return min(machine.well_for_s, max(ways, default=0.0))


def _fact(revocation: Revocation) -> Revocation:
    """A revocation without its number, which may be another one after a restore."""
    return Revocation(0, revocation.subject, revocation.before_s, revocation.by, revocation.at_s)


def _served_by_store_for_s(world: "World", server: "SimulatedMachine") -> float:
    """For how long a server has been well, and the store has answered it."""
    return min(server.well_for_s, world.server.answers_for_s) if server.node else 0.0
