"""Writes the table of names from which fleet-dns answers, where fleet.conf has dns_listen=.

Names of services go by the records that agents and the leader write, and end with these. The name of a machine must not
end with its lease, which a frozen store drops while the machine lives: it stays as long as the leader keeps the session
of the machine (`synced/`), which it deletes when it judges the machine dead.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path

from fleetd.aio import Backoff, first_of
from fleetd.model.announcement import ZONE, ServiceRecord
from fleetd.model.machine import Machine, MachineSettings, effective_metadata
from fleetd.model.name_table import NamedMachine, NameTable, decode, encode
from fleetd.registry.records import MACHINES, SERVICES, SETTINGS, SYNCED, MalformedRecord, Names, Synced
from fleetd.registry.registry import Registry
from fleetd.small_files import replace_file
from fleetd.store.protocol import Compacted, Event, Unavailable

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 8.0
REST_S = 0.05  # between two tables, however much changes
SET_BACK_S = 1.0  # between two readings while the store is known to have been set back


class NameWriter:
    """Follows what units announce, and which machines there are. A worker sees of machines only what they announce."""

    def __init__(
        self,
        registry: Registry,
        path: Path,
        *,
        listen: Iterable[object],
        domain: str,
        machine: Callable[[], Machine],
        set_back: asyncio.Event,
        is_worker: bool = False,
    ) -> None:
        """`machine` returns this machine's record; `set_back` is set while the store is known to have been set back."""
        self._registry = registry
        self._path = path
        self._listen = tuple(map(str, listen))
        self._domain = domain
        self._machine = machine
        self._set_back = set_back
        self._sees_machines = not is_worker
        self._changed = asyncio.Event()
        self._services: dict[Names, ServiceRecord] = {}
        self._machines: dict[str, str] = {}  # address by id, of those that are registered or were when last seen
        self._registered: set[str] = set()
        self._synced: set[str] = set()
        self._settings: MachineSettings | None = None
        self._written = b""
        self._read_file()

    async def run(self) -> None:
        """Write the file whenever its text changes, until cancelled."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            try:
                revisions = await self._read()
                backoff.reset()
                watches = (self._watch(prefix, revision) for prefix, revision in revisions.items())
                await first_of(*watches, self._write_changes(), self._set_back.wait())
                await asyncio.sleep(SET_BACK_S)
            except Compacted as error:
                log.info("reading what units announce again: %s", error)
            except Unavailable as error:
                if backoff.is_first:
                    log.warning("cannot read what units announce; names stay as they are, retrying: %s", error)
                await asyncio.sleep(backoff.next_s())

    def _read_file(self) -> None:
        """Begin with the machines that the former fleetd knew, some of which may have lost their lease."""
        with suppress(OSError, ValueError):
            self._written = self._path.read_bytes()
            self._machines = {machine.id: machine.address for machine in decode(self._written).machines}

    async def _read(self) -> dict[str, int]:
        """Read everything. Returns the revision after which to watch each prefix."""
        services = await self._registry.read_page(SERVICES)
        settings_key = self._registry.key(SETTINGS, self._machine().id)
        settings = await self._registry.store.get_many([settings_key])
        revisions = {self._registry.key(SERVICES) + "/": services.revision, settings_key: settings.revision}
        self._services = dict(services.records)
        self._settings = None
        for item in settings.items:
            with suppress(MalformedRecord):
                self._settings = SETTINGS.decode(item)
        if self._sees_machines:
            machines = await self._registry.read_page(MACHINES)
            synced = await self._registry.read_page(SYNCED)
            revisions[self._registry.key(MACHINES) + "/"] = machines.revision
            revisions[self._registry.key(SYNCED) + "/"] = synced.revision
            self._synced = {id_ for (id_,) in synced.records}
            self._registered = {id_ for (id_,) in machines.records}
            self._machines |= {id_: machine.address for (id_,), machine in machines.records.items()}
        self._changed.set()
        return revisions

    async def _watch(self, prefix: str, revision: int) -> None:
        async with aclosing(self._registry.store.watch(prefix, revision)) as batches:
            async for changes in batches:
                for event in changes.events:
                    self._apply(event)

    def _apply(self, event: Event) -> None:
        key = self._registry.parse_key(event.key)
        if key is None:
            return
        try:
            record = key.kind.decode(event.item, key.names) if event.item else None
        except MalformedRecord as error:
            log.warning("names stay as they are: %s", error)
            return
        name = key.names[0]
        if isinstance(record, ServiceRecord):
            self._services[key.names] = record
        elif isinstance(record, Machine):
            self._machines[name] = record.address
            self._registered.add(name)
        elif isinstance(record, MachineSettings):
            self._settings = record if name == self._machine().id else self._settings
        elif isinstance(record, Synced):
            self._synced.add(name)
        elif key.kind is SERVICES:
            self._services.pop(key.names, None)
        elif key.kind is MACHINES:
            self._registered.discard(name)
        elif key.kind is SYNCED:
            self._synced.discard(name)
        elif name == self._machine().id:
            self._settings = None
        self._changed.set()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._write()
            await asyncio.sleep(REST_S)

    def _write(self) -> None:
        """Write the table, if it is another."""
        content = encode(self._make_table())
        if content == self._written:
            return
        try:
            replace_file(self._path, content, for_all=True)
        except OSError as error:
            log.error("cannot write what fleet-dns answers from; it answers as before: %s", error)
            return
        self._written = content

    def _make_table(self) -> NameTable:
        machine = self._machine()
        self._machines = {id_: self._machines[id_] for id_ in self._machines.keys() & (self._registered | self._synced)}
        machines = {machine.id: machine.address, **self._machines}
        return NameTable(
            self._domain,
            self._listen,
            machine.id,
            effective_metadata(machine, self._settings).get(ZONE, ""),
            tuple(NamedMachine(id_, address) for id_, address in machines.items() if address),
            tuple(each for record in self._services.values() for each in record.announcements()),
        )
