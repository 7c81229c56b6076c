"""What the leader has judged of absent machines, as the store shows it: another server plans with the same facts.

The leader deletes the session of a machine (`synced/`) before anything else once it judges it dead, and the decision
about a unit that waits for a dead machine says since when. So nothing more has to be published.
"""

from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.snapshot import MachineLoss, Snapshot


def note_losses(snapshot: Snapshot, now: Now) -> None:
    """Have a snapshot that was made of the store's records alone say which absent machines may be alive, and since when
    the others are lost."""
    absent = snapshot.absent()
    snapshot.away = frozenset(machine for machine in absent if machine in snapshot.synced)
    since: dict[str, float] = {}
    for machine in absent:
        if machine not in snapshot.away:
            moments = [
                decision.lost
                for name in snapshot.placed_on[machine]
                if (decision := snapshot.decisions.get(name)) is not None
                and decision.lost
                and decision.machine == machine
            ]
            since[machine] = min(moments, default=now.unix_s)
    snapshot.lost = {
        machine: MachineLoss(now.clock_s - max(0.0, now.unix_s - at), at, at) for machine, at in since.items()
    }
