"""The lease service: systemd stops units where the machine is cut off, even if fleetd is dead or frozen.

`fleet-lease.service` ends at the deadline that stands in a file, unless it is restarted before with a later one. When
it ends, `fleet-isolate.service` leaves a mark, stops the units by starting `fleet-isolated.target`, with which they
conflict, and kills what is left of each in time. While the mark is there, a condition keeps them from being started.

It is no timer: a daemon-reload begins the countdown of those anew. A service keeps its own.
"""

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from fleetd.model.isolation_dropin import MARK, PERMITS, TARGET
from fleetd.systemd.dbus_connection import SystemBus
from fleetd.systemd.protocol import IsolatedUnit, Isolation

LEASE, ISOLATE = "fleet-lease.service", "fleet-isolate.service"
_UNDER_WAY_S = 60  # for so long what is left is killed again and again

# Both clocks of /proc/uptime go on while the machine is suspended; `sleep` does not, so it looks again now and then.
_LEASE_SCRIPT = """\
# Ends with a failure at the time in the file `until`: hundredths of a second of the boot clock.
read -r until < "$1/until" || exit 1
while :; do
  read -r up idle < /proc/uptime
  left=$((until - ${up%.*}${up#*.}))
  [ "$left" -gt 0 ] || exit 1
  [ "$left" -lt 500 ] || left=500
  sleep "$((left / 100)).$((left / 10 % 10))$((left % 10))"
done
"""

_ISOLATE_SCRIPT = """\
# Stops the units in the file `units`, each with the hundredths of a second after which it is killed.
set -f
cd "$1" || exit 1
rm -f finished
[ -e isolated ] || rm -f stopped
: > isolated
names=
while read -r limit name; do names="$names $name"; done < units
[ -e stopped ] || { timeout 1 $CTL is-active -- $names > .stopped; mv .stopped stopped; }
$CTL start --no-block fleet-isolated.target
$CTL stop --no-block -- $names
read -r up idle < /proc/uptime
began=${up%.*}${up#*.}
echo "this machine is cut off from its cluster, so these units are stopped:$names"
while :; do
  left=
  read -r up idle < /proc/uptime
  passed=$((${up%.*}${up#*.} - began))
  while read -r limit name; do
    case $($CTL is-active -- "$name") in inactive | failed | unknown) continue ;; esac
    left="$left $name"
    [ "$passed" -lt "$limit" ] || $CTL kill --signal=KILL -- "$name"
  done < units
  [ -n "$left" ] || break
  [ "$passed" -lt LIMIT ] || { echo "cannot be stopped:$left"; break; }
  sleep 0.1
done
: > finished
"""

_FILES = {
    LEASE: """\
[Unit]
Description=fleet: this machine is heard of by its cluster
Documentation=man:fleet.unit(5)
DefaultDependencies=no
StartLimitIntervalSec=0
OnFailure={isolate}

[Service]
ExecStart=/bin/sh {directory}/lease.sh {directory}
# If the process is stopped by a signal, systemd ends it.
RuntimeMaxSec={longest_s:g}
TimeoutStopSec=1
OOMScoreAdjust=-1000
""",
    ISOLATE: """\
[Unit]
Description=fleet: stop the units that must not run while this machine is cut off
Documentation=man:fleet.unit(5)
DefaultDependencies=no
StartLimitIntervalSec=0

[Service]
Type=oneshot
Environment="CTL=systemctl {mode}"
ExecStart=/bin/sh {directory}/isolate.sh {directory}
Restart=on-failure
RestartSec=100ms
OOMScoreAdjust=-1000
""",
    TARGET: """\
[Unit]
Description=fleet: units that must not run while this machine is cut off are stopped
Documentation=man:fleet.unit(5)
DefaultDependencies=no
StartLimitIntervalSec=0
""",
}


class LeaseUnits:
    """These units, for the systemd on `bus`. Their state is kept in `runtime` (systemd's %t), below fleet/."""

    def __init__(self, bus: SystemBus, runtime: Path, units: Path, *, user: bool) -> None:
        self._bus = bus
        self._runtime = runtime
        self._units = units
        self._mode = "--user" if user else "--system"
        self._directory = (runtime / MARK).parent

    async def hold(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """See ServiceManager.hold_lease."""
        has_changed = self._write_units(min(unit.isolation_s for unit in units))
        lines = (f"{unit.stop_s * 100:.0f} {unit.name}\n" for unit in units)
        self._put("units", "".join(lines))
        self._put("until", f"{max(until_s, 0.0) * 100:.0f}\n")
        if has_changed:
            await self._bus.call("daemon-reload", "Reload", timeout_s=120.0)
        await self._ask("RestartUnit", LEASE)

    async def drop(self) -> None:
        """See ServiceManager.drop_lease."""
        for unit in (LEASE, TARGET):
            await self._ask("StopUnit", unit)
        self._unmark()
        for name in ("until", "units"):
            self._delete(name)

    async def end(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """See ServiceManager.end_isolation."""
        await self.hold(units, until_s)
        await self._ask("StopUnit", TARGET)
        self._unmark()

    def state(self) -> Isolation:
        """See ServiceManager.isolation."""
        is_isolated = (self._directory / "isolated").exists()
        return Isolation(
            is_leased=(self._directory / "until").exists(),
            is_isolated=is_isolated,
            is_under_way=is_isolated and not (self._directory / "finished").exists(),
            stopped=self._find_stopped() if is_isolated else (),
        )

    def permit(self, names: Collection[str]) -> None:
        """See ServiceManager.permit."""
        folder = self._runtime / PERMITS
        found = os.listdir(folder) if folder.is_dir() else []
        for name in found:
            if name not in names:
                (folder / name).unlink()
        for name in names:
            if name not in found:
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                (folder / name).touch()

    def _find_stopped(self) -> tuple[str, ...]:
        """The units that ran when they were stopped; without an answer of systemd, all of them."""
        names = [line.split(" ", 1)[1] for line in self._read("units").splitlines()]
        states = self._read("stopped").splitlines()
        states += ["active"] * (len(names) - len(states))
        return tuple(
            name for name, state in zip(names, states, strict=False) if state in ("active", "activating", "reloading")
        )

    def _unmark(self) -> None:
        for name in ("isolated", "stopped", "finished"):
            self._delete(name)

    def _write_units(self, longest_s: float) -> bool:
        """Write scripts and units. Returns True if systemd may have read other ones."""
        self._put("lease.sh", _LEASE_SCRIPT)
        self._put("isolate.sh", _ISOLATE_SCRIPT.replace("LIMIT", f"{_UNDER_WAY_S * 100}"))
        has_changed = False
        for name, text in _FILES.items():
            path = self._units / name
            filled = text.format(directory=self._directory, isolate=ISOLATE, mode=self._mode, longest_s=longest_s)
            before = path.read_text() if path.exists() else ""
            if before != filled:
                has_changed |= before != ""
                self._units.mkdir(parents=True, exist_ok=True)
                _replace(path, filled)
        return has_changed

    async def _ask(self, member: str, unit: str) -> None:
        await self._bus.call(f"{member} {unit}", member, "ss", unit, "replace")

    def _put(self, name: str, text: str) -> None:
        path = self._directory / name
        if self._read(name) != text:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            _replace(path, text)

    def _read(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / name).read_text()
        return ""

    def _delete(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
