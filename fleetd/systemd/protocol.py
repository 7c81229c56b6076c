"""The interface through which the agent uses a machine's service manager.

tests/contract/test_systemd*.py is the contract that every implementation has to pass.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from fleetd.model.admission import dropin_taken, name_taken, own_unit
from fleetd.model.confinement import Privileges
from fleetd.model.content import DropIn
from fleetd.model.unit import AT_REST

NO_DROPINS: Mapping[str, Sequence[DropIn]] = MappingProxyType({})


class ServiceManagerError(Exception):
    """systemd refused a request. The message is `<request>: <systemd's message>`."""


class ManagerUnavailable(ServiceManagerError):
    """systemd or the bus cannot be reached at present. The request may or may not have been carried out."""


class JobRefused(ServiceManagerError):
    """systemd refused to queue the job, and will do so again until the unit's file changes."""


class NameTaken(ServiceManagerError):
    """The machine has its own unit of this name, from the file `owner` ('': without one). `obstacle` says so in short,
    after the machine's name."""

    def __init__(self, name: str, owner: str) -> None:
        owner = owner or name
        super().__init__(f"write {name}: {name_taken(name, owner)}")
        self.obstacle = own_unit(owner)


REBOOT = "reboot this machine"  # with what the message of a reboot that is refused begins


class Inhibited(ServiceManagerError):
    """A program holds an inhibitor lock against it, for the reason that it gave."""

    def __init__(self, request: str, who: str, why: str, process: int) -> None:
        super().__init__(f"{request}: {who or 'a program'} (process {process}) has inhibited it: {why or 'no reason'}")


