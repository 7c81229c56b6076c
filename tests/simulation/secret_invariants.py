"""What must hold of the secrets of units."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from fleetd.model.group import group_of
from fleetd.trust.credentials_wire import Delivered
from tests.simulation.checker import Checker

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World


class SecretsComeFirst(Checker):
    """No unit is started before systemd gets its secrets on that machine."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        found = self.world.machines[machine]
        for name in names if verb in ("start", "restart") else ():
            placement = self.records.placements.get((found.id, name))
            for ref in placement.secrets if placement else ():
                delivered = _find_delivered(found, name, ref.name)
                if delivered is None:
                    self.fail(f"{machine} starts {name} without its secret {ref.name}")
                elif not delivered.version:
                    self.fail(f"{machine} starts {name} with a secret {ref.name} that there is not")


def judge_secrets(world: "World") -> str:
    """What is wrong with secrets after all faults, or '': what runs has the present value, and nothing is sealed or
    delivered that no placement names."""
    records = world.records
    named = {
        (machine, name, ref.name): ref.version
        for (machine, name), placement in records.placements.items()
        for ref in placement.secrets
    }
    for machine, name in world.processes:
        found = world.machines[machine]
        for (where, unit, secret), version in named.items():
            present = records.secrets[secret].present if secret in records.secrets else None
            if (where, unit) != (found.id, name) or present is None or _is_kept(world, found.id, name):
                continue
            delivered = _find_delivered(found, name, secret)
            if delivered is not None and delivered.version > present.number:
                continue  # the store was restored to before it was set: what runs is kept as it is
            if delivered is None or version != present.number or delivered.box != present.box:
                return f"{name} on {machine} has not the present value of {secret}"
    for machine, secret in records.sealed:
        if not any((where, each) == (machine, secret) for where, _, each in named):
            return f"{secret} is sealed for {machine}, where no unit names it"
    for each in world.machines.values():
        if not each.is_up:
            continue  # what is in its memory is gone
        for path in sorted((each.directory / "credentials").glob("*/*")):
            name = path.parent.name
            if (each.id, name, path.name) not in named and not _is_kept(world, each.id, name):
                return f"{each.name} keeps the secret {path.name} of {name}, which is not there"
    return ""


def _find_delivered(machine: "SimulatedMachine", name: str, secret: str) -> Delivered | None:
    """What systemd would get of this secret for the unit, or None."""
    file = machine.directory / "credentials" / name / secret
    return msgspec.json.decode(file.read_bytes(), type=Delivered) if file.exists() else None


def _is_kept(world: "World", machine: str, name: str) -> bool:
    """True if the unit keeps what it has: the machine only keeps it running since a restore, or says why it does not
    follow, or its group's rollout is paused."""
    state, rollout = world.records.states.get((machine, name)), world.records.rollouts.get(group_of(name))
    is_held = rollout is not None and (rollout.pause is not None or not rollout.is_over)
    return is_held or (state is not None and (state.orphan or bool(state.error)))
