"""Machines: list them, change their metadata, and remove one that is parked."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.audit import asked_machine
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.pagination import parse_page, read_page
from fleetd.api.reboot_queue import phase_of
from fleetd.model.machine import (
    DrainRequest,
    Machine,
    MachineMode,
    MachineSettings,
    effective_metadata,
    overlay_metadata,
)
from fleetd.registry.records import MACHINES, REBOOT_REQUESTS, REBOOTS, SETTINGS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Delete

MAX_EDITS = 1000  # in one request
OPERATIONS = ("add", "remove", "replace")
EDITED_PATH = re.compile(r"/([^/]+)/metadata/([A-Za-z0-9_.-]+)")


class MetadataEdit(msgspec.Struct, frozen=True):
    """One operation in a request. `value` is a string, or an object with a string under `value`."""

    op: str = ""
    path: str = ""
    value: Any = None


def describe_machine(machine: Machine, settings: MachineSettings | None, reboot: str = "") -> schema.Machine:
    """The machine as version 1 shows it; a ready one without a mode. `reboot` is the phase of its reboot."""
    cordon, drain = (settings.cordon, settings.drain) if settings else (None, None)
    return schema.Machine(
        id=machine.id,
        primary_ip=machine.address,
        metadata=effective_metadata(machine, settings),
        mode="" if machine.mode is MachineMode.READY else machine.mode,
        cordon=schema.Cordon(cordon.why, cordon.by, cordon.at) if cordon else None,
        drain=describe_drain(drain) if drain else None,
        reboot=reboot,
        reboot_required=machine.reboot_required,
        certificate_expires=int(machine.certificate_expires_s),
    )


def describe_drain(drain: DrainRequest) -> schema.Drain:
    """What was asked for."""
    return schema.Drain(drain.by, drain.at, drain.deadline, drain.with_globals, drain.force)


def parse_edits(body: bytes) -> dict[str, list[tuple[str, str]]]:
    """The metadata changes, in order: machine → (key, value), '' to hide the key. Raises ApiError."""
    edits: dict[str, list[tuple[str, str]]] = {}
    asked: list[MetadataEdit] = parse_json(body, list[MetadataEdit] | None) or []  # type: ignore[arg-type]
    if len(asked) > MAX_EDITS:
        raise ApiError(413, f"{len(asked)} operations in one request, and at most {MAX_EDITS} are allowed")
    for edit in asked:
        if edit.op not in OPERATIONS:
            raise ApiError(400, "invalid op: expect add, remove, or replace")
        found = EDITED_PATH.fullmatch(edit.path)
        if not found:
            raise ApiError(400, "machine metadata path invalid")
        value = edit.value.get("value") if isinstance(edit.value, dict) else edit.value
        if edit.op == "remove":
            value = ""
        elif not isinstance(value, str) or not value:
            raise ApiError(400, "invalid value: add and replace require a value")
        edits.setdefault(found[1], []).append((found[2], value))
    return edits


def _overlay(edits: Sequence[tuple[str, str]], settings: MachineSettings, machine: Machine | None) -> MachineSettings:
    return overlay_metadata(settings, edits, machine.metadata if machine else None)


class Machines:
    """The resource."""

    def __init__(self, registry: Registry, token_limit: int) -> None:
        self._registry = registry
        self._token_limit = token_limit

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of machines, by id."""
        page = parse_page(request, self._token_limit)
        reader = self._registry.at_one_revision()
        machines, token = await read_page(reader, MACHINES, page)
        keys = [(id_,) for id_ in machines]
        settings = await reader.get_many(SETTINGS, keys)
        requests, reboots = await reader.read(REBOOT_REQUESTS), await reader.read(REBOOTS)  # mostly there are none
        phases = {key[0]: phase_of(requests.get(key), reboots.get(key)) for key in keys}
        entities = tuple(
            describe_machine(machine, settings.get((id_,)), phases[id_]) for id_, machine in machines.items()
        )
        return render_json(schema.MachinePage(entities, token))

    async def delete(self, _: Request, id_: str) -> Response:
        """Give up a parked machine."""
        item = await self._registry.store.get(self._registry.key(MACHINES, id_))
        if item is None:
            raise ApiError(404, "machine does not exist")
        if MACHINES.decode(item).mode is not MachineMode.PARKED:
            raise ApiError(409, "machine is not parked: its fleetd is running; run `fleetd leave` there")
        await self._registry.store.revoke(item.lease)  # deletes its key and states, so the machine counts as dead
        await self._registry.store.transact([], [Delete(self._registry.key(REBOOT_REQUESTS, id_))])
        return Response(204)

    async def patch(self, request: Request, _: str) -> Response:
        """Change metadata: everything is validated first, then written machine by machine."""
        edits = parse_edits(request.body)
        known = await self._registry.known_machines(edits)
        for machine in edits:
            if machine not in known:
                raise ApiError(
                    404, f'unknown machine "{machine}": give the full id of a machine that is or was in the cluster'
                )
        for machine, metadata in edits.items():
            try:
                await self._registry.change_settings(
                    machine, partial(_overlay, metadata), asked_machine(request.user, "set-metadata", machine)
                )
            except MalformedRecord:
                raise
            except ValueError as error:
                raise ApiError(413, f'metadata of machine "{machine}" cannot be stored: {error}') from error
        return Response(204, (("Content-Type", schema.JSON_TYPE),))  # as CoreOS fleet: its clients check it
