"""The protocol the agent drives a machine's service manager by.

It is the part of systemd that fleet stands on. The contract suite (tests/contract/test_systemd*.py) says what an
implementation owes. Nothing here decides what should run; that is reconciler/plan.py's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from fleetd.model.unit import AT_REST


class ServiceManagerError(Exception):
    """systemd refused, in its own words: the message is `<what was asked>: <systemd's message>`."""


class ManagerUnavailable(ServiceManagerError):
    """systemd or the bus cannot be reached just now. What was asked may or may not have happened."""


class JobRefused(ServiceManagerError):
    """systemd would not queue the job, and will not as long as the unit's file says what it says."""


# What a job can come to that systemd has no word of its own for (job_result).
REFUSED = "refused"  # it failed before the unit had begun to start
SKIPPED = "condition"  # it is done, for a condition was not met


class NameTaken(ServiceManagerError):
    """The machine has its own unit of this name. `obstacle` says so in short, as what the machine does."""

    def __init__(self, message: str, obstacle: str) -> None:
        super().__init__(message)
        self.obstacle = obstacle


class UnitStatus(msgspec.Struct, frozen=True):
    """One unit as systemd lists it. A unit that systemd does not know reads as the defaults do.

    `job` says that a job is queued or running for it.
    """

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
    """What systemd says of one unit beyond the list, asked for only where it matters.

    `fragment_path` is the file it was read from ('': none). `invocation` is the ID of its last start since the boot, in
    hex, '' where systemd remembers none. `result` is systemd's word for how it ended ('success', 'exit-code',
    'timeout', …; '' where its type has none). `oneshot`: a service of Type=oneshot without RemainAfterExit, which has
    completed once it is inactive.
    """

    fragment_path: str = ""
    invocation: str = ""
    result: str = ""
    oneshot: bool = False


class ServiceManager(Protocol):
    """A machine's systemd, and the directory of unit files that are fleet's. Every method raises ManagerUnavailable
    where it needs the bus, and ServiceManagerError where systemd refuses; OSError where the disk does."""

    async def connect(self) -> None:
        """Reach systemd and subscribe to it; may be called again after the bus was lost. A lost bus is found again by
        itself too: then `wait_for_changes` answers with every name of ours."""

    async def close(self) -> None:
        """Let go of the bus."""

    # Our unit files, on this machine's disk.

    def read_files(self) -> Mapping[str, str]:
        """Name → content of every unit file of ours on this machine (a file that is not text reads as '')."""

    def shadows(self, name: str) -> str:
        """The path of a unit of the system's own (or its template's) that a unit of this name would shadow, or ''."""

    async def write(self, files: Mapping[str, str]) -> Mapping[str, ServiceManagerError]:
        """Write the files (each atomically), and link them into systemd at runtime scope. Returns those that could not
        be, which leave no trace behind; the others are done. Does not reload: see `reload_needed`."""

    async def remove(self, names: Collection[str]) -> None:
        """Unlink, delete and reset-failed these units; for names unknown it is no error. Reloads nothing."""

    async def link(self, make: Mapping[str, str], drop: Mapping[str, str]) -> Mapping[str, Exception]:
        """Take away and then make links below systemd's runtime directory, given as link → unit of ours. `ALIAS` gives
        that unit another name, `OWNER.wants/UNIT` (requires, upholds) a unit that depends on it. What is not as it was
        made is left alone, and what is not ours is never replaced: the links that could not be made or taken away, and
        why, are returned. Does not reload: see `reload_needed`."""

    def find_links(self) -> Mapping[str, str]:
        """Every link there is to a unit of ours, as `link` takes them, for where no ledger knows of them; those that
        systemd made for an older fleetd, too."""

    # systemd itself.

    async def reload_needed(self, names: Collection[str]) -> bool:
        """Whether a daemon-reload must come before these units can be started or forgotten as the files now say."""

    async def reload(self) -> None:
        """daemon-reload, and wait for it."""

    async def observe(self, names: Collection[str]) -> Mapping[str, UnitStatus]:
        """How each of these units stands now. One call for all, never one a unit. One that has no file here, and that
        systemd does not have in memory, is not found."""

    # Jobs. Each of these raises JobRefused where systemd refuses to queue it. Those asked for one after the other,
    # without waiting for the answer in between, are queued in that order.

    async def start(self, name: str) -> None:
        """Queue a start job (mode replace); returns when the job is queued. Its end is a change."""

    async def restart(self, name: str) -> None:
        """Queue a restart job (mode replace): what runs of those that need this unit is restarted with it; returns when
        the job is queued. A unit that does not run is started."""

    async def stop(self, name: str) -> None:
        """Queue a stop job (mode replace); returns when the job is queued. A unit not loaded is no error."""

    async def wait_for_changes(self) -> Sequence[str]:
        """Wait until units of ours (those with files here) changed state or ended a job; their names, each once."""

    def job_result(self, name: str) -> str:
        """How the last job of this unit ended since it was asked for with `start`, `stop` or `restart`, '' while none
        has. systemd's word: done, failed, dependency, timeout, canceled, assert, …; but SKIPPED for one that is done
        because a condition was not met, and REFUSED for one that failed before the unit had begun to start (a timer
        without its service, a socket whose service runs already)."""

    async def details(self, name: str) -> UnitDetails:
        """More on one unit; the defaults for one that systemd does not know."""

    async def explain(self, name: str) -> str:
        """Why the unit failed, for a person: systemd's result and exit status, and its last log lines."""

    async def machine_is_stopping(self) -> bool:
        """Whether the whole machine is being shut down or rebooted (SystemState is `stopping`)."""

    async def pending_job(self, name: str) -> str:
        """The kind of job queued for this unit (so fleetd learns whether it is restarted or stopped), or ''."""
