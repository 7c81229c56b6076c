"""The desired state of this machine, mirrored in memory: its placements, and the session the leader has acknowledged.

The mirror follows `placements/<machine>/` and `synced/<machine>`, and reads `reboots/<machine>` with these. Changes
queue up until the agent takes them, so the mirror never changes during a pass. It writes nothing.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from fleetd.aio import Backoff, first_of
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.download import Download
from fleetd.model.placement import Placement
from fleetd.model.reboot import Reboot
from fleetd.model.requirements import requirements_of
from fleetd.model.secret import SecretRef
from fleetd.registry.records import PLACEMENTS, REBOOTS, SYNCED, Kind, MalformedRecord, R_co
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Changes, Compacted, Event, KeyValue, Unavailable

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 8.0


class DesiredSnapshot(msgspec.Struct, frozen=True):
    """The desired state, read at `revision`. `unreadable` are the units whose placement cannot be decoded.

    `request` is the number of the last reread requested before the reading began. `synced` is the acknowledged
    session, read earlier, at `synced_revision`; `marks` are the keys of _read_marks, read later, and `reboot` is the
    reboot of this machine among them.
    """

    request: int
    revision: int
    synced: str
    synced_revision: int
    marks: tuple[KeyValue, ...]
    placements: dict[str, Placement]
    unreadable: dict[str, None]
    reboot: Reboot | None


class DesiredState:
    """The mirror. `placements` and `unreadable` are by unit; `synced` is the session the leader has planned for;
    `reboot` is the reboot of this machine that the leader works on, or the last one that it gave up; `revision` is how
    far the mirror has followed the store (0: nothing was read yet). `wake` is called when there is something to take.
    """

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        wake: Callable[[], None],
        epoch: StoreEpoch,
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._machine_id = machine_id
        self._wake = wake
        self._epoch = epoch
        self._last_beat = 0
        self._requested = 0  # how many rereads were requested
        self._answered = 0  # the last of them that the mirror answers
        self._reread = asyncio.Event()
        self._recheck = asyncio.Event()
        self._snapshot: DesiredSnapshot | None = None  # read, and not yet taken
        self._changes: list[Changes] = []  # after it, and not yet taken
        self.placements: dict[str, Placement] = {}
        self.unreadable: dict[str, None] = {}
        self.synced = ""
        self.reboot: Reboot | None = None
        self.revision = 0

    def heartbeat_answered(self, beat_revision: int) -> None:
        """Note the revision that came with a heartbeat. Reread if it fell: the store was restored. If the mirror still
        lags behind the previous heartbeat, look whether it missed anything: either the watch is deaf, or nothing in
        between concerned this machine."""
        if beat_revision < self._epoch.highest_revision:
            self.request_reread()
        elif self._last_beat > self.revision:
            self._recheck.set()
        self._last_beat = beat_revision
        self._epoch.note_revision(beat_revision)

    @property
    def is_current(self) -> bool:
        """True if the mirror was read after the last request_reread."""
        return self._answered == self._requested

    def find_certain(self) -> dict[str, Placement] | None:
        """The placements, if they are known for sure."""
        return self.placements if self.is_current and self.revision else None

    def find_downloads(self, unit: str) -> tuple[Download, ...]:
        """What a unit that is placed here needs."""
        placement = self.placements.get(unit)
        return requirements_of(placement.content, unit).downloads if placement else ()

    def find_secrets(self, unit: str) -> tuple[SecretRef, ...]:
        """The secrets that a unit which is placed here is to have."""
        placement = self.placements.get(unit)
        return placement.secrets if placement else ()

    def request_reread(self) -> None:
        """Read everything again. Until then the mirror is not current: the watch may lag behind what happened."""
        self._requested += 1
        self._reread.set()

    async def follow(self) -> None:
        """Read, then watch, and so on until cancelled. Retries while the store is unavailable."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            self._reread.clear()
            self._recheck.clear()
            try:
                snapshot = await self._read()
                backoff.reset()
                self._snapshot = snapshot
                self._changes.clear()
                self._wake()
                await self._watch(snapshot)
            except Compacted as error:
                log.info("reading this machine's placements again: %s", error)
                if error.was_set_back:
                    self._epoch.note_set_back(self._epoch.name)
            except Unavailable as error:
                if backoff.is_first:
                    log.warning(
                        "cannot read this machine's placements; its units keep running as they are, retrying: %s", error
                    )
                await asyncio.sleep(backoff.next_s())

    @property
    def has_news(self) -> bool:
        """True if there is anything to take."""
        return self._snapshot is not None or bool(self._changes)

    def take(self) -> tuple[bool, dict[str, None]]:
        """Bring the mirror up to date. Returns whether everything was read again, and the units whose placement
        changed."""
        snapshot, self._snapshot = self._snapshot, None
        changes, self._changes = self._changes, []
        changed: dict[str, None] = {}
        if snapshot is not None:
            before = self.placements
            self._answered = snapshot.request
            self.placements, self.unreadable = dict(snapshot.placements), dict(snapshot.unreadable)
            self.placements |= {name: before[name] for name in snapshot.unreadable if name in before}
            self.synced, self.reboot, self.revision = snapshot.synced, snapshot.reboot, snapshot.revision
            names = dict.fromkeys((*before, *self.placements, *self.unreadable))
            changed = {name: None for name in names if before.get(name) != self.placements.get(name)}
        for change in changes:
            changed |= self._apply(change)
        return snapshot is not None, changed

    async def _read(self) -> DesiredSnapshot:
        request = self._requested
        highest = self._epoch.highest_revision  # a heartbeat answered meanwhile may know of more than this reading
        # `synced` is read first: the placements read after it include all that the leader had written by then. And it
        # is read last: if it still stands, no placement is missing because the machine was taken for dead meanwhile.
        synced = await self._store.get_many([self._registry.key(SYNCED, self._machine_id)])
        found = await self._store.range(self._placements_prefix)
        epoch = await self._epoch.check(highest, found.revision)
        marks = await self._read_marks()
        placements: dict[str, Placement] = {}
        unreadable: dict[str, None] = {}
        for item in filter(self._is_placement, found.items):
            placement = self._decode(PLACEMENTS, item)
            if placement is None:
                unreadable[self._unit_of(item.key)] = None
            else:
                placements[self._unit_of(item.key)] = placement
        self._epoch.accept(epoch)
        acknowledged = self._decode(SYNCED, synced.items[0]) if synced.items and synced.items[0] in marks else None
        session = acknowledged.session if acknowledged else ""
        ordered = next((item for item in marks if item.key == self._reboot_key), None)
        reboot = self._decode(REBOOTS, ordered) if ordered else None
        return DesiredSnapshot(request, epoch.revision, session, synced.revision, marks, placements, unreadable, reboot)

    async def _watch(self, snapshot: DesiredSnapshot) -> None:
        """Queue the changes after this snapshot until everything has to be read again."""
        await first_of(
            self._watch_placements(snapshot.revision),
            self._watch_synced(snapshot.synced_revision),
            self._find_missed(snapshot.marks),
            self._reread.wait(),
            self._epoch.set_back.wait(),
        )

    async def _watch_placements(self, revision: int) -> None:
        async for changes in self._store.watch(self._placements_prefix, revision):
            self._changes.append(changes)
            self._epoch.note_revision(changes.revision)
            self._wake()

    async def _watch_synced(self, revision: int) -> None:
        key = self._registry.key(SYNCED, self._machine_id)
        async for changes in self._store.watch(key, revision):
            if any(event.key == key for event in changes.events):
                return  # read placements that are at least as new

    async def _find_missed(self, known: tuple[KeyValue, ...]) -> None:
        """Return once the mirror may have missed a change since the reading with these marks. The check is cheap,
        because every machine makes it whenever anything in the store has changed."""
        while True:
            await self._recheck.wait()
            self._recheck.clear()
            try:
                seen = await self._store.digest(self._placements_prefix)
                marks = await self._read_marks()
            except Unavailable as error:
                log.debug("cannot check for missed placements; checking at the next heartbeat: %s", error)
                continue
            if marks != known or self.has_news:
                return
            if seen.revision > self.revision:
                if seen.written_at > self.revision or seen.count != len(self.placements | self.unreadable):
                    return
                self.revision = seen.revision

    async def _read_marks(self) -> tuple[KeyValue, ...]:
        """Read the keys that say which session the placements are for, and in which epoch of the store; and what is
        planned about rebooting this machine. For that, the leader writes `synced` again once it is to reboot."""
        keys = [self._registry.key(SYNCED, self._machine_id), self._epoch.key, self._reboot_key]
        return (await self._store.get_many(keys)).items

    def _apply(self, changes: Changes) -> dict[str, None]:
        changed: dict[str, None] = {}
        for event in filter(self._is_placement, changes.events):
            name = self._unit_of(event.key)
            changed[name] = None
            self.unreadable.pop(name, None)
            if event.item is None:
                self._delete(name)
            elif (placement := self._decode(PLACEMENTS, event.item)) is not None:
                self.placements[name] = placement
            else:
                self.unreadable[name] = None
        self.revision = max(self.revision, changes.revision)
        return changed

    def _delete(self, name: str) -> None:
        """The leader has deleted this placement. It deletes one that is not withdrawn only when it takes this machine
        for dead; then only a fresh reading knows whether it has acknowledged the machine again."""
        placement = self.placements.get(name)
        if placement is None or placement.is_withdrawn:
            self.placements.pop(name, None)
        else:
            self._reread.set()

    @property
    def _reboot_key(self) -> str:
        return self._registry.key(REBOOTS, self._machine_id)

    @property
    def _placements_prefix(self) -> str:
        return self._registry.key(PLACEMENTS, self._machine_id) + "/"

    def _unit_of(self, key: str) -> str:
        return key.removeprefix(self._placements_prefix)

    def _is_placement(self, found: KeyValue | Event) -> bool:
        """True if the key has exactly one name below the prefix; fleet writes no other."""
        return self._registry.parse_key(found.key) is not None

    def _decode(self, kind: Kind[R_co], item: KeyValue) -> R_co | None:
        """Return the record, or None if it cannot be decoded. No unit is stopped or removed because of that."""
        try:
            return kind.decode(item)
        except MalformedRecord as error:
            log.warning("a record of the leader's cannot be read; units are left as they are: %s", error)
            return None
