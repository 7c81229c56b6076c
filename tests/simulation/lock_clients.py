"""Clients of locks in a simulated cluster, each with a clock of its own, and the checker of what must never happen:
more of them run with one lock at a moment than it has slots.

They do what `fleetctl lock` does. Their faults are draws of their own, so that other seeds stay as they are.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from random import Random

import msgspec

from fleetd.api import schema
from fleetd.api.http import Request, Response, StreamedResponse
from fleetd.api.lock_schema import HELD
from fleetd.model.lock import KILL_PART, RENEW_PART, Step, next_step
from tests.actors import ADMIN
from tests.simulation.actions import Action, perform
from tests.simulation.clock import run_cluster
from tests.simulation.faults import FAULTS
from tests.simulation.machine import SimulatedMachine
from tests.simulation.run import RunResult, simulation_directory
from tests.simulation.world import World

MACHINES: Mapping[str, Mapping[str, str]] = {"m1": {}, "m2": {}, "m3": {}}
KINDS = ("power-cut", "reboot", "pause", "kill", "restart", "cut", "unheard", "unanswered", "lossy", "slow", "deaf")
STORE_KINDS = ("store-crash", "store-freeze", "store-compact", "expire")
SLOTS = {"one": 1, "two": 2}
TTLS_S = (3.0, 5.0, 12.0)
DRIFT = 0.01  # of a client's clock
REQUEST_S = 3.0  # that a renewal may take
SILENCE_S = 45.0
LENGTH_S = 600.0
_JSON = (("Content-Type", schema.JSON_TYPE),)


class LockChecker:
    """Who runs with which lock. `ran` counts all who did, `latest` is the greatest token of a lock with one slot."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: dict[str, dict[int, str]] = {lock: {} for lock in SLOTS}
        self.ran = 0
        self._latest = ""

    def begin(self, lock: str, client: int, token: str) -> None:
        """A client runs from now on."""
        running = self._running[lock]
        running[client] = token
        self.ran += 1
        self._world.say(f"client {client} runs with lock {lock}, {token}")
        if len(running) > SLOTS[lock]:
            self._world.fail("OneHolder", f"with lock {lock} run clients {running}")
        if SLOTS[lock] == 1:
            if token <= self._latest:
                self._world.fail("TokensRise", f"{token} comes after {self._latest}")
            self._latest = max(self._latest, token)

    def end(self, lock: str, client: int) -> None:
        """It has ended."""
        del self._running[lock][client]
        self._world.say(f"client {client} has ended with lock {lock}")


