"""A client that is not what is measured: the API on a machine's own socket, asked as `fleetctl` does, at less cost."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from fleetctl.batches import cut_into_batches
from fleetd.api import schema
from fleetd.model.unit_option import UnitOption

CONNECTIONS = 32
DEADLINE_S = 120.0
BUSY, GONE = 503, 404
Reports = dict[str, schema.UnitReport]

_decode = msgspec.json.Decoder(schema.UnitReports).decode
_decode_outcomes = msgspec.json.Decoder(schema.Results).decode


class Api:
    """The API of one machine. As a context manager it closes its connections."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            "http://fleet", connector=aiohttp.UnixConnector(str(socket), limit=CONNECTIONS)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def start(self, name: str, options: Sequence[UnitOption]) -> None:
        """Submit a unit and ask for it to run, in one request. Raises ClientResponseError."""
        operation = schema.Unit(name, tuple(options), desired_state="launched")
        body, headers = msgspec.json.encode(operation), {"Content-Type": schema.JSON_TYPE}
        async with self._session.put(f"{schema.V1}/units/{name}", data=body, headers=headers, raise_for_status=True):
            pass

    async def start_all(self, names: Sequence[str], options: Sequence[UnitOption]) -> None:
        """The same for many, in as few requests as may be. Raises RuntimeError where one of the units is refused."""
        await self._carry_out([schema.UnitOperation(name, tuple(options), "launched") for name in names])

    async def put_all(self, names: Collection[str], options: Sequence[UnitOption]) -> None:
        """The same with a request for each, as version 1 has it."""
        await asyncio.gather(*(self.start(name, options) for name in names))

    async def destroy(self, name: str) -> None:
        async with self._session.delete(f"{schema.V1}/units/{name}", raise_for_status=True):
            pass

    async def destroy_all(self, names: Sequence[str]) -> None:
        await self._carry_out([schema.UnitOperation(name, destroy=True) for name in names])

    async def _carry_out(self, operations: Sequence[schema.UnitOperation]) -> None:
        """Repeat what is refused because the store was too busy to answer in time, as a user would."""
        deadline = time.monotonic() + DEADLINE_S
        for left in cut_into_batches(operations):
            while left:
                refused = await self._ask_for(left)
                if time.monotonic() > deadline or any(status != BUSY for status in refused.values()):
                    raise RuntimeError(f"refused: {refused}")
                left = [operation for operation in left if operation.name in refused]

    async def _ask_for(self, operations: Sequence[schema.UnitOperation]) -> dict[str, int]:
        """The units that were refused, with the status."""
        body, headers = (
            msgspec.json.encode(schema.UnitOperations(tuple(operations))),
            {"Content-Type": schema.JSON_TYPE},
        )
        async with self._session.post(f"{schema.V2}/units", data=body, headers=headers) as response:
            if response.status == BUSY:
                return dict.fromkeys((operation.name for operation in operations), BUSY)
            response.raise_for_status()
            results = _decode_outcomes(await response.read()).results
        return {result.name: result.code for result in results if result.code >= 400 and result.code != GONE}

    async def reports(self, name: str = "") -> Reports:
        """What is known of one unit, or of all."""
        query = {"name": name} if name else {}
        async with self._session.get(f"{schema.V2}/units", params=query, raise_for_status=True) as response:
            return {report.name: report for report in _decode(await response.read()).units}

    async def wait(self, holds: Callable[[Reports], bool], poll_s: float, name: str = "") -> float:
        """The time.monotonic() at which an answer was in that holds. Raises TimeoutError."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            reports = await self.reports(name)
            now = time.monotonic()
            if holds(reports):
                return now
            if now > deadline:
                raise TimeoutError(f"not within {DEADLINE_S:.0f} s; the last answer: {_summary(reports)}")
            await asyncio.sleep(poll_s)


def active_on(report: schema.UnitReport) -> str:
    """The machine that a unit belongs to and is active on, or ''."""
    active = any(
        allocation.machine == report.machine and allocation.active == "active" for allocation in report.allocations
    )
    return report.machine if active else ""


def are_active(reports: Reports, names: Collection[str], besides: str = "") -> bool:
    """Whether all of them are active where they belong, and that is not on the machine `besides`."""
    return all(name in reports and active_on(reports[name]) not in ("", besides) for name in names)


def _summary(reports: Reports) -> str:
    active = sum(1 for report in reports.values() if active_on(report))
    return f"{active} of {len(reports)} units active"
