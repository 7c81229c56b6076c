"""The operators of a simulated cluster: they request operations on units through the API, and record the answers.

Acknowledged operations must be in the store; refused ones may be. invariants.py compares the two.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec

from fleetd.api import schema
from fleetd.api.http import Request, Response
from fleetd.model.content import Content
from fleetd.model.group import group_of
from fleetd.model.names import is_template
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unitfile import parse_unit_file
from tests.simulation.machine import SimulatedMachine
from tests.simulation.units import ROLLED, rolled_text, unit_dropins, unit_text

UnitOperation = tuple[Content, TargetState] | None  # content and target state; None: no such unit
IN_DOUBT_S = 30.0  # how long an abandoned request may be on its way
PATIENCE_S = 20.0
ARRIVAL_S = 120  # how long a unit is waited for that moves
_JSON = (("Content-Type", schema.JSON_TYPE),)


class Operators:
    """Operations go to the first machine that answers, starting with another one each time."""

    def __init__(self, machines: Sequence[SimulatedMachine], say: Callable[[str], None]) -> None:
        self._machines = machines
        self._say = say
        self._turn = 0
        self._busy: dict[str, asyncio.Lock] = {}
        self._possible: dict[
            str, dict[UnitOperation, float]
        ] = {}  # name → possible contents of the store → until when they are possible
        self._unknown: dict[str, None] = {}
        self.planned: dict[str, str] = {}  # unit → the machine where the last plan has it
        self.answers = 0  # the number of ended operations

    @property
    def names(self) -> list[str]:
        """Every unit that an operation was ever requested for."""
        return sorted(self._possible)

    def accounts_for(self, name: str, operation: UnitOperation) -> bool:
        """True if the store may hold this for the name. It then may until another operation."""
        if name in self._unknown:
            return True
        possible = self._possible.get(name, {None: math.inf})
        if possible.get(operation, -math.inf) < asyncio.get_running_loop().time():
            return False
        possible[operation] = math.inf
        return True

    def describe(self, name: str) -> str:
        """The possible contents of the store for the name, as text."""
        operations = self._possible.get(name, {None: math.inf})
        return " or ".join("no unit" if operation is None else f"{operation[1]}" for operation in operations)

    def learn(self, units: dict[str, Unit]) -> None:
        """The store was set back to an older snapshot with these units; operations in progress may be in it."""
        busy = [name for name, lock in self._busy.items() if lock.locked()]
        self.answers += 1
        self._possible = {
            name: {(unit.content, unit.target): math.inf} for name, unit in units.items() if group_of(name) != ROLLED
        }
        self._unknown = dict.fromkeys(busy)

    async def submit(self, name: str, target: TargetState, edition: int) -> None:
        """Submit this edition of the unit file with this target state."""
        text = unit_text(name, edition)
        body = {"name": name, "desiredState": target, "options": parse_unit_file(text)}
        request = Request("PUT", f"{schema.V1}/units/{name}", headers=_JSON, body=msgspec.json.encode(body))

        def change(before: UnitOperation) -> UnitOperation:
            return Content(text, before[0].dropins if before else ()), target

        await self._wish(f"submit {target} {edition}", name, request, change)

    async def edit(self, name: str, edition: int) -> None:
        """Give an existing unit this edition of its drop-in, without waiting for its allocations."""
        dropins = unit_dropins(edition)
        sent = tuple(schema.DropIn(dropin.name, dropin.text) for dropin in dropins)
        body = schema.UnitOperations((schema.UnitOperation(name, dropins=sent),))
        request = Request("POST", f"{schema.V2}/units", headers=_JSON, body=msgspec.json.encode(body))
        await self._wish(
            f"edit {edition}", name, request, lambda before: before and (Content(before[0].text, dropins), before[1])
        )

    async def apply(self, names: Sequence[str], edition: int) -> None:
        """Apply this edition of these units together, without drop-ins. Existing ones keep their target states."""
        texts = {name: unit_text(name, edition) for name in sorted(names)}
        units = tuple(schema.AppliedUnit(name, text) for name, text in texts.items())
        request = Request("POST", f"{schema.V2}/apply", headers=_JSON, body=msgspec.json.encode(schema.Apply(units)))
        async with AsyncExitStack() as locks:
            for name in texts:
                await locks.enter_async_context(self._busy.setdefault(name, asyncio.Lock()))
            before = {name: self._possible.get(name, {None: math.inf}) for name in texts}
            after = {
                name: {(Content(text), found[1] if found else _first_target(name)): math.inf for found in before[name]}
                for name, text in texts.items()
            }
            for name in texts:
                self._possible[name] = before[name] | after[name]
            response = await self._ask(request)
            done = Response(204) if response is not None and response.status == 200 else response
            for name in texts:
                self._settle(name, before[name], after[name], done)
        self._say(f"apply {edition} {' '.join(texts)}: {response.status if response else 'no answer'}")

    async def set_target(self, name: str, target: TargetState) -> None:
        """Change the target state of an existing unit."""
        body = msgspec.json.encode({"name": name, "desiredState": target})
        request = Request("PUT", f"{schema.V1}/units/{name}", headers=_JSON, body=body)
        await self._wish(f"set {target}", name, request, lambda before: before and (before[0], target))

    async def restart(self, name: str) -> None:
        """Restart a unit. The answer is always 200, and the target state stays."""
        body = msgspec.json.encode(schema.Restarts((name,)))
        response = await self._ask(Request("POST", f"{schema.V2}/restart", headers=_JSON, body=body))
        self._say(f"restart {name}: {response.status if response else 'no answer'}")

    async def destroy(self, name: str) -> None:
        """Destroy a unit."""
        request = Request("DELETE", f"{schema.V1}/units/{name}")
        await self._wish("destroy", name, request, lambda before: None)

    async def set_metadata(self, machine: str, key: str, value: str) -> None:
        """Change the metadata of a machine ('': hide the key)."""
        edit = {"op": "replace" if value else "remove", "path": f"/{machine}/metadata/{key}", "value": value or None}
        body = msgspec.json.encode([edit])
        response = await self._ask(Request("PATCH", f"{schema.V1}/machines", headers=_JSON, body=body))
        self._say(f"metadata {machine[:2]} {key}={value}: {response.status if response else 'no answer'}")

    async def cordon(self, machine: str, why: str) -> None:
        """Keep new units off a machine."""
        body = msgspec.json.encode(schema.CordonRequest(why))
        response = await self._ask(Request("PUT", _cordon_path(machine), headers=_JSON, body=body))
        self._say(f"cordon {machine[:2]} {why}: {response.status if response else 'no answer'}")

    async def drain(
        self, machine: str, *, with_globals: bool = False, force: bool = False, within_s: float = 0.0
    ) -> None:
        """Move the units of a machine to others."""
        body = msgspec.json.encode(schema.DrainRequest("drained", within_s, with_globals, force))
        path = f"{schema.V2}/machines/{machine}/drain"
        response = await self._ask(Request("PUT", path, headers=_JSON, body=body))
        self._say(f"drain {machine[:2]}: {response.status if response else 'no answer'}")

    async def move(self, machine: str, name: str, *, force: bool = False) -> None:
        """Move a unit to a machine."""
        body = msgspec.json.encode(schema.MoveRequest(machine, force))
        response = await self._ask(Request("PUT", f"{schema.V2}/units/{name}/move", headers=_JSON, body=body))
        self._say(f"move {name} to {machine[:2]}: {response.status if response else 'no answer'}")

    async def plan_drain(self, machine: str, *, with_globals: bool = False, force: bool = False) -> None:
        """Ask what a drain would do: `planned` are the machines of the units that would move or stay."""
        plan = await self._plan(schema.PlanRequest(drain=(schema.PlannedDrain(machine, with_globals, force),)))
        self.planned = _places(plan)
        self.planned |= {unit.unit: unit.machine for unit in plan.stays if unit.state != "global"} if plan else {}

    async def plan_loss(self, machines: Sequence[str]) -> None:
        """Ask what becomes of the units if these machines are lost: `planned` are the machines of those that move."""
        self.planned = _places(await self._plan(schema.PlanRequest(lose=tuple(machines))))

    async def rebalance(self, most: int) -> None:
        """Move at most so many units, one after the other, to machines with fewer of them, as fleetctl does."""
        for _ in range(most):
            plan = await self._plan(schema.PlanRequest(rebalance=schema.PlannedRebalance(1, min_age=0.0)))
            if plan is None or not plan.moves:
                return
            first = plan.moves[0]
            await self.move(first.machine, first.unit)
            if not await self._arrives(first.unit, first.machine):
                return

    async def _plan(self, request: schema.PlanRequest) -> schema.Plan | None:
        response = await self._ask(
            Request("POST", f"{schema.V2}/plan", headers=_JSON, body=msgspec.json.encode(request))
        )
        plan = response is not None and response.status == 200 and msgspec.json.decode(response.body, type=schema.Plan)
        self._say(f"plan: {[(move.unit, move.machine[:2]) for move in plan.moves] if plan else 'none'}")
        return plan or None

    async def _arrives(self, name: str, machine: str) -> bool:
        """Wait until the move of the unit is over; True if it is on this machine then."""
        for _ in range(ARRIVAL_S):
            response = await self._ask(Request("GET", f"{schema.V2}/units/{name}/move"))
            if response is None or response.status != 200:
                return False
            report = msgspec.json.decode(response.body, type=schema.MoveReport)
            if report.state in ("placed", "unplaced"):
                return report.machine == machine
            await asyncio.sleep(1)
        return False

    async def reboot(self, machine: str, *, is_now: bool = False, within_s: float | None = None) -> None:
        """Have a machine rebooted. The drain may take so long (None: what the API takes for it)."""
        asked = schema.RebootRequest(now=is_now)
        body = msgspec.json.encode(asked if within_s is None else msgspec.structs.replace(asked, deadline=within_s))
        response = await self._ask(Request("PUT", _reboot_path(machine), headers=_JSON, body=body))
        self._say(f"reboot {machine[:2]}: {response.status if response else 'no answer'}")

    async def cancel_reboot(self, machine: str) -> None:
        """Take a machine out of the queue of reboots."""
        response = await self._ask(Request("DELETE", _reboot_path(machine)))
        self._say(f"cancel-reboot {machine[:2]}: {response.status if response else 'no answer'}")

    async def uncordon(self, machine: str) -> None:
        """Let a machine take new units again."""
        response = await self._ask(Request("DELETE", _cordon_path(machine)))
        self._say(f"uncordon {machine[:2]}: {response.status if response else 'no answer'}")

    async def change_secret(self, name: str, value: str) -> None:
        """Set a secret ('': remove it, whatever names it)."""
        path = f"{schema.V2}/secrets/{name}"
        body = msgspec.json.encode({"value": value})
        change = Request("PUT", path, headers=_JSON, body=body)
        response = await self._ask(change if value else Request("DELETE", path, (("force", "true"),)))
        self._say(f"secret {name}: {response.status if response else 'no answer'}")

    async def change_setting(self, name: str, value: str) -> None:
        """Set a setting of the cluster ('': unset it)."""
        changes = schema.SettingChanges({name: value}) if value else schema.SettingChanges(unset=(name,))
        body = msgspec.json.encode(changes)
        response = await self._ask(Request("PATCH", f"{schema.V2}/settings", headers=_JSON, body=body))
        self._say(f"setting {name}={value}: {response.status if response else 'no answer'}")

    async def roll(self, edition: int) -> None:
        """Apply this edition of the template of ROLLED. What becomes of it is not recorded."""
        body = msgspec.json.encode(schema.Apply((schema.AppliedUnit(ROLLED, rolled_text(edition)),)))
        response = await self._ask(Request("POST", f"{schema.V2}/apply", headers=_JSON, body=body))
        self._say(f"roll {edition}: {response.status if response else 'no answer'}")

    async def command_rollout(self, action: str) -> None:
        """Say something about the rollout of ROLLED, which may be refused."""
        body = msgspec.json.encode(schema.RolloutCommand(action))
        response = await self._ask(Request("POST", f"{schema.V2}/rollouts/{ROLLED}", headers=_JSON, body=body))
        self._say(f"roll-{action}: {response.status if response else 'no answer'}")

    async def forget_machine(self, machine: str) -> None:
        """Forget a parked machine."""
        response = await self._ask(Request("DELETE", f"{schema.V2}/machines/{machine}"))
        self._say(f"forget {machine[:2]}: {response.status if response else 'no answer'}")

    async def remove_machine(self, machine: str, *, force: bool) -> None:
        """Remove a machine."""
        body = msgspec.json.encode(schema.MachineRemoval(force))
        response = await self._ask(Request("POST", f"{schema.V2}/machines/{machine}/remove", headers=_JSON, body=body))
        self._say(f"remove {machine[:2]}: {response.status if response else 'no answer'}")

    async def rotate_authority(self) -> None:
        """Have another authority made."""
        response = await self._ask(Request("POST", f"{schema.V2}/authorities", headers=_JSON, body=b"{}"))
        self._say(f"rotate-ca: {response.status if response else 'no answer'}")

    async def revoke_person(self, subject: str) -> None:
        """Revoke the certificates of a person or a service."""
        body = msgspec.json.encode(schema.RevocationRequest(subject))
        response = await self._ask(Request("POST", f"{schema.V2}/revocations", headers=_JSON, body=body))
        self._say(f"revoke {subject}: {response.status if response else 'no answer'}")

    async def _wish(
        self, what: str, name: str, request: Request, change: Callable[[UnitOperation], UnitOperation]
    ) -> None:
        async with self._busy.setdefault(name, asyncio.Lock()):
            before = self._possible.get(name, {None: math.inf})
            after = dict.fromkeys((change(operation) for operation in before), math.inf)
            self._possible[name] = before | after
            response = await self._ask(request)
            if response is not None and response.status == 200:
                [result] = msgspec.json.decode(response.body, type=schema.Results).results
                response = Response(result.code) if result.code < 500 else None  # it may be done nevertheless
            self._settle(name, before, after, response)
            self._say(f"{what} {name}: {response.status if response else 'no answer'}")

    def _settle(
        self,
        name: str,
        before: dict[UnitOperation, float],
        after: dict[UnitOperation, float],
        response: Response | None,
    ) -> None:
        """Note what the store may hold of a name after the answer to an operation."""
        now_s = asyncio.get_running_loop().time()
        self.answers += 1
        if name in self._unknown:
            if response is not None and response.status in (201, 204):
                del self._unknown[name]
                self._possible[name] = after
        elif response is not None and response.status in (201, 204):
            late = dict.fromkeys(before, now_s + IN_DOUBT_S) if len(before) > 1 else {}
            self._possible[name] = late | after
        elif response is not None:
            self._possible[name] = before

    async def _ask(self, request: Request) -> Response | None:
        """The first answer of a machine. None: whether the request was done is unknown."""
        in_doubt = False
        self._turn += 1
        for offset in range(len(self._machines)):
            machine = self._machines[(self._turn + offset) % len(self._machines)]
            if not machine.serves:
                continue
            try:
                async with asyncio.timeout(PATIENCE_S):
                    response = await machine.answer(request)
            except TimeoutError:
                in_doubt = True
                continue
            if response.status < 500:
                return None if in_doubt and response.status >= 400 else response
            in_doubt = True
        return None if in_doubt else Response(409)


def _first_target(name: str) -> TargetState:
    """The target state of a unit that an apply creates."""
    return TargetState.INACTIVE if is_template(name) else TargetState.LAUNCHED


def _cordon_path(machine: str) -> str:
    return f"{schema.V2}/machines/{machine}/cordon"


def _reboot_path(machine: str) -> str:
    return f"{schema.V2}/machines/{machine}/reboot"


def _places(plan: schema.Plan | None) -> dict[str, str]:
    """Where the plan has the units that it moves: unit → machine."""
    return {move.unit: move.machine for move in plan.moves if move.machine} if plan else {}
