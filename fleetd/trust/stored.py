"""Authorities and revocations in the store, and the keys of authorities where they are there."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from fleetd.model.authorities import Known
from fleetd.model.certificate import Authority, Revocation, TrustedAuthority
from fleetd.model.decoding import UNREADABLE
from fleetd.model.machine import https_url
from fleetd.registry.records import AUTHORITIES, MACHINES, REVOCATIONS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Compacted, Conflict, Put, Unchanged

log = logging.getLogger(__name__)


class StoredTrust:
    """What the store has. Every method raises what the store's raise. `can_trust` returns whether a text is a
    certificate."""

    def __init__(self, registry: Registry, can_trust: Callable[[str], bool]) -> None:
        self._registry = registry
        self._can_trust = can_trust
        self._store = registry.store
        self._seen: dict[str, bool] = {}  # certificate → whether it is one

    async def read(self) -> tuple[Known, int]:
        """All authorities and revocations, and the revision up to which they are complete."""
        authorities = await self._registry.read_page(AUTHORITIES)
        revocations = await self._registry.read_page(REVOCATIONS)
        known = Known(
            tuple(sorted(filter(self._is_usable, authorities.records.values()), key=lambda each: each.number)),
            tuple(sorted(revocations.records.values(), key=lambda each: each.number)),
        )
        return known, authorities.revision

    async def wait(self, revision: int) -> None:
        """Wait until something of it changes after this revision."""
        kinds = tuple(self._registry.key(kind) + "/" for kind in (AUTHORITIES, REVOCATIONS))
        with suppress(Compacted):
            async for changes in self._store.watch(self._registry.prefix + "trust/", revision):
                if any(event.key.startswith(kinds) for event in changes.events):
                    return

    async def read_keys(self) -> tuple[Authority, ...]:
        """The authorities whose keys the store has."""
        found = await self._store.range(self._registry.authority_prefix)
        keys = []
        for item in found.items:
            try:
                keys.append(msgspec.json.decode(item.value, type=Authority))
            except UNREADABLE as error:
                log.error("%s holds no key of an authority: %s", item.key, error)
        return tuple(keys)

    async def add(self, authority: TrustedAuthority, key: Authority | None) -> bool:
        """Write an authority, with its key if that is to be there. False if its number is taken."""
        return await self._create([(self._put(authority)), *([self._key(key)] if key else [])])

    async def add_revocation(self, revocation: Revocation) -> bool:
        """Write a revocation. False if its number is taken."""
        return await self._create([self._put(revocation)])

    async def find_servers(self, but: str) -> tuple[str, ...]:
        """The https URLs of all servers but the machine of this id."""
        machines = await self._registry.read(MACHINES)
        urls = (https_url(machine) for (id_,), machine in machines.items() if id_ != but)
        return tuple(filter(None, urls))

    async def restore(self, missing: Known, keys: Sequence[Authority]) -> None:
        """Write what a store has lost. Another server may do the same."""
        puts = [
            *map(self._put, missing.authorities),
            *map(self._put, missing.revocations),
            *map(self._key, keys),
        ]
        for put in puts:
            await self._create([put])

    def _is_usable(self, authority: TrustedAuthority) -> bool:
        """True for one with a certificate."""
        certificate = authority.certificate
        if certificate not in self._seen:
            self._seen[certificate] = self._can_trust(certificate)
            if not self._seen[certificate]:
                log.error("authority %d in the store has no certificate, and is passed over", authority.number)
        return self._seen[certificate]

    def _put(self, record: TrustedAuthority | Revocation) -> Put:
        return self._registry.put(record, str(record.number))

    def _key(self, authority: Authority) -> Put:
        return Put(f"{self._registry.authority_prefix}{authority.number}", msgspec.json.encode(authority))

    async def _create(self, puts: Sequence[Put]) -> bool:
        try:
            await self._store.transact([Unchanged(put.key, 0) for put in puts], list(puts))
        except Conflict:
            return False
        return True
