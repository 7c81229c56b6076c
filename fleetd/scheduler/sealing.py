"""Which secrets are to be sealed for which machines: where a unit that names one is placed, and for new servers. Pure.

The snapshot knows which versions there are and for whom, not what is in them; the leader has them sealed
(leader/sealer.py).
"""

from collections.abc import Container, Iterable, Mapping

import msgspec

from fleetd.model.machine import Machine, MachineMode
from fleetd.model.placement import Placement
from fleetd.scheduler.snapshot import Snapshot

Sealed = tuple[str, str]  # machine, secret


class SealingPlan(msgspec.Struct, frozen=True):
    """What is to be done about secrets.

    `seal` are versions that machines need and do not have, by machine and secret. `share` are the public keys of
    servers that cannot open a secret yet, by secret and version. `delete` is sealed for machines where nothing names it
    any more.
    """

    seal: dict[Sealed, tuple[int, ...]] = {}
    share: dict[tuple[str, int], tuple[str, ...]] = {}
    delete: tuple[Sealed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.seal or self.share or self.delete)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that it is about, in order."""
        return tuple(sorted({*(name for _, name in self.seal), *(name for name, _ in self.share)}))


def find_openers(machines: Mapping[str, Machine], workers: Container[str]) -> tuple[str, ...]:
    """The public keys that every secret is sealed to: those of the servers, so that each can seal it for others.
    `workers` are machines that joined with a token; a restored store may have lost that, but not that a server has
    written their records for them."""
    servers = (each for name, each in machines.items() if name not in workers and not each.is_worker)
    return tuple(dict.fromkeys(each.seal_key for each in servers if each.seal_key))


def may_lead(machine: Machine) -> bool:
    """True if the machine could lead the cluster."""
    return machine.mode is MachineMode.READY and not machine.capabilities.get("DISABLE_ENGINE")


def plan_sealing(snapshot: Snapshot, coming: Iterable[Placement] = ()) -> SealingPlan:
    """What is to be sealed for the placements that there are, and for those that are about to be written."""
    wanted: dict[Sealed, set[int]] = {}
    for machine, unit in snapshot.with_secrets:
        _collect(wanted, snapshot.placements[unit][machine])
    for placement in coming:
        _collect(wanted, placement)
    seal = {at: missing for at in sorted(wanted) if (missing := _missing(snapshot, at, wanted[at]))}
    servers = find_openers(snapshot.machines, snapshot.workers)
    share = {
        (name, version.number): lacking
        for name, secret in sorted(snapshot.secrets.items())
        for version in secret.versions
        if (lacking := tuple(key for key in servers if key not in version.keys))
    }
    return SealingPlan(seal, share, tuple(sorted(at for at in snapshot.sealed if at not in wanted)))


def _collect(wanted: dict[Sealed, set[int]], placement: Placement) -> None:
    if not placement.is_withdrawn:
        for ref in placement.secrets:
            wanted.setdefault((placement.machine, ref.name), set()).add(ref.version)


def _missing(snapshot: Snapshot, at: Sealed, versions: Iterable[int]) -> tuple[int, ...]:
    """Those of the versions that can be sealed for the machine, and are not."""
    machine, name = at
    record, secret, sealed = snapshot.machines.get(machine), snapshot.secrets.get(name), snapshot.sealed.get(at)
    if record is None or not record.seal_key or secret is None:
        return ()
    has = {each.number for each in sealed.versions} if sealed and sealed.recipient == record.seal_key else set()
    return tuple(sorted(number for number in versions if secret.has(number) and number not in has))
