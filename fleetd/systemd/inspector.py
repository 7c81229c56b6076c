"""Reads what a machine's systemd and its journal say of units, for users who ask elsewhere: with journalctl and
systemctl, each a process of its own that is killed when nobody waits for it any more."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from fleetd.model.image import is_digest
from fleetd.model.machine_request import MAX_TEXT_BYTES, ImageAnswer, JournalQuery, UnitProperties, shorten_entry

CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 256 * 1024  # a longer entry is left out
MAX_ERROR_BYTES = 4 * 1024
NO_MATCH = 1  # the status of journalctl if --grep finds nothing; then it writes no error

_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')  # of a line that skopeo logs

# Beside cursor and time, which each entry has.
FIELDS = (
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "UNIT",
    "USER_UNIT",
    "_COMM",
    "_HOSTNAME",
    "_PID",
    "_SYSTEMD_INVOCATION_ID",
    "_SYSTEMD_UNIT",
    "_SYSTEMD_USER_UNIT",
)
PROPERTIES = (
    "ActiveEnterTimestamp",
    "ActiveState",
    "CPUUsageNSec",
    "ControlGroup",
    "Description",
    "DropInPaths",
    "ExecMainCode",
    "ExecMainStatus",
    "FragmentPath",
    "Id",
    "InactiveEnterTimestamp",
    "InvocationID",
    "LoadError",
    "LoadState",
    "MainPID",
    "MemoryCurrent",
    "MemoryPeak",
    "NRestarts",
    "Result",
    "StatusText",
    "SubState",
    "TasksCurrent",
    "TriggeredBy",
    "Triggers",
    "UnitFileState",
)


class InspectionFailed(Exception):
    """journalctl or systemctl does not say what was asked. The message names the program and the cause."""


class ProgramMissing(InspectionFailed):
    """The machine does not have the program."""


class Entries(msgspec.Struct, frozen=True):
    """Entries of the journal, oldest first, as systemd's JSON. `is_cut`: there are more than these."""

    lines: tuple[bytes, ...] = ()
    is_cut: bool = False


class Inspector:
    """Reads the journal and the systemd of the system, or of the `user`, and asks registries. `journalctl`, `systemctl`
    and `skopeo` are the programs; `auth_file` holds the logins for registries ('': skopeo's own)."""

    def __init__(
        self,
        *,
        user: bool,
        auth_file: str = "",
        journalctl: str = "journalctl",
        systemctl: str = "systemctl",
        skopeo: str = "skopeo",
    ) -> None:
        self._user = user
        self._auth = [f"--authfile={auth_file}"] if auth_file else []
        self._journalctl = journalctl
        self._systemctl = systemctl
        self._skopeo = skopeo

    async def follow_journal(self, query: JournalQuery) -> AsyncGenerator[bytes, None]:
        """The entries, and those that come later, as they come. Raises InspectionFailed."""
        async with aclosing(_read_lines(journal_command(self._journalctl, query, user=self._user))) as lines:
            async for line in lines:
                if entry := shorten_entry(line):
                    yield entry

    async def read_journal(self, query: JournalQuery, most_bytes: int = MAX_TEXT_BYTES) -> Entries:
        """The entries, of at most so many bytes together. Raises InspectionFailed."""
        kept: deque[bytes] = deque()
        size, is_cut, takes_first = 0, False, bool(query.after)
        if not query.lines:
            return Entries()
        async with aclosing(_read_lines(journal_command(self._journalctl, query, user=self._user))) as lines:
            async for line in lines:
                if not (entry := shorten_entry(line)):
                    continue
                is_full = len(kept) == query.lines or size + len(entry) > most_bytes
                if is_full and (takes_first or is_reversed(query)):
                    is_cut = True
                    break
                kept.append(entry)
                size += len(entry)
                while len(kept) > query.lines or size > most_bytes:
                    size -= len(kept.popleft())
                    is_cut = True
        if is_reversed(query):
            kept.reverse()
        return Entries(tuple(kept), is_cut)

    async def show_units(self, units: Sequence[str]) -> tuple[UnitProperties, ...]:
        """The properties of these units, in this order. Raises InspectionFailed."""
        lines: list[str] = []
        async with aclosing(_read_lines(show_command(self._systemctl, units, user=self._user))) as found:
            lines.extend([line.decode("utf-8", "replace") async for line in found])
        described = parse_properties(lines)
        if len(described) != len(units):
            raise InspectionFailed(f"systemctl describes {len(described)} of {len(units)} units")
        return tuple(UnitProperties(unit, properties) for unit, properties in zip(units, described, strict=True))

    async def resolve_image(self, image: str) -> ImageAnswer:
        """What the registry of this image says of it. An image for another architecture alone has no digest."""
        command = [self._skopeo, "inspect", "--no-tags", *self._auth, "--format", "{{.Digest}}"]
        command.append(f"docker://{image}")
        try:
            async with aclosing(_read_lines(command)) as found:
                lines = [line.decode("utf-8", "replace").strip() async for line in found]
        except ProgramMissing as error:
            return ImageAnswer(failure=str(error), cannot_ask=True)
        except InspectionFailed as error:
            said = _MESSAGE.search(str(error))
            return ImageAnswer(failure=said[1].replace('\\"', '"') if said else str(error))
        digest = lines[0] if len(lines) == 1 else ""
        return ImageAnswer(digest) if is_digest(digest) else ImageAnswer(failure="skopeo says no digest")


