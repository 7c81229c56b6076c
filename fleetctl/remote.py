"""Runs commands on the machines of a unit: locally on this machine, else over SSH.

On several machines they run at once; their output is interleaved line by line, each line headed by its machine.
"""

import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fleetctl import output, terminal
from fleetctl.client import Client
from fleetctl.endpoint import own_paths
from fleetctl.errors import CommandFailed, SshFailed, failing_as
from fleetctl.settings import HostKeyChecking, Settings
from fleetctl.unit_locations import Location

if TYPE_CHECKING:  # what speaks SSH is costly to import, and not needed on the machine itself
    from fleetctl.ssh.connection import Connection

FAILED_STATUS = 255  # for a machine on which the command could not be run, as ssh(1) has it
MAX_CONNECTING = 8  # at once: key exchange costs processor time, an open connection does not
MACHINE_ID = Path("/etc/machine-id")
COLOURS = ("36", "33", "32", "35", "34", "31")


class Line(msgspec.Struct, frozen=True):
    """A line of output of a machine, without its newline."""

    place: Location
    text: bytes
    is_error: bool


class End(msgspec.Struct, frozen=True):
    """The end of a command on a machine: its exit status, and why it could not be run ('' if it was)."""

    place: Location
    status: int
    failure: str = ""


class Remote:
    """Runs commands on machines. `port` is the SSH port of addresses without one, 0 for ssh's default.

    `always_ssh` connects to this machine by SSH, too.
    """

    def __init__(self, settings: Settings, client: Client, port: int, *, always_ssh: bool = False) -> None:
        self._settings = settings
        self._client = client
        self._port = port
        self._always_ssh = always_ssh
        self._connecting = threading.Semaphore(MAX_CONNECTING)
        self._host_keys: dict[str, tuple[str, ...]] = {}  # of the machines that were asked about

    def run(self, place: Location, argv: Sequence[str]) -> int:
        """Run a command on one machine with our output streams and no input; returns its exit status.

        At a terminal, control sequences in its output are escaped.
        """
        if sys.stdout.isatty():
            return self._run_at_terminal(place, argv)
        if self.is_here(place):
            try:
                environment = {**self._environment, "SYSTEMD_PAGER": ""}
                return subprocess.run(argv, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
            except OSError as error:
                raise CommandFailed(f"Error running local command: {error}", FAILED_STATUS) from error
        from fleetctl.ssh.sessions import run_command

        try:
            with self.connect(place) as connection:
                return run_command(connection, shlex.join(argv))
        except SshFailed as error:
            raise CommandFailed(f"Unable to SSH to remote host: {error}", FAILED_STATUS) from error

    def _run_at_terminal(self, place: Location, argv: Sequence[str]) -> int:
        status, colours = 0, 0 if os.environ.get("NO_COLOR") else 1
        as_at_a_terminal = f"SYSTEMD_COLORS={colours} SYSTEMD_URLIFY=0 SYSTEMD_PAGER="
        for event in self.run_on_all([place], f"{as_at_a_terminal} {shlex.join(argv)}"):
            if isinstance(event, Line):
                _show_line(event)
            elif event.failure:
                raise CommandFailed(f"Unable to SSH to remote host: {event.failure}", event.status)
            else:
                status = event.status
        return status

    @contextmanager
    def connect(self, place: Location) -> Iterator["Connection"]:
        """An SSH connection to a machine. Raises SshFailed, and CommandFailed if the API does not tell its keys."""
        from fleetctl.ssh.connection import connect_to_machine
        from fleetctl.ssh.known_hosts import read_record

        if not place.address:
            raise SshFailed(f"machine {place.machine} has no address: set public_ip in its fleet.conf")
        self.ask_for_host_keys([place])
        record = read_record(place.machine, self._host_keys.get(place.machine, ()))
        with self._connecting:
            connection = connect_to_machine(self._settings, place.address, self._port, self._client.bastion, record)
        try:
            yield connection
        finally:
            connection.close()

    def ask_for_host_keys(self, places: Sequence[Location]) -> None:
        """Ask once for what the records of these machines have, unless keys are not checked. Raises CommandFailed."""
        if self._settings.strict_host_key_checking is HostKeyChecking.OFF:
            return
        missing = [place.machine for place in places if place.machine not in self._host_keys]
        if missing:
            with failing_as("Error reading the host keys of machines: "):
                found = self._client.host_keys(missing)
            self._host_keys |= {machine: found.get(machine, ()) for machine in missing}

    def run_on_all(self, places: Sequence[Location], command: str) -> Iterator[Line | End]:
        """Run a shell command on all machines at once; yields their output as it comes, and an End for each."""
        from fleetctl.ssh.connection import asking

        # All at once, before there are threads: the client takes one request at a time.
        self.ask_for_host_keys([place for place in places if place.address and not self.is_here(place)])
        events: queue.SimpleQueue[Line | End] = queue.SimpleQueue()
        for place in places:
            self.begin(place, command, events.put)
        left = len(places)
        while left:
            event = events.get()
            left -= isinstance(event, End)
            with asking:  # the caller prints it: not over a host key question
                yield event

    def begin(self, place: Location, command: str, emit: Callable[[Line | End], None]) -> None:
        """Run a shell command on a machine in the background, whose output and End are given to `emit`."""
        threading.Thread(target=self._run_one, args=(place, command, emit), daemon=True).start()

    def _run_one(self, place: Location, command: str, emit: Callable[[Line | End], None]) -> None:
        from fleetctl.ssh.sessions import run_command

        stdout, stderr = _Lines(place, False, emit), _Lines(place, True, emit)
        end = End(place, FAILED_STATUS, "the command ended unexpectedly")
        try:
            if self.is_here(place):
                end = End(place, _run_here(command, self._environment, stdout.feed, stderr.feed))
            else:
                with self.connect(place) as connection:
                    end = End(place, run_command(connection, command, stdout=stdout.feed, stderr=stderr.feed))
        except (SshFailed, OSError) as error:
            end = End(place, FAILED_STATUS, str(error))
        finally:
            stdout.flush()
            stderr.flush()
            emit(end)

    def is_here(self, place: Location) -> bool:
        """True for this machine, unless it is connected to by SSH, too."""
        return not self._always_ssh and place.machine == local_machine_id(self._settings.user)

    @property
    def _environment(self) -> Mapping[str, str]:
        """That of commands on this machine. Where nobody has logged in, as with su, systemctl --user would not find the
        user's systemd."""
        return {"XDG_RUNTIME_DIR": own_paths().runtime, **os.environ} if self._settings.user else os.environ


class _Lines:
    """Splits a stream of bytes into Line events."""

    def __init__(self, place: Location, is_error: bool, emit: Callable[[Line | End], None]) -> None:
        self._place = place
        self._is_error = is_error
        self._emit = emit
        self._begun = b""

    def feed(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._emit(Line(self._place, line, self._is_error))

    def flush(self) -> None:
        if self._begun:
            self.feed(b"\n")


def _run_here(
    command: str,
    environment: Mapping[str, str],
    stdout: Callable[[bytes], None],
    stderr: Callable[[bytes], None],
) -> int:
    pipe, argv = subprocess.PIPE, ["/bin/sh", "-c", command]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_copy, args=(process.stderr.fileno(), stderr), daemon=True)
        errors.start()
        _copy(process.stdout.fileno(), stdout)
        errors.join()
        return process.wait()


def _copy(source: int, sink: Callable[[bytes], None]) -> None:
    while data := os.read(source, 65536):
        sink(data)


def local_machine_id(is_user: bool = False) -> str:
    """The id of this machine, or that of the user's own fleetd; '' if it has none."""
    try:
        machine_id = MACHINE_ID.read_text(encoding="ascii").strip()
        if not is_user:
            return machine_id
        from fleetd.model.user_instance import user_machine_id  # late: rarely needed

        return user_machine_id(machine_id, os.getuid())
    except (OSError, ValueError):
        return ""


def systemctl(settings: Settings) -> list[str]:
    """The command that speaks to the systemd that runs the units."""
    return ["systemctl", "--user"] if settings.user else ["systemctl"]


def _in_order(events: Iterator[Line | End], places: Sequence[Location]) -> Iterator[tuple[End, list[Line]]]:
    """The output of each machine in the order of the machines, as soon as it and all before it have ended."""
    written: dict[Location, list[Line]] = {place: [] for place in places}
    ends: dict[Location, End] = {}
    left = list(places)
    for event in events:
        if isinstance(event, Line):
            written[event.place].append(event)
            continue
        ends[event.place] = event
        while left and left[0] in ends:
            place = left.pop(0)
            yield ends[place], written[place]


def show_as_they_come(events: Iterator[Line | End], places: Sequence[Location], *, has_heads: bool = True) -> int:
    """Print the output of several machines as it comes, each line headed by its machine unless not `has_heads`; returns
    the exit status."""
    colours = _colours_of(places)
    ends = []
    for event in events:
        if isinstance(event, Line):
            _show_line(event, colours[event.place] if has_heads else None)
        else:
            ends.append(event)
            _report_failure(event)
    return _status_of(ends)


def show_in_order(events: Iterator[Line | End], places: Sequence[Location], *, as_blocks: bool = False) -> int:
    """Print the output of one machine after the other, each line headed by its machine, or each block of lines; returns
    the exit status.
    """
    colours = _colours_of(places)
    ends: list[End] = []
    for end, lines in _in_order(events, places):
        if as_blocks:
            output.result("\n" * bool(ends) + terminal.paint(f"{end.place}:", colours[end.place], sys.stdout))
        for line in lines:
            _show_line(line, None if as_blocks else colours[end.place])
        ends.append(end)
        _report_failure(end)
    return _status_of(ends)


def _colours_of(places: Sequence[Location]) -> dict[Location, str]:
    """A colour for each machine."""
    return {place: COLOURS[number % len(COLOURS)] for number, place in enumerate(places)}


def _show_line(line: Line, colour: str | None = None) -> None:
    """Print a line, headed by its machine in this colour, if given."""
    stream = sys.stderr if line.is_error else sys.stdout
    head = terminal.paint(f"{line.place}:", colour, stream) + " " if colour else ""
    text = line.text.decode(errors="replace")
    text = head + (output.for_terminal(text) if stream.isatty() else text)
    if line.is_error:
        output.note(text)
    else:
        output.result(text)


def _report_failure(end: End) -> None:
    """Print an error if the command could not be run on a machine."""
    if end.failure:
        output.error(f"Unable to SSH to remote host: {end.failure} (machine {end.place})")


def _status_of(ends: Sequence[End]) -> int:
    """The first exit status, by machine id, that is not 0."""
    return next((end.status for end in sorted(ends, key=lambda end: end.place.machine) if end.status), 0)
