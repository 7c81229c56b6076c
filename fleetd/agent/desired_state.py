"""What the store asks of this machine, mirrored in memory: its placements, and whether the leader has taken it in.

Follows `placements/<machine>/` and `synced/<machine>`. What comes in waits until the agent takes it, so that the
mirror never changes under a pass. What to make of it is reconciler/plan.py's matter; nothing is written here.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from fleetd.aio import Backoff, first_of
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.placement import Placement
from fleetd.registry.registry import MalformedRecord, Registry, Synced, decode
from fleetd.store.protocol import Changes, Compacted, Event, KeyValue, Unavailable

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 8.0


class DesiredSnapshot(msgspec.Struct, frozen=True):
    """All that the store asks of the machine, read at one revision. `unreadable` are units whose placement is none.

    `asked` counts the demands that came before it began. `synced` was read earlier, at `synced_revision`, `marks`
    later. `fell`: the store's revision is below one that was seen before the reading began.
    """

    asked: int
    history: str
    revision: int
    fell: bool
    synced: str
    synced_revision: int
    marks: tuple[KeyValue, ...]
    placements: dict[str, Placement]
    unreadable: dict[str, None]


class DesiredState:
    """The mirror. `placements` and `unreadable` are by unit, `synced` is the session that the leader has planned for,
    `revision` is how far the mirror has seen the store (0: not at all), `highest_revision` the highest that this
    machine knows the store to have had. `wake` is called when there is news to take.
    """

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        wake: Callable[[], None],
        highest_revision: int,
        history: StoreEpoch,
        logger: logging.Logger,
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._machine_id = machine_id
        self._wake = wake
        self._history = history
        self._log = logger
        self.highest_revision = highest_revision
        self._last_beat = 0
        self._was_set_back = False  # a watch has told so, and no reading has taken it in
        self._asked = 0  # how often a new reading was demanded
        self._answered = 0  # how many of these demands the mirror's reading began after
        self._again = asyncio.Event()
        self._recheck = asyncio.Event()
        self._reading: DesiredSnapshot | None = None
        self._changes: list[Changes] = []
        self.placements: dict[str, Placement] = {}
        self.unreadable: dict[str, None] = {}
        self.synced = ""
        self.revision = 0

    def know(self, revision: int) -> None:
        """The store has had this revision."""
        self.highest_revision = max(self.highest_revision, revision)

    def check(self, beat_revision: int) -> None:
        """The store was at this revision just now. Read everything again if it fell (it was restored); see whether the
        mirror has missed anything if it has still not come to what the store was at with the beat before (the watch is
        deaf, or nothing concerned us)."""
        if beat_revision < self.highest_revision:
            self._again.set()
        elif self._last_beat > self.revision:
            self._recheck.set()
        self._last_beat = beat_revision
        self.know(beat_revision)

    @property
    def is_current(self) -> bool:
        """Whether the mirror was read after the last demand for that."""
        return self._answered == self._asked

    def read_anew(self) -> None:
        """Much may have happened that the watch has still to tell: until it was read, the mirror is not current."""
        self._asked += 1
        self._again.set()

    async def follow(self) -> None:
        """Read, then watch, and so on until cancelled. The store's outages are waited out."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            self._again.clear()
            self._recheck.clear()
            try:
                reading = await self._read()
                backoff.reset()
                self._keep(reading)
                await self._watch(reading)
            except Compacted as error:
                self._log.info("reading this machine's placements again: %s", error)
                self._was_set_back |= error.was_set_back
            except Unavailable as error:
                if backoff.is_first:
                    self._log.warning("this machine's placements cannot be read, everything stays as it is: %s", error)
                await asyncio.sleep(backoff.next_s())

    @property
    def has_news(self) -> bool:
        """Whether there is anything to take."""
        return self._reading is not None or bool(self._changes)

    def take(self) -> tuple[DesiredSnapshot | None, dict[str, None]]:
        """Bring the mirror up to date: what was read anew, if anything was, and the units with another placement."""
        reading, self._reading = self._reading, None
        changes, self._changes = self._changes, []
        changed: dict[str, None] = {}
        if reading is not None:
            before = self.placements
            self._answered = reading.asked
            self.placements, self.unreadable = dict(reading.placements), dict(reading.unreadable)
            self.placements |= {name: before[name] for name in reading.unreadable if name in before}
            self.synced, self.revision = reading.synced, reading.revision
            names = dict.fromkeys((*before, *self.placements, *self.unreadable))
            changed = {name: None for name in names if before.get(name) != self.placements.get(name)}
        for change in changes:
            changed |= self._apply(change)
        return reading, changed

    def _keep(self, reading: DesiredSnapshot) -> None:
        """Have the reading taken in place of what came before it. That the revision fell must not be forgotten."""
        if self._reading is not None and self._reading.fell:
            reading = msgspec.structs.replace(reading, fell=True)
        self._reading = reading
        self._changes.clear()
        self._wake()

    async def _read(self) -> DesiredSnapshot:
        asked = self._asked
        highest = self.highest_revision  # a beat that is answered meanwhile may know of more than this reading
        # `synced` comes first: placements read after it hold all that the leader had written when it wrote that. And it
        # comes last: where it still stands, none of them is gone because the machine was taken for dead meanwhile.
        synced = await self._store.get_many([self._registry.key("synced", self._machine_id)])
        snapshot = await self._store.range(self._placements_prefix)
        if self._was_set_back:  # however far it has come since
            highest = max(highest, snapshot.revision + 1)
        history = await self._history.read(highest, snapshot.revision)
        marks = await self._read_marks()
        placements: dict[str, Placement] = {}
        unreadable: dict[str, None] = {}
        for item in filter(self._is_order, snapshot.items):
            placement = self._decode(item)
            if placement is None:
                unreadable[self._unit_of(item.key)] = None
            else:
                placements[self._unit_of(item.key)] = placement
        fell, self._was_set_back = snapshot.revision < highest, False
        self.highest_revision = snapshot.revision if fell else max(self.highest_revision, snapshot.revision)
        session = self._decode_synced(synced.items[0] if synced.items and synced.items[0] in marks else None)
        return DesiredSnapshot(
            asked, history, snapshot.revision, fell, session, synced.revision, marks, placements, unreadable
        )

    async def _watch(self, reading: DesiredSnapshot) -> None:
        """Gather changes after this reading until everything has to be read again."""
        await first_of(
            self._watch_placements(reading.revision),
            self._watch_synced(reading.synced_revision),
            self._find_missed(reading.marks),
            self._again.wait(),
        )

    async def _watch_placements(self, revision: int) -> None:
        async for changes in self._store.watch(self._placements_prefix, revision):
            self._changes.append(changes)
            self.know(changes.revision)
            self._wake()

    async def _watch_synced(self, revision: int) -> None:
        key = self._registry.key("synced", self._machine_id)
        async for changes in self._store.watch(key, revision):
            if any(event.key == key for event in changes.events):
                return  # read placements that are at least as new

    async def _find_missed(self, known: tuple[KeyValue, ...]) -> None:
        """Return when the mirror may have missed something since its reading, which came with these marks. To look is
        cheap, for every machine does so whenever anything has changed anywhere."""
        while True:
            await self._recheck.wait()
            self._recheck.clear()
            try:
                seen = await self._store.digest(self._placements_prefix)
                marks = await self._read_marks()
            except Unavailable as error:
                self._log.debug("cannot see whether orders were missed; the next beat asks again: %s", error)
                continue
            if marks != known or self.has_news:
                return
            if seen.revision > self.revision:
                if seen.written_at > self.revision or seen.count != len(self.placements | self.unreadable):
                    return
                self.revision = seen.revision

    async def _read_marks(self) -> tuple[KeyValue, ...]:
        """What tells whom the orders are for, and by which history of the store."""
        keys = [self._registry.key("synced", self._machine_id), self._history.key]
        return (await self._store.get_many(keys)).items

    def _apply(self, changes: Changes) -> dict[str, None]:
        changed: dict[str, None] = {}
        for event in filter(self._is_order, changes.events):
            name = self._unit_of(event.key)
            changed[name] = None
            self.unreadable.pop(name, None)
            if event.item is None:
                self._take_back(name)
            elif (placement := self._decode(event.item)) is not None:
                self.placements[name] = placement
            else:
                self.unreadable[name] = None
        self.revision = max(self.revision, changes.revision)
        return changed

    def _take_back(self, name: str) -> None:
        """The leader has deleted an order. One that it had not withdrawn goes only when it takes this machine for dead:
        then what is asked stands in a reading that knows whether the machine was taken in again."""
        order = self.placements.get(name)
        if order is None or order.is_withdrawn:
            self.placements.pop(name, None)
        else:
            self._again.set()

    @property
    def _placements_prefix(self) -> str:
        return self._registry.key("placements", self._machine_id) + "/"

    def _unit_of(self, key: str) -> str:
        return key.removeprefix(self._placements_prefix)

    def _is_order(self, found: KeyValue | Event) -> bool:
        """Whether this stands under one name: a key of more names is not fleet's."""
        return self._registry.parse_key(found.key) is not None

    def _decode(self, item: KeyValue) -> Placement | None:
        """The placement, or None for one that cannot be read: its unit is left alone, not taken for gone."""
        try:
            placement = decode("placements", item)
        except MalformedRecord as error:
            self._log.warning("its unit is left as it is: %s", error)
            return None
        return placement if isinstance(placement, Placement) else None

    def _decode_synced(self, item: KeyValue | None) -> str:
        try:
            record = decode("synced", item) if item else None
        except MalformedRecord as error:
            self._log.warning("no unit is stopped for want of a placement: %s", error)
            return ""
        return record.session if isinstance(record, Synced) else ""
