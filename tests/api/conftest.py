"""Shared by the API's tests: an API on a store in memory, and short requests to it."""

import json as json_
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

from fleetd.api.http import Request, Response
from fleetd.api.routes import Api
from fleetd.api.schema import USER_HEADER
from fleetd.config.options import Address
from fleetd.model.actor import Actor, claimed_name
from fleetd.model.machine import Machine
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFile
from fleetd.registry.records import Record
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline

Headers = tuple[tuple[str, str], ...]
JSON: Headers = (("Content-Type", "application/json"),)
SYSTEM_UNITS = {"ssh.service": "/lib/systemd/system/ssh.service"}


class Fleet:
    """A registry for tests to fill, and the API on it."""

    def __init__(self, registry: Registry, **options: Any) -> None:
        self.registry = registry
        self.rights = EVERY_RIGHT  # of whoever asks
        self.local = False  # whether over a unix socket
        self.options = {"shadows": lambda name: SYSTEM_UNITS.get(name, ""), **options}
        self.api = Api(registry, **self.options)

    def reconfigure(self, **options: Any) -> None:
        self.api = Api(self.registry, **{**self.options, **options})

    async def ask(self, request: str, body: Any = None, headers: Headers | None = None) -> Response:
        """Send `METHOD /path?query`. A body that is not bytes is encoded as JSON. Without headers the request is
        declared as JSON."""
        method, url = request.split(" ", 1)
        path, _, query = url.partition("?")
        sent = (JSON if body is not None else ()) if headers is None else headers
        content = body if isinstance(body, bytes) else b"" if body is None else json_.dumps(body).encode()
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        actor = Actor(claimed_name(value for name, value in sent if name == USER_HEADER), rights=self.rights)
        return await self.api.handle(Request(method, unquote(path), pairs, sent, content, self.local, actor=actor))

    async def refused(self, request: str, body: Any = None, headers: Headers | None = None) -> tuple[int, str]:
        """Send a request that must be refused, and check the error's shape. Return status and message."""
        response = await self.ask(request, body, headers)
        entity = json_.loads(response.body)
        assert ("Content-Type", "application/json") in response.headers
        assert list(entity) == ["error"]
        assert list(entity["error"]) == ["code", "message"]
        assert entity["error"]["code"] == response.status
        return response.status, entity["error"]["message"]

    async def put(self, record: Record, *names: str) -> None:
        """Write a record as the leader or a machine does. A machine that reports a state is registered too."""
        puts = [self.registry.put(record, *names)]
        if isinstance(record, UnitState) and names[0] not in await self.registry.machines():
            puts.append(self.registry.put(Machine(names[0]), names[0]))
        await self.registry.store.transact([], puts)

    async def add_unit(
        self, name: str, text: str = "[Service]\nExecStart=/bin/true\n", target: str = "inactive"
    ) -> Unit:
        """Write a unit as an API request does. Return it with its generation."""
        unit = Unit(name, UnitFile.parse(text).text, TargetState(target))
        await self.registry.write_unit(unit, None)
        return await self.unit(name)

    async def unit(self, name: str) -> Unit:
        """The unit as it is stored."""
        unit, _ = await self.registry.unit_and_decision(name)
        assert unit is not None
        return unit


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    store = EmbeddedStore(":memory:", offload=inline)
    yield Fleet(Registry(store))
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Address:
    """The path of a unix socket to serve on."""
    return Address(path=str(tmp_path / "fleet.sock"))
