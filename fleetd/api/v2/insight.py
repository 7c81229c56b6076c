"""What units log, and what systemd says of them on their machines: read there, without SSH."""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.asking import Asking, Item
from fleetd.api.http import ApiError, Request, Response, StreamedResponse, render_json
from fleetd.api.v2.former_machines import find_former_machines
from fleetd.api.v2.kept_events import KeptEvents
from fleetd.api.v2.parameters import read_all, read_number, read_one, read_time, read_truth
from fleetd.api.v2.unit_selection import select_units
from fleetd.model.machine_request import JournalQuery, MachineAnswer, MachineRequest, merge_entries, name_machine
from fleetd.model.name_patterns import is_name_pattern
from fleetd.model.names import is_template
from fleetd.registry.records import UNITS
from fleetd.registry.registry import Reader, Registry

NDJSON = "application/x-ndjson"
STATUS_LINES = 10  # of the log of each unit, as in systemctl status

_UNIT_FIELDS = ("_SYSTEMD_UNIT", "UNIT", "_SYSTEMD_USER_UNIT", "USER_UNIT")

Places = dict[str, list[str]]  # machine → names of units


class Insight:
    """The resources."""

    def __init__(self, registry: Registry, asking: Asking, kept: KeptEvents, unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._kept = kept
        self._unix_now = unix_now
        self._asking = asking

    async def get_journal(self, request: Request, _: str) -> Response | StreamedResponse:
        """Show the last entries that units logged on their machines, as lines of JSON: systemd's own fields and
        `machine`, by time. The query names units (`unit`, names or patterns), and maybe `machine` (beginnings of ids;
        these are asked whether they have the units now or not), `lines` of each machine (10), `since` (a Unix time),
        `grep`, and `after` (`MACHINE:CURSOR`: the first entries after that one). Lines with `failure` name machines
        that did not answer, those with `cut` machines that have more. With `follow=true`, entries come as they are
        logged, in the order in which they come, with an empty line now and then, until all machines have ended. With
        `previous=true`, the machines are asked, too, on which the units were before, as far as events tell."""
        lines, since_s = read_number(request, "lines", 10), read_time(request, "since")
        grep, cursors = read_one(request, "grep"), _cursors(request)
        follow = read_truth(request, "follow", False) and request.method != "HEAD"
        reader = self._registry.at_one_revision()
        units = await _find_units(reader, request)
        known = await reader.machines()
        machines = _find_machines(known, request)
        places = {id_: list(units) for id_ in machines} if machines else await _find_places(reader, units, known)
        if read_truth(request, "previous", False):
            await self._add_former(places, units)
        requests = {
            id_: MachineRequest(
                self._asking.asker,
                JournalQuery(tuple(names), lines, since_s, grep, cursors.get(id_, ""), follow),
                user=request.actor.identity,
            )
            for id_, names in places.items()
        }
        if follow:
            _check(requests)
            chunks = _stream_lines(await self._asking.begin_to_follow(requests))
            return StreamedResponse(200, chunks, (("Content-Type", NDJSON),))
        answers = await self._ask(requests)
        entries = merge_entries(answers.items())
        return Response(200, (("Content-Type", NDJSON),), b"".join(_lines([*entries, *_remarks(answers)])))

    async def get_status(self, request: Request, _: str) -> Response:
        """Show what systemd says of units on their machines, and the last entries of their logs there. The query names
        units (`unit`, names or patterns), and maybe `machine` (beginnings of ids)."""
        reader = self._registry.at_one_revision()
        units = await _find_units(reader, request)
        known = await reader.machines()
        machines = _find_machines(known, request)
        found_there = await _find_places(reader, units, known)
        places = {id_: names for id_, names in found_there.items() if id_ in machines or not machines}
        requests = {
            id_: MachineRequest(self._asking.asker, JournalQuery(tuple(names), STATUS_LINES * len(names)), tuple(names))
            for id_, names in places.items()
        }
        answers = await self._ask(requests)
        addresses = {id_: machine.address for id_, machine in known.items()}
        found = [
            each
            for id_, answer in answers.items()
            for each in _statuses(id_, addresses.get(id_, ""), places[id_], answer)
        ]
        silent = tuple(
            schema.SilentMachine(id_, answer.failure, addresses.get(id_, ""))
            for id_, answer in answers.items()
            if answer.failure
        )
        found.sort(key=lambda each: (each.unit, each.machine))
        return render_json(schema.UnitStatuses(tuple(found), silent))

    async def _add_former(self, places: Places, units: Sequence[str]) -> None:
        """Add where the units were before."""
        now = {unit: [machine for machine, names in places.items() if unit in names] for unit in units}
        for unit, machine in (await find_former_machines(self._kept, now, self._unix_now())).items():
            places.setdefault(machine, []).append(unit)

    async def _ask(self, requests: Mapping[str, MachineRequest]) -> dict[str, MachineAnswer]:
        _check(requests)
        return await self._asking.ask(requests)


def _check(requests: Mapping[str, MachineRequest]) -> None:
    """Raises ApiError for what cannot be asked."""
    for request in requests.values():
        if refusal := request.refuse():
            raise ApiError(400, refusal)


async def _find_units(reader: Reader, request: Request) -> list[str]:
    """The existing units that the query names, in order. Raises ApiError if it names none, or one that is none."""
    asked = read_all(request, "unit")
    if not asked:
        raise ApiError(400, "name units: ?unit=NAME or ?unit=PATTERN")
    if not any(map(is_name_pattern, asked)):
        found = await reader.get_many(UNITS, [(name,) for name in asked if "/" not in name])
        names = sorted(name for (name,) in found)
    else:
        names = list(filter(select_units(asked).match, await reader.units()))
    names = [name for name in names if not is_template(name)]
    if not names:
        raise ApiError(404, f"there is no unit {' or '.join(asked)} that can run")
    return names


def _find_machines(known: Collection[str], request: Request) -> list[str]:
    """Those of the known machines that the query names. Raises ApiError for a beginning that is not that of one
    machine's id."""
    found: list[str] = []
    for beginning in read_all(request, "machine"):
        matching = [beginning] if beginning in known else [id_ for id_ in known if id_.startswith(beginning)]
        if len(matching) != 1:
            why = "is not the beginning of the id of" if not matching else "is that of more than"
            raise ApiError(400, f"machine={beginning} {why} one machine of the cluster")
        found += matching
    return list(dict.fromkeys(found))


async def _find_places(reader: Reader, units: Sequence[str], machines: Collection[str]) -> Places:
    """Those of all `machines` whose systemd has these units, by id, with the units there."""
    states = await reader.states_of(units, machines)
    places: Places = {}
    for machine, unit in sorted(states):
        if states[machine, unit].hash or states[machine, unit].runs:
            places.setdefault(machine, []).append(unit)
    return places


def _cursors(request: Request) -> dict[str, str]:
    """The cursors by machine. Raises ApiError."""
    found: dict[str, str] = {}
    for text in read_all(request, "after"):
        machine, colon, cursor = text.partition(":")
        if not (machine and colon and cursor):
            raise ApiError(400, f"after={text}: write the id of a machine, a colon, and the cursor of an entry there")
        if machine in found:
            raise ApiError(400, f"after names machine {machine} twice: once is enough")
        found[machine] = cursor
    return found


def _lines(values: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    for value in values:
        yield encode(value)
        yield b"\n"


async def _stream_lines(items: AsyncGenerator[Item, None]) -> AsyncGenerator[bytes, None]:
    """What machines send, as lines of JSON."""
    encode = msgspec.json.Encoder().encode
    async with aclosing(items):
        async for machine, item in items:
            if isinstance(item, MachineAnswer):
                yield encode({"machine": machine, "failure": item.failure or "its log has ended"}) + b"\n"
            elif not machine:
                yield b"\n"
            elif (fields := name_machine(msgspec.Raw(item), machine)) is not None:
                yield encode(fields) + b"\n"


def _remarks(answers: Mapping[str, MachineAnswer]) -> Iterator[dict[str, Any]]:
    """What is to be said of machines that do not show everything."""
    for machine, answer in answers.items():
        if answer.failure:
            yield {"machine": machine, "failure": answer.failure}
        elif answer.is_cut:
            yield {"machine": machine, "cut": True}


def _statuses(machine: str, address: str, asked: Sequence[str], answer: MachineAnswer) -> Iterator[schema.UnitStatus]:
    """What the machine says of the units that it was asked about, each with its last entries."""
    logs: dict[object, deque[dict[str, Any]]] = {unit: deque(maxlen=STATUS_LINES) for unit in asked}
    for entry in merge_entries([(machine, answer)]):
        for unit in {text for text in map(entry.get, _UNIT_FIELDS) if isinstance(text, str)}:
            if unit in logs:
                logs[unit].append(entry)
    for each in answer.units:
        if (log := logs.pop(each.unit, None)) is not None:  # each once
            yield schema.UnitStatus(each.unit, machine, address, each.properties, tuple(log))
