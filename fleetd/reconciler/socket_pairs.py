"""Sockets that are restarted while their service runs: systemd refuses to start such a socket (systemd.socket(5)).

Both are stopped: a socket that went on listening would start the service again at the next connection. When both are at
rest the socket is started, and then the service if it is to run; one that is only loaded is started by its socket.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from fleetd.model.constraints import parse_requirements
from fleetd.model.content import Content
from fleetd.model.names import parse_name
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import UnitFileError
from fleetd.reconciler.actions import Action, LedgerEntry, Restart, Restarting, Start, Stop
from fleetd.reconciler.observed import Desired, Observed

SOCKET_RESTARTED = "its socket is restarted"


def with_pairs(
    names: Iterable[str], placements: Mapping[str, Placement], entry_of: Callable[[str], LedgerEntry | None]
) -> list[str]:
    """These units, and what is to be planned together with them: the service of a socket, and the socket of a service
    while it is being restarted. `entry_of` looks up the ledger."""
    found = dict.fromkeys(names)
    for socket in [name for name in placements if name.endswith(".socket")]:
        if socket in found or _is_restarting(entry_of(socket)):
            service = find_service(placements[socket].content, socket)
            if service in placements and (socket in found or service in found):
                found |= {socket: None, service: None}
    return list(found)


def _is_restarting(entry: LedgerEntry | None) -> bool:
    return entry is not None and entry.restarting is not None


def stop_pairs(actions: Sequence[Action], desired: Desired, observed: Mapping[str, Observed]) -> Sequence[Action]:
    """The plan for one machine, with the services stopped whose sockets it restarts."""
    for action in actions:
        if isinstance(action, Start | Restart) and action.unit.endswith(".socket"):
            actions = _stop_pair(actions, action, desired, observed)
    return actions


def _stop_pair(
    actions: Sequence[Action], socket: Start | Restart, desired: Desired, observed: Mapping[str, Observed]
) -> Sequence[Action]:
    service = find_service(desired.placements[socket.unit].content, socket.unit)
    seen = observed.get(service)
    if seen is None or not seen.ours or not seen.busy or _is_first_start(socket, observed[socket.unit].entry):
        return actions
    planned = next((each for each in actions if isinstance(each, Restart) and each.unit == service), None)
    stops: list[Action] = []
    if isinstance(socket, Restart):
        stops.append(Stop(socket.unit, f"{socket.reason}; its service runs", replace(socket.entry, applied=None)))
    if not seen.stopping:
        stops.append(Stop(service, SOCKET_RESTARTED, _to_be_started(service, desired, seen, planned)))
    return [*(each for each in actions if each.unit not in (socket.unit, service)), *stops]


def _is_first_start(socket: Start | Restart, entry: LedgerEntry | None) -> bool:
    """True if the socket was not stopped to be restarted: systemd may say what it has against its start."""
    return isinstance(socket, Start) and not _is_restarting(entry)


def _to_be_started(service: str, desired: Desired, seen: Observed, planned: Restart | None) -> LedgerEntry | None:
    """What is recorded of the service so that it is started again; None if its socket starts it."""
    placement, entry = desired.placements.get(service), seen.entry
    if planned is not None:
        return replace(planned.entry, applied=None)
    if placement is None or entry is None or entry.target is not TargetState.LAUNCHED:
        return None
    return replace(entry, restarting=Restarting(placement.generation, placement.target), applied=None)


def find_service(content: Content, socket: str) -> str:
    """The service that the socket starts, '' if it starts one for each connection, or cannot be read."""
    try:
        return parse_requirements(content.options(), parse_name(socket)).restarts
    except UnitFileError:
        return ""
