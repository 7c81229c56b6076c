"""An inspector that says what a test has it say."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

from fleetd.model.machine_request import MAX_TEXT_BYTES, ImageAnswer, JournalQuery, UnitProperties
from fleetd.systemd.inspector import Entries, InspectionFailed


def entry(number: int, unit: str, text: str = "said") -> bytes:
    """An entry as systemd's JSON."""
    return json.dumps({"__REALTIME_TIMESTAMP": str(number), "_SYSTEMD_UNIT": unit, "MESSAGE": text}).encode()


class ScriptedInspector:
    """Has these entries, and for whoever follows those that are put into `later`, until None. `failure` fails every
    question, `hangs` lets them wait for ever, `others` are units that it describes though nobody asks; `asked` are
    those so far, `following` those that are followed now. `images` have these digests in their registries; of others
    that says `refusals`, or that there is no such manifest."""

    def __init__(self, *entries: bytes) -> None:
        self.entries = entries
        self.failure = ""
        self.hangs = False
        self.others: tuple[str, ...] = ()
        self.asked: list[JournalQuery] = []
        self.waiting = 0
        self.later: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.following = 0
        self.images: dict[str, str] = {}
        self.refusals: dict[str, str] = {}  # what is said of an image that is not there
        self.has_skopeo = True

    async def read_journal(self, query: JournalQuery, most_bytes: int = MAX_TEXT_BYTES) -> Entries:
        self.asked.append(query)
        await self._wait()
        own = [line for line in self.entries if _is_about(line, query.units)]
        cursors = [json.loads(line).get("__CURSOR") for line in own]
        if query.after in cursors:
            own = own[cursors.index(query.after) + 1 :]
        kept = own[: query.lines] if query.after else own[max(0, len(own) - query.lines) :]
        is_cut = bool(query.after) and len(kept) < len(own)
        while sum(map(len, kept)) > most_bytes:
            kept.pop(-1 if query.after else 0)
            is_cut = True
        return Entries(tuple(kept), is_cut)

    async def follow_journal(self, query: JournalQuery) -> AsyncGenerator[bytes, None]:
        for line in (await self.read_journal(query)).lines:
            yield line
        self.following += 1
        try:
            while (line := await self.later.get()) is not None:
                if _is_about(line, query.units):
                    yield line
        finally:
            self.following -= 1

    async def show_units(self, units: Sequence[str]) -> tuple[UnitProperties, ...]:
        await self._wait()
        return tuple(UnitProperties(unit, {"Id": unit, "ActiveState": "active"}) for unit in (*self.others, *units))

    async def resolve_image(self, image: str) -> ImageAnswer:
        await self._wait()
        if not self.has_skopeo:
            return ImageAnswer(failure="cannot run skopeo: No such file or directory", cannot_ask=True)
        digest = self.images.get(image, "")
        return ImageAnswer(digest, "" if digest else self.refusals.get(image, f"{image}: manifest unknown"))

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            if self.failure:
                raise InspectionFailed(self.failure)
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.waiting -= 1


def _is_about(line: bytes, units: Sequence[str]) -> bool:
    """True for what one of the units logged, or systemd of it."""
    fields = json.loads(line)
    return fields.get("_SYSTEMD_UNIT") in units or fields.get("UNIT") in units
