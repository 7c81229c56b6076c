"""A cluster of two machines in one thread: the real API, leader and agents, over simulated systemds and one store."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from fleetd.agent import Agent
from fleetd.agent.ledger import Ledger
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.leader.election import Election
from fleetd.membership.registration import Membership, Registration
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.machine import Machine
from fleetd.registry.registry import Registry
from fleetd.scheduler.failover import FailoverPolicy
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.testing.simulated_units import Behaviour

TTL_S = 10.0
LOG = logging.getLogger("small cluster")


class SmallCluster:
    """Serves on the unix socket `fleet.sock` in `directory` until it is closed; units behave as `behaviours` say."""

    def __init__(self, directory: Path, behaviours: dict[str, Behaviour]) -> None:
        self.endpoint = f"unix://{directory}/fleet.sock"
        self._directory = directory
        self._behaviours = behaviours
        self._memberships: list[Membership] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._ready.wait(30)

    async def _run(self) -> None:
        self._closed = asyncio.Event()
        store = EmbeddedStore(":memory:", offload=inline)
        server = Server(Api(Registry(store)))
        parts = [part for number in "12" for part in await self._open_machine(number, Registry(store))]
        tasks = [asyncio.create_task(part) for part in parts]
        await server.start([Address(path=f"{self._directory}/fleet.sock")], insecure=False)
        for membership in self._memberships:
            await membership.registered.wait()
        self._ready.set()
        closed = asyncio.create_task(self._closed.wait())
        ended, _ = await asyncio.wait([closed, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()
        await store.close()
        for task in ended:
            task.result()  # a part that has failed is loud, and fleetctl then reaches no API

    async def _open_machine(self, number: str, registry: Registry) -> list[Coroutine[Any, Any, None]]:
        """What runs on one machine, not yet begun."""
        now = asyncio.get_running_loop().time
        systemd = SimulatedSystemd()
        for name, behaviour in self._behaviours.items():
            systemd.behave(name, behaviour)
        await systemd.connect()
        runtime = self._directory / number
        runtime.mkdir()
        registration = Registration(number, now)
        epoch = StoreEpoch(registry, number * 32)
        agent = Agent(number * 32, registry, systemd, Ledger(runtime, LOG), epoch, registration, LOG)
        membership = Membership(
            Machine(id=number * 32, session=number, address=f"10.0.0.{number}", metadata={"number": number}),
            registry,
            registration,
            ttl_s=TTL_S,
            parked_ttl_s=60.0,
            now=now,
            publish=agent.publish_all,
            heard=agent.check,
            former_lease=0,
        )
        self._memberships.append(membership)
        election = Election(
            number * 32,
            registry,
            membership,
            epoch,
            ttl_s=TTL_S,
            handover_timeout_s=30.0,
            failover=FailoverPolicy(),
            compact=False,
            now=now,
            unix_now=time.time,
            new_id=lambda: uuid.uuid4().hex,
            offload=asyncio.to_thread,
        )

        async def lead() -> None:
            await membership.registered.wait()
            await election.run()

        return [membership.run(), agent.run(), lead()]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()
        self._loop.close()