class DropInTaken(ServiceManagerError):
    """A drop-in of the machine's own, the file `path`, has the name of one that was to be written for this unit."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(f"write {name}: {dropin_taken(name, path)}")


class UnitStatus(msgspec.Struct, frozen=True):
    """One unit as systemd lists it; the defaults are for a unit that systemd does not know. `job`: a job is queued or
    running for it."""

    name: str
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    job: bool = False

    @property
    def runs(self) -> bool:
        """True if a process of the unit may exist."""
        return self.active not in AT_REST


class UnitDetails(msgspec.Struct, frozen=True):
    """Properties of one unit that are not in systemd's list.

    `fragment_path` is the file it was read from ('': none). `invocation` is the hex InvocationID of its last start
    since boot ('': systemd remembers none). `result` is its Result ('success', 'exit-code', 'timeout', …; '': its type
    has none). `oneshot`: a service with Type=oneshot and without RemainAfterExit=, which has completed once it is
    inactive.
    """

    fragment_path: str = ""
    invocation: str = ""
    result: str = ""
    oneshot: bool = False


class Run(msgspec.Struct, frozen=True):
    """The last run of a unit. `invocation` is as in UnitDetails; `active_since_s` is when it became active, on the
    machine's monotonic clock (0: never since systemd loaded it); `restarts` is how often systemd restarted it by itself
    since it was last asked to start it.
    """

    invocation: str = ""
    active_since_s: float = 0.0
    restarts: int = 0


class IsolatedUnit(msgspec.Struct, frozen=True):
    """A unit that is stopped where its machine is cut off: no later than `isolation_s` after a lease was renewed. Its
    processes are killed `stop_s` after that."""

    name: str
    isolation_s: float
    stop_s: float


class Isolation(msgspec.Struct, frozen=True):
    """Whether units are held back because no lease was renewed in time. `is_leased`: a lease is held, or was.
    `is_isolated`: systemd has stopped the units of the lease, and starts none of them. `is_under_way`: some of them may
    not have stopped yet. `stopped` are those that ran before."""

    is_leased: bool = False
    is_isolated: bool = False
    is_under_way: bool = False
    stopped: tuple[str, ...] = ()


class ServiceManager(Protocol):
    """A machine's systemd, and the directory of fleet's unit files. Every method may raise ManagerUnavailable if it
    needs the bus, ServiceManagerError if systemd refuses, and OSError if the disk does."""

    async def connect(self) -> None:
        """Connect to systemd and subscribe to its signals. Reconnects by itself when the connection is lost; afterwards
        `wait_for_changes` returns every unit of fleet's. Calling it again is allowed."""

    async def close(self) -> None:
        """Disconnect from the bus."""

    # fleet's unit files, on this machine's disk.

    def read_files(self) -> Mapping[str, str]:
        """Return name → content of every unit file of fleet's ('' for a file that is not text)."""

    def shadows(self, name: str) -> str:
        """Return the path of the machine's own unit (or template) that a unit of this name would hide, or ''."""

    def read_dropins(self) -> Mapping[str, tuple[DropIn, ...]]:
        """Return name → drop-ins of fleet's, in order of name, of every unit that has some. One that systemd would not
        read, because its link is gone, is left out."""

    def shadowed_dropin(self, name: str, dropin: str) -> str:
        """Return the path of the machine's own drop-in of this unit with the same file name, or ''."""

    async def write(
        self, files: Mapping[str, str], dropins: Mapping[str, Sequence[DropIn]] = NO_DROPINS
    ) -> Mapping[str, Exception]:
        """Write the files, each atomically, and link them into systemd at runtime scope; and write their drop-ins, of
        which those that are not among `dropins` are removed. Returns the failures; the other units are written. A file
        that cannot be written leaves nothing behind. Does not reload: see `reload_needed`."""

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        """Unlink, delete and reset-failed these units with their drop-ins; unknown names are no error. Returns the
        failures; the other units are removed. Does not reload."""

    async def link(self, make: Mapping[str, str], drop: Mapping[str, str]) -> Mapping[str, Exception]:
        """Remove, then make links below systemd's runtime directory, given as link → unit of fleet's. `ALIAS` is
        another name for the unit, `OWNER.wants/UNIT` (requires, upholds) makes OWNER depend on it. A link that was
        changed since is not removed, and nothing of anybody else's is replaced. Returns the failures. Does not reload:
        see `reload_needed`."""

    def find_links(self) -> Mapping[str, str]:
        """Return every link to a unit of fleet's, as `link` takes them, for when the ledger does not have them. This
        includes links that systemd made for an older fleetd."""

    # systemd itself.

    async def reload_needed(self, names: Collection[str]) -> bool:
        """True if systemd needs a daemon-reload before it starts or forgets these units as their files now say."""

    async def reload(self) -> None:
        """Run daemon-reload, and wait for it."""

    async def observe(self, names: Collection[str]) -> Mapping[str, UnitStatus]:
        """Return each unit's status now, in one call for all. A unit that neither has a file here nor is in systemd's
        memory is not-found."""

    # Jobs. Each of these raises JobRefused if systemd refuses to queue it. Requests made one after the other, without
    # waiting for the answers in between, are queued in that order.

    async def start(self, name: str) -> None:
        """Queue a start job (mode replace); returns when it is queued. `wait_for_changes` tells when it has ended."""

    async def restart(self, name: str) -> None:
        """Queue a restart job (mode replace); returns when it is queued. Running units that require this one are
        restarted with it. A unit that does not run is started."""

    async def reload_unit(self, name: str) -> None:
        """Queue a reload job (mode replace); returns when it is queued. Does nothing for a unit that cannot be reloaded
        (CanReload)."""

    async def stop(self, name: str) -> None:
        """Queue a stop job (mode replace); returns when it is queued. A unit that is not loaded is no error."""

    async def wait_for_changes(self) -> Sequence[str]:
        """Wait until units with files here changed state or ended a job; return their names, each once."""

    def job_result(self, name: str) -> str:
        """Return how the last job requested with `start`, `restart`, `reload_unit` or `stop` ended, '' while it has
        not: systemd's result, SKIPPED or REFUSED (model/job_result.py). Refused are a timer without its service, and a
        socket whose service already runs."""

    async def details(self, name: str) -> UnitDetails:
        """Return more about one unit; the defaults if systemd does not know it."""

    async def last_run(self, name: str) -> Run:
        """Return since when the unit runs; the defaults if systemd does not know it."""

    async def privileges(self, name: str) -> Privileges:
        """Return what this service of fleet's would run with, if it was started."""

    async def explain(self, name: str) -> str:
        """Return why the unit failed, as text: systemd's result and exit status, and its last log lines."""

    # The lease: units that are stopped where nobody renews it, even if fleetd is dead or frozen
    # (model/isolation_dropin.py is what their files need for that).

    async def hold_lease(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """Have systemd stop these units (at least one) at `until_s` of the machine's boot clock, and start them no
        more, unless this is called again before. They are then held back until `end_isolation`. What was asked for
        before is replaced."""

    async def drop_lease(self) -> None:
        """There is no such unit any more: nothing is stopped, and nothing held back."""

    def isolation(self) -> Isolation:
        """Return whether units are held back. Raises OSError."""

    async def end_isolation(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """Hold a lease anew, as `hold_lease`, and let the units be started again."""

    def permit(self, names: Collection[str]) -> None:
        """Let these units be started, and no other that needs a permit. Raises OSError."""

    async def machine_is_stopping(self) -> bool:
        """True if the machine is being shut down or rebooted (SystemState is `stopping`)."""

    async def pending_job(self, name: str) -> str:
        """Return the type of the job queued for this unit, or ''; fleetd learns from it why it is being stopped."""

    async def reboot_machine(self) -> None:
        """Have the machine rebooted; returns when that has begun. Raises Inhibited if a program holds a lock that
        blocks it: none is overridden."""