class LockClient:
    """Takes a lock again and again, through whichever machine answers. Of its commands, some end by themselves, some at
    SIGTERM, some by SIGKILL alone, and some leave the lock without a release."""

    def __init__(self, world: World, number: int, checker: LockChecker) -> None:
        self._world = world
        self._number = number
        self._checker = checker
        self._random = Random(f"lock client {world.seed} {number}")
        self._rate = 1 + self._random.uniform(-DRIFT, DRIFT)
        self._lock = self._random.choice(tuple(SLOTS))

    def _now(self) -> float:
        return self._world.loop.time() * self._rate

    async def _sleep(self, own_s: float) -> None:
        await asyncio.sleep(max(0.0, own_s) / self._rate)

    async def run(self) -> None:
        """Go on until cancelled."""
        await asyncio.sleep(self._random.uniform(0, 20))
        while True:
            await self._take()
            await asyncio.sleep(self._random.uniform(0.1, 3))

    def _find_machine(self) -> SimulatedMachine | None:
        serving = [machine for machine in self._world.machines.values() if machine.serves]
        return self._random.choice(serving) if serving else None

    async def _ask(self, method: str, path: str, body: bytes = b"") -> Response | StreamedResponse | None:
        """The answer of a machine; None if there was none."""
        machine = self._find_machine()
        if machine is None or machine.node is None:
            return None
        request = Request(method, f"{schema.V2}/{path}", headers=_JSON, body=body, actor=ADMIN)
        try:
            async with asyncio.timeout(REQUEST_S):
                response = await machine.node.api.handle(request)
                await machine.link.awake.wait()
                return response
        except TimeoutError:
            return None

    async def _take(self) -> None:
        ttl_s = self._random.choice(TTLS_S)
        asked = schema.LockRequest(ttl_s, SLOTS[self._lock], self._random.choice((None, 30.0)))
        response = await self._ask("POST", f"locks/{self._lock}", msgspec.json.encode(asked))
        if not isinstance(response, StreamedResponse):
            return
        async with aclosing(response.chunks) as chunks:
            answer = await self._await_lock(chunks)
        if answer is None:
            return
        sent = await self._renew(answer.session)
        if sent is not None:
            await self._hold(answer, ttl_s, sent)

    async def _await_lock(self, chunks: AsyncGenerator[bytes, None]) -> schema.LockAnswer | None:
        """The answer that gives the lock."""
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    answer = msgspec.json.decode(await anext(chunks), type=schema.LockAnswer)
                if answer.state == HELD:
                    return answer
        except (StopAsyncIteration, TimeoutError):
            return None

    async def _renew(self, session: str) -> float | None:
        """When a renewal was sent that was answered; None if it was not."""
        sent = self._now()
        response = await self._ask("PUT", f"lock-sessions/{session}")
        return sent if isinstance(response, Response) and response.status == 200 else None

    async def _hold(self, answer: schema.LockAnswer, ttl_s: float, sent: float) -> None:
        """Run a command with the lock, and renew it meanwhile."""
        self._checker.begin(self._lock, self._number, answer.token)
        random = self._random
        ends = self._now() + random.choice((0.2, 2.0, 20.0, 60.0))
        needs_kill = random.random() < 0.5
        renewed = sent
        times: list[float] = []
        renewing = asyncio.create_task(self._keep(answer.session, ttl_s, times))
        try:
            while self._now() < ends:
                renewed = max([renewed, *times])
                step, until = next_step(renewed, ttl_s, self._now())
                if step is Step.KILL or (step is Step.TERM and not needs_kill):
                    break
                await self._sleep(min(until, ends, renewed + ttl_s * KILL_PART, self._now() + 0.5) - self._now())
        finally:
            renewing.cancel()
            self._checker.end(self._lock, self._number)
        if random.random() < 0.8:
            await self._ask("DELETE", f"lock-sessions/{answer.session}")

    async def _keep(self, session: str, ttl_s: float, times: list[float]) -> None:
        while True:
            await self._sleep(ttl_s * RENEW_PART)
            while (sent := await self._renew(session)) is None:
                await self._sleep(0.5)
            times.append(sent)


def draw_faults(seed: int) -> list[Action]:
    """The faults of this seed's run, in order."""
    random = Random(f"lock faults {seed}")
    kinds = (*random.sample(KINDS, 5), *random.sample(STORE_KINDS, 2), "snapshot", "restore")
    drawn = {verb: draw for _, verb, draw in FAULTS}
    actions, at_s = [], 30.0
    while at_s < LENGTH_S - 100:
        verb = random.choices(kinds, weights=[4] * 7 + [1, 1])[0]
        args, for_s = drawn[verb](random)
        if "m4" not in args:
            actions.append(Action(round(at_s, 2), verb, args, for_s))
        at_s += random.expovariate(1 / 15.0)
    return actions


def run_lock_seed(seed: int, clients: int = 8) -> tuple[RunResult, int]:
    """Run this seed: its result, and how often somebody ran with a lock."""
    with simulation_directory() as path:

        async def run() -> tuple[RunResult, int]:
            world = World(path, seed, MACHINES)
            checker = LockChecker(world)
            tasks: list[asyncio.Task[None]] = []
            try:
                for machine in world.machines.values():
                    await machine.boot()
                tasks = [asyncio.create_task(LockClient(world, each, checker).run()) for each in range(clients)]
                for action in [*draw_faults(seed), None]:
                    at_s = action.at_s if action else LENGTH_S
                    done, _ = await asyncio.wait(
                        [*tasks, failing := asyncio.create_task(world.failed.wait())],
                        timeout=at_s - world.now_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    failing.cancel()
                    for task in done - {failing}:
                        task.result()  # a client never ends: raises its error
                    if world.failure or action is None:
                        break
                    await perform(world, action)
                return RunResult(world.failure, tuple(world.lines), world.digest, world.now_s), checker.ran
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await world.close()

        return run_cluster(run())
