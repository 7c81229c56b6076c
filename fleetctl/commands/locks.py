"""locks: list the locks that somebody holds or waits for."""

import msgspec

from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.timespan import render_moment


class Row(msgspec.Struct, frozen=True):
    """One holder of a lock; None for a lock that is only waited for."""

    lock: schema.Lock
    session: schema.LockSession | None = None

    @property
    def state(self) -> str:
        """How the lock is held."""
        if self.session is None:
            return "waiting"
        if self.session.is_foreign:
            return "foreign"
        return "vanished" if self.session.is_gone else "held"


def _of(row: Row) -> schema.LockSession:
    return row.session or schema.LockSession("")


COLUMNS: Columns[Row] = {
    "lock": lambda row, full: row.lock.name,
    "state": lambda row, full: row.state,
    "holder": lambda row, full: _of(row).holder or "-",
    "by": lambda row, full: _of(row).by or "-",
    "since": lambda row, full: render_moment(_of(row).since) if _of(row).since else "-",
    "ttl": lambda row, full: f"{_of(row).ttl:g}" if _of(row).ttl else "-",
    "token": lambda row, full: _of(row).token or "-",
    "slots": lambda row, full: str(row.lock.slots),
    "waiting": lambda row, full: str(row.lock.waiting),
}
VALUES: Values[Row] = {
    "lock": lambda row: row.lock.name,
    "state": lambda row: row.state,
    "session": lambda row: _of(row).session or None,
    "holder": lambda row: _of(row).holder or None,
    "by": lambda row: _of(row).by or None,
    "since": lambda row: _of(row).since or None,
    "ttl": lambda row: _of(row).ttl or None,
    "token": lambda row: _of(row).token or None,
    "slots": lambda row: row.lock.slots,
    "waiting": lambda row: row.lock.waiting,
}
LISTING = Listing(COLUMNS, VALUES, default="lock,state,holder,by,since,waiting")


@new_command("locks", usage="[--no-legend] [--fields=FIELD,...] [--output=json] [NAME...]", completes=("locks",))
@list_command(LISTING)
def command(settings: Settings, view: View[Row]) -> int:
    """Lists the locks of the cluster with their holders. A holder is vanished if it did not release the lock: it is
    given to the next one after its ttl. It is foreign if it is another program than fleet (etcdctl lock), of which
    nothing more is known. Waiting are machines with clients that wait, and such programs.
    """
    from fleetctl.locks import Locks

    with failing_as("Error retrieving the locks: "):
        locks = [lock for lock in Locks(open_client(settings)).list() if view.wants(lock.name)]
    view.show([Row(lock, session) for lock in locks for session in lock.holders or (None,)])
    return 0