def is_reversed(query: JournalQuery) -> bool:
    """True if journalctl writes the last entry first: it does with a pattern and a number of lines."""
    return bool(query.grep) and not query.after and not query.follow


def journal_command(program: str, query: JournalQuery, *, user: bool) -> list[str]:
    """The arguments of journalctl. Those that follow a cursor are all read, and cut then: with --lines=N, journalctl
    shows the last ones. It takes no time together with a cursor."""
    option = "--user-unit" if user else "--unit"
    command = [program, *(f"{option}={unit}" for unit in query.units)]
    command += ["--output=json", f"--output-fields={','.join(FIELDS)}", "--all", "--no-pager", "--quiet"]
    command.append("--lines=all" if query.after else f"--lines={query.lines}")
    if query.after:
        command.append(f"--after-cursor={query.after}")
    elif query.since_s:
        command.append(f"--since=@{query.since_s:.6f}")
    if query.grep:
        command.append(f"--grep={query.grep}")
    if query.follow:
        command.append("--follow")
    return [*command, "--reverse"] if is_reversed(query) else command


def show_command(program: str, units: Sequence[str], *, user: bool) -> list[str]:
    """The arguments of systemctl."""
    scope = ["--user"] if user else []
    return [program, *scope, "show", "--no-pager", f"--property={','.join(PROPERTIES)}", "--", *units]


def parse_properties(lines: Sequence[str]) -> list[dict[str, str]]:
    """What `systemctl show` says of each unit: blocks with an empty line between. Without values that are not set."""
    blocks: list[dict[str, str]] = []
    is_new = True
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals:
            is_new = True
            continue
        if is_new:
            blocks.append({})
            is_new = False
        if value not in ("", "[not set]"):
            blocks[-1][name] = value
    return blocks


async def _read_lines(command: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """The lines that the program writes, without those that are too long. It is killed when the generator is closed.
    Raises InspectionFailed if it cannot be run, or fails."""
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=pipe, stderr=pipe)
    except FileNotFoundError as error:
        raise ProgramMissing(f"cannot run {command[0]}: {error.strerror}") from error
    except OSError as error:
        raise InspectionFailed(f"cannot run {command[0]}: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(_read_error(process.stderr))
    try:
        begun, is_too_long = b"", False
        while chunk := await process.stdout.read(CHUNK_BYTES):
            *whole, begun = (begun + chunk).split(b"\n")
            for number, line in enumerate(whole):
                if not (number == 0 and is_too_long):
                    yield line
            is_too_long = len(begun) > MAX_LINE_BYTES or (is_too_long and not whole)
            begun = b"" if is_too_long else begun
        if begun:
            yield begun
        status, said = await process.wait(), await errors
        if status not in (0, NO_MATCH) or (status and said):
            raise InspectionFailed(f"{command[0]} fails: {said or f'exit status {status}'}")
    finally:
        errors.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read_error(stream: asyncio.StreamReader) -> str:
    """The last line of what a program writes to stderr; the rest is read, so that it does not wait."""
    kept = b""
    while chunk := await stream.read(CHUNK_BYTES):
        kept = (kept + chunk)[-MAX_ERROR_BYTES:]
    lines = kept.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
