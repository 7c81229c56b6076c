"""An inspector that says what a test has it say."""

import asyncio
import json
from collections.abc import Sequence

from fleetd.model.machine_request import JournalQuery, UnitProperties
from fleetd.systemd.inspector import Entries, InspectionFailed


def entry(number: int, unit: str, text: str = "said") -> bytes:
    """An entry as systemd's JSON."""
    return json.dumps({"__REALTIME_TIMESTAMP": str(number), "_SYSTEMD_UNIT": unit, "MESSAGE": text}).encode()


class ScriptedInspector:
    """Has these entries. `failure` fails every question, `hangs` lets them wait for ever; `asked` are those so far."""

    def __init__(self, *entries: bytes) -> None:
        self.entries = entries
        self.failure = ""
        self.hangs = False
        self.asked: list[JournalQuery] = []
        self.waiting = 0

    async def read_journal(self, query: JournalQuery) -> Entries:
        self.asked.append(query)
        await self._wait()
        own = [line for line in self.entries if json.loads(line)["_SYSTEMD_UNIT"] in query.units]
        kept = own[: query.lines] if query.after else own[max(0, len(own) - query.lines) :]
        return Entries(tuple(kept), bool(query.after) and len(kept) < len(own))

    async def show_units(self, units: Sequence[str]) -> tuple[UnitProperties, ...]:
        await self._wait()
        return tuple(UnitProperties(unit, {"Id": unit, "ActiveState": "active"}) for unit in units)

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            if self.failure:
                raise InspectionFailed(self.failure)
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.waiting -= 1
