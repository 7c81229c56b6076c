"""A machine that is to be added, reached over SSH: who it is, and whether it can be added."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from fleetctl import output
from fleetctl.cluster.host import Host, over_ssh
from fleetctl.errors import CommandFailed, SshFailed
from fleetctl.settings import Settings
from fleetd.model.join_token import refuse_machine_id

REACH_S = 5.0
CLOCKS_DIFFER_S = 12 * 3600.0  # certificates are valid from a day before they are made
_FACTS = r"""
printf '%s\n' "$(id -u)" "$(cat /etc/machine-id 2>/dev/null)" "$(hostname)" "$SSH_CONNECTION" "$(date +%s)"
"""


class Facts(msgspec.Struct, frozen=True):
    """What a machine is: its machine-id, host name, the address that SSH reached, and its clock in Unix time."""

    machine: str
    hostname: str
    address: str
    now_s: float


@contextmanager
def reach(settings: Settings, target: str, port: int) -> Iterator[tuple[Host, Facts]]:
    """The machine `[USER@]HOST[:PORT]`, as root or a user who may use sudo without a password. Raises CommandFailed."""
    from fleetctl.ssh.config import plan_login, split_host_port, split_user
    from fleetctl.ssh.connection import connect

    try:
        user, place = split_user(target)
        name, own_port = split_host_port(place)
        connection = connect(settings, plan_login(settings, name, own_port or port, user))
    except SshFailed as error:
        raise CommandFailed(f"Unable to SSH to {output.printable(target)}: {error}") from error
    try:
        yield _introduce(connection, output.printable(name))
    except SshFailed as error:
        raise CommandFailed(f"{output.printable(target)}: {error}") from error
    finally:
        connection.close()


def _introduce(connection: object, name: str) -> tuple[Host, Facts]:
    plain = over_ssh(connection, name)  # type: ignore[arg-type]  # its type is costly to import
    lines = plain.run("sh", "-c", _FACTS, doing="ask who it is").splitlines()
    if len(lines) != 5 or not lines[-1].isdecimal():
        raise CommandFailed(f"{name}: its answers cannot be read; does the shell of the user print something at login?")
    uid, machine, hostname, ssh, now = lines
    host = plain
    if uid != "0":
        host = over_ssh(connection, name, ("sudo", "-n"))  # type: ignore[arg-type]
        if host.try_to("true").status:
            raise CommandFailed(f"{name}: log in as root, or as a user whose sudo asks for no password")
    if refuse_machine_id(machine):
        raise CommandFailed(f"{name} has no machine-id in /etc/machine-id: run systemd-machine-id-setup there")
    fields = ssh.split()
    return host, Facts(machine, hostname, fields[2] if len(fields) > 2 else "", float(now))


def can_connect(host: Host, name: str, port: int) -> bool:
    """True if the machine reaches this TCP port."""
    script = 'exec 3<>"/dev/tcp/$1/$2"'
    return host.try_to("timeout", f"{REACH_S:g}", "bash", "-c", script, "bash", name, str(port)).status == 0


def refuse_clock(name: str, facts: Facts, now_s: float) -> None:
    """Raises CommandFailed if the clocks differ by so much that certificates would not be valid there."""
    ahead_s = facts.now_s - now_s
    if abs(ahead_s) > CLOCKS_DIFFER_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        raise CommandFailed(
            f"{name}: its clock is {abs(ahead_s) / 3600:.0f} hours {way} this machine's, and certificates would not be "
            "valid there: set it (timedatectl set-ntp true), then run this command again"
        )
