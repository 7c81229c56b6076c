"""The audit: for each change through the API, one entry in the journal that says who made it.

`journalctl MESSAGE_ID=…` lists them; the fields are data, and MESSAGE says the same in English.
"""

from collections.abc import Callable, Mapping

from fleetd.api.http import Request
from fleetd.model.actor import Actor
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.transactions import WriteSet

MESSAGE_ID = "b8ba0ce3ccb04d2d8dd0a8b0cbd1e2aa"
_ACTIONS = {TargetState.INACTIVE: "unload", TargetState.LOADED: "load", TargetState.LAUNCHED: "start"}

Write = Callable[[Mapping[str, str]], None]


class Audit:
    """Makes the entries; `write` gets the fields of each. `machine()` is this machine's id."""

    def __init__(self, write: Write, machine: Callable[[], str]) -> None:
        self._write = write
        self._machine = machine

    def note_unit(self, actor: Actor, before: Unit | None, after: Unit | None, revision: int) -> None:
        """A unit was written or (`after` is None) destroyed, at this revision of the store."""
        unit = after or before
        assert unit is not None
        action = _action(before, after)
        self._write(
            self._fields(actor, action, unit.name)
            | {
                "UNIT": unit.name,
                "OLD_HASH": before.content.hash if before else "",
                "NEW_HASH": after.content.hash if after else "",
                "GENERATION": str(revision),
            }
        )

    def note_transaction(
        self, actor: Actor, changes: Mapping[str, tuple[Unit | None, Unit | None]], written: WriteSet, revision: int
    ) -> None:
        """A transaction with some of these changes (by key: a unit before and after) was written at this revision."""
        for operation in written.operations:
            if operation.key in changes:
                self.note_unit(actor, *changes[operation.key], revision)

    def note_machine(self, actor: Actor, action: str, machine: str) -> None:
        """Something was done to a machine that is not a request of a person."""
        self._write(self._fields(actor, action, machine) | {"FLEET_MACHINE": machine})

    def note(self, actor: Actor, action: str, what: str) -> None:
        """Something was done that is neither about units nor about a machine."""
        self._write(self._fields(actor, action, what))

    def note_request(self, request: Request) -> None:
        """A request that is not about units has been carried out."""
        self._write(self._fields(request.actor, request.method, request.path))

    def _fields(self, actor: Actor, action: str, what: str) -> dict[str, str]:
        return {
            "MESSAGE": f"{actor.name or actor.identity or 'somebody'}: {action} {what}",
            "MESSAGE_ID": MESSAGE_ID,
            "PRIORITY": "5",
            "FLEET_ACTOR": f"{actor.identity}@{self._machine()}",
            "ACTION": action,
        }


def asked_unit(actor: Actor, before: Unit | None, after: Unit | None) -> ClusterEvent:
    """The event that somebody had a unit written or (`after` is None) destroyed."""
    unit = after or before
    assert unit is not None
    id_ = unit.rollout if after is not None else ""
    return ClusterEvent(EventKind.ASKED, unit.name, by=actor.name, action=_action(before, after), id=id_)


def asked_machine(by: str, action: str, machine: str, detail: str = "") -> ClusterEvent:
    """The event that somebody asked for something about a machine."""
    return ClusterEvent(EventKind.ASKED, machine=machine, by=by, action=action, detail=detail)


def asked_of(by: str, action: str, subject: str) -> ClusterEvent:
    """The event that somebody asked for something about what is neither a unit nor a machine."""
    return ClusterEvent(EventKind.ASKED, by=by, action=action, subject=subject)


def _action(before: Unit | None, after: Unit | None) -> str:
    if before is None or after is None:
        return "submit" if after else "destroy"
    if before.content != after.content:
        return "replace"
    return "restart" if after.restart_of > before.restart_of else _ACTIONS[after.target]
