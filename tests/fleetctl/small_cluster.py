"""A cluster of two machines in one event loop: API, leaders and agents over simulated systemds and one store."""

import asyncio
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from fleetd.agent.agent import Agent
from fleetd.agent.ledger import Ledger
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.leader.election import Election
from fleetd.membership.registration import Membership, Registration
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.machine import Capability, Machine
from fleetd.registry.registry import Registry
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.testing.scripted_prober import ScriptedProber
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.testing.simulated_units import Behaviour
from tests.fleetctl.background import BackgroundLoop

TTL_S = 10.0


class SmallCluster:
    """Serves on the unix socket `fleet.sock` in `directory` until it is closed; units behave as `behaviours` say."""

    def __init__(self, loop: BackgroundLoop, directory: Path, behaviours: dict[str, Behaviour]) -> None:
        self.unix = f"unix://{directory}/fleet.sock"
        self.prober = ScriptedProber()
        self._directory = directory
        self._behaviours = behaviours
        self._memberships: list[Membership] = []
        self._loop = loop
        loop.do(self._open())

    async def _open(self) -> None:
        self._store = EmbeddedStore(":memory:", offload=inline)
        self._server = Server(Api(Registry(self._store)))
        parts = [part for number in "12" for part in await self._open_machine(number, Registry(self._store))]
        self._tasks = [asyncio.create_task(part) for part in parts]
        await self._server.start([Address(path=f"{self._directory}/fleet.sock")], insecure=False)
        for membership in self._memberships:
            await membership.registered.wait()

    def close(self) -> None:
        self._loop.do(self._close())

    async def _close(self) -> None:
        """Raises the error of a part that has failed."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop()
        await self._store.close()
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    async def _open_machine(self, number: str, registry: Registry) -> list[Coroutine[Any, Any, None]]:
        """The coroutines of one machine, not yet started."""
        now = asyncio.get_running_loop().time
        systemd = SimulatedSystemd()
        for name, behaviour in self._behaviours.items():
            systemd.behave(name, behaviour)
        await systemd.connect()
        runtime = self._directory / number
        runtime.mkdir()
        registration = Registration(number, now)
        epoch = StoreEpoch(registry, number * 32)
        agent = Agent(
            number * 32,
            registry,
            systemd,
            Ledger(runtime),
            epoch,
            registration,
            prober=self.prober,
            place=lambda _: (f"10.0.0.{number}", ""),
        )
        membership = Membership(
            Machine(
                id=number * 32,
                session=number,
                address=f"10.0.0.{number}",
                metadata={"number": number},
                capabilities=dict.fromkeys(Capability, True),
            ),
            registry,
            registration,
            ttl_s=TTL_S,
            now=now,
            publish=agent.publish_all,
            heard=agent.heartbeat_answered,
            former_lease=0,
        )
        self._memberships.append(membership)
        election = Election(
            number * 32,
            registry,
            membership,
            epoch,
            ttl_s=TTL_S,
            failover=FailoverPolicy(handover_timeout_s=30.0),
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
