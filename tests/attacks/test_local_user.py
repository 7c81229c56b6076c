"""A user of a server without any group of fleet's: each way from a shell to the API, to its files, to the processes.

All of it is tried on a real machine, as that user, while a unit of the cluster runs that holds a secret.
"""

import shlex
from collections.abc import Iterator

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import Operator

__all__ = ["machine"]

SECRET = "the-password-in-a-unit"
SHOWN = "what-systemd-itself-shows"
UNIT = f"[Service]\nEnvironment=A={SHOWN}\nExecStart=/bin/sleep infinity\n[X-Private]\nPassword={SECRET}\n"
CREDENTIAL = "the-value-of-a-credential"
CREDENTIALS = "/run/fleet/credentials.sock"
KEEPER = (
    f"[Service]\nLoadCredential=db.pw:{CREDENTIALS}\nExecStart=/bin/sleep infinity\nDynamicUser=yes\n"
    "[X-Fleet]\nSecret=db.pw\n"
)
METRICS = "/run/fleet-metrics.sock"
CONNECT = """
import socket, sys
for name in sys.argv[1:]:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(0.5)
    try:
        client.connect(name.replace("@", "\\0"))
        client.sendall(b"GET /fleet/v2/units/mine.service HTTP/1.1\\r\\nHost: fleet\\r\\nFleet-User: root\\r\\n\\r\\n")
        print(name, client.recv(65536).decode(errors="replace").replace("\\r\\n", " "))
    except OSError as error:
        print(name, error)
"""

pytestmark = [pytest.mark.machines, pytest.mark.xdist_group("attacks of a local user")]


class Attacker:
    """Somebody with a shell on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.fleetd = machine.main_pid("fleet.service")
        self.unit = machine.main_pid("mine.service")
        machine.path("/var/tmp/connect.py").write_text(CONNECT)
        machine.path("/var/tmp/connect.py").chmod(0o644)

    def gets(self, command: str) -> tuple[int, str]:
        """Exit status and all output of a shell command, as this user."""
        shell = ["runuser", "-u", "mallory", "--", "sh", "-c", command]
        done = self.machine.run(shell, check=False, timeout_s=120)
        return done.returncode, done.stdout + done.stderr

    def fails(self, command: str) -> bool:
        """Whether a command fails, and shows nothing of the unit's secret."""
        status, said = self.gets(command)
        return status != 0 and SECRET not in said


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Cluster([{"standalone": "true", "metrics_listen": METRICS}]) as cluster:
        operator = Operator(cluster, tmp_path_factory.mktemp("operator"))
        operator.start({"mine.service": UNIT})
        (machine,) = cluster.machines
        set_secret = ["fleetctl", "secret", "set", "db.pw"]
        cluster.wait_until(
            "the machine has a key for secrets",
            lambda: machine.run(set_secret, stdin=CREDENTIAL, check=False).returncode == 0,
        )
        operator.start({"keeper.service": KEEPER})
        machine.run(["useradd", "--create-home", "mallory"])
        yield machine


@pytest.fixture
def attacker(machine: Machine) -> Iterator[Attacker]:
    attacker = Attacker(machine)
    assert SECRET in machine.run(["fleetctl", "cat", "mine.service"]).stdout, "root sees it"
    yield attacker
    assert machine.main_pid("fleet.service") == attacker.fleetd
    assert machine.main_pid("mine.service") == attacker.unit
    assert machine.run(["systemctl", "is-active", "fleet.socket"]).stdout == "active\n"
    assert "Traceback" not in machine.journal("fleet.service")


CURL = "curl --silent --max-time 5 --fail --unix-socket"
CAT = "fleetctl cat mine.service"


@pytest.mark.parametrize(
    "command",
    [
        CAT,
        "fleetctl list-units",
        "fleetctl stop mine.service",
        "fleetctl --user cat mine.service",
        "fleetctl --endpoint=unix:///run/fleet.sock cat mine.service",
        "fleetctl --endpoint=unix:///var/run/../run/fleet.sock cat mine.service",
        "fleetd leave",
        "fleetd --standalone --listen=/tmp/mallory.sock",
        f"{CURL} /run/fleet.sock http://fleet/fleet/v2/units/mine.service",
        f"{CURL} /run/fleet.sock -H 'Fleet-User: root' http://fleet/fleet/v2/units/mine.service",
        f"{CURL} /run/fleet.sock -X POST http://fleet/fleet/v2/leave",
        f"{CURL} {METRICS} http://fleet/fleet/v2/units/mine.service",
        f"{CURL} {METRICS} http://fleet/metrics/../fleet/v2/units/mine.service",
        f"ln -sf /run/fleet.sock /tmp/link.sock; {CURL} /tmp/link.sock http://fleet/fleet/v1/units",
        f"unshare --user --map-root-user {CAT}",
        f"unshare --user --map-root-user --pid --fork --mount-proc {CAT}",
        f"sg fleet -c '{CAT}' </dev/null",
        f"newgrp fleet </dev/null && {CAT}",
        f"sudo -n {CAT}",
        f"pkexec {CAT} </dev/null",
        f"systemd-run --pipe --wait {CAT} </dev/null",
        f"systemd-run --user --pipe --wait --property=Group=fleet {CAT} </dev/null",
        f"busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager "
        f"OpenMachineShell sssas0 .host root /bin/sh && {CAT}",
    ],
)
def test_the_api_answers_nothing(attacker: Attacker, command: str) -> None:
    assert attacker.fails(command)


def test_root_gets_by_the_same_commands_what_the_user_does_not(attacker: Attacker) -> None:
    """So that the tests show what rights do, and not that a program is missing."""
    machine = attacker.machine
    for command in (CAT, f"{CURL} /run/fleet.sock http://fleet/fleet/v2/units/mine.service"):
        assert SECRET in machine.run(["sh", "-c", command]).stdout, command
    assert SECRET in machine.run(["cat", "/run/fleet/units/mine.service"]).stdout
    assert SHOWN in machine.run(["cat", f"/proc/{attacker.unit}/environ"]).stdout
    assert SECRET in machine.run(["systemctl", "cat", "mine.service"]).stdout
    machine.run(["sh", "-c", f"{SYSTEMD} GetUnit s mine.service"])
    assert SECRET in machine.run(["/usr/bin/python3", "/var/tmp/connect.py", "/run/fleet.sock"]).stdout


def test_no_other_socket_of_the_machine_leads_to_the_api(attacker: Attacker) -> None:
    """Whatever listens here, also under an abstract name or on TCP: none answers with the unit."""
    listening = attacker.gets("cat /proc/net/unix")[1].splitlines()
    names = {line.split()[7] for line in listening if len(line.split()) > 7}
    assert "/run/fleet.sock" in names
    fleets = {name for name in names if "fleet" in name}
    assert not [name for name in fleets if name.startswith("@")], "no abstract ones of fleet's"
    status, said = attacker.gets(f"/usr/bin/python3 /var/tmp/connect.py {shlex.join(sorted(names))}")
    assert status == 0, said
    assert SECRET not in said
    answers = dict(line.split(" ", 1) for line in said.splitlines() if line.split(" ", 1)[0] in fleets)
    assert set(answers) == fleets
    assert [name for name, answer in answers.items() if " 200 OK" in answer] == [], answers
    assert "fleetd" not in attacker.machine.run(["ss", "--no-header", "-lntp"]).stdout, "nothing on TCP"


def test_files_hold_nothing_that_is_readable(attacker: Attacker) -> None:
    folders = "/run/fleet /run/systemd/system /run/systemd/transient /var/lib/fleet /etc/fleet /var/log /run/log /tmp"
    assert SECRET not in attacker.gets(f"grep -rs {SECRET} {folders}")[1]
    assert attacker.gets("find /run/fleet /var/lib/fleet -type f -readable 2>/dev/null")[1] == ""
    assert (
        attacker.gets("find /run/fleet /var/lib/fleet /etc/fleet /run/fleet.sock ! -type s -writable 2>/dev/null")[1]
        == ""
    )
    for path in ("/run/fleet/units/mine.service", "/run/fleet/started/mine.service", "/var/lib/fleet/fleet.db"):
        assert attacker.fails(f"cat {path}"), path
        assert attacker.fails(f"ln {path} /var/tmp/hard"), path
    assert attacker.fails("cat /run/systemd/system/mine.service")
    assert attacker.fails(
        '/usr/bin/python3 -c \'import sqlite3; sqlite3.connect("/var/lib/fleet/fleet.db").execute("select 1")\''
    )
    assert attacker.fails("journalctl --unit=fleet --quiet --output=cat --no-pager | grep .")


@pytest.mark.parametrize(
    "command",
    [
        "rm -f /run/fleet.sock",
        "mv /run/fleet.sock /run/old.sock",
        "chmod 600 /run/fleet.sock",
        "mkdir /run/fleet/units/mine.service.d",
        "ln -s /tmp/evil /run/systemd/system/evil.service",
        "mkdir -p /run/systemd/system/mine.service.d",
        "touch /etc/fleet/fleet.conf",
        "echo >>/etc/fleet/fleet.conf",
        "flock --nonblock /run/fleet/lock true",
        "touch /var/lib/fleet/x",
    ],
)
def test_no_file_can_be_replaced(attacker: Attacker, command: str) -> None:
    assert attacker.fails(command)


def test_the_processes_tell_nothing(attacker: Attacker) -> None:
    for pid in (attacker.fleetd, attacker.unit):
        for file in ("environ", "mem", "maps", "fd/3", "root/etc/shadow", "cwd/x", "io", "syscall"):
            assert attacker.fails(f"head -c 1 /proc/{pid}/{file}"), file
        assert attacker.fails(f"ls /proc/{pid}/fd")
        assert attacker.fails(f"kill -USR1 {pid}")
        assert attacker.fails(f"kill -9 {pid}")
        assert attacker.fails(f"exec 3</proc/{pid}/fd/0")
        assert SECRET not in attacker.gets(f"cat /proc/{pid}/cmdline /proc/{pid}/status /proc/{pid}/comm")[1]
    pidfd = (
        "import ctypes, os, sys; fd = os.pidfd_open(int(sys.argv[1])); "
        "got = ctypes.CDLL(None).syscall(438, fd, 0, 0); sys.exit(got == -1)"
    )
    assert attacker.fails(f"/usr/bin/python3 -c '{pidfd}' {attacker.fleetd}"), "pidfd_getfd"


SPOOF = """
import socket
for name in ("keeper.service", "mine.service"):
    client = socket.socket(socket.AF_UNIX)
    client.bind(f"\\0{name}/unit/{name}/db.pw")  # as systemd does it
    try:
        client.connect("/run/fleet/credentials.sock")
        print(client.recv(65536))
    except OSError as error:
        print(error)
"""


def test_a_secret_is_for_its_unit_alone(attacker: Attacker) -> None:
    stored = "/run/credentials/keeper.service/db.pw"
    assert CREDENTIAL in attacker.machine.run(["cat", stored]).stdout, "root reads it there"
    assert attacker.fails(f"cat {stored}")
    attacker.machine.path("/var/tmp/spoof.py").write_text(SPOOF)
    attacker.machine.path("/var/tmp/spoof.py").chmod(0o644)
    said = attacker.gets("/usr/bin/python3 /var/tmp/spoof.py")[1]
    assert said.count("Permission denied") == 2, said
    pattern = CREDENTIAL.replace("c", "[c]")  # which the command line of grep does not match
    for command in (
        f"grep -rs {pattern} /run /var/lib /etc/fleet /tmp /var/log",
        f"cat /proc/*/environ /proc/*/cmdline 2>/dev/null | grep -a {pattern}",
        f"systemctl show '*' | grep {pattern}",
        "fleetctl secret list",
        "systemd-creds cat db.pw",
        f"systemd-run --user --pipe --wait --property=LoadCredential=db.pw:{CREDENTIALS} cat %d/db.pw",
    ):
        status, said = attacker.gets(command)
        assert CREDENTIAL not in said, command
        assert status != 0, command


SYSTEMD = "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"


@pytest.mark.parametrize(
    "command",
    [
        f"{SYSTEMD} StopUnit ss mine.service replace",
        f"{SYSTEMD} StopUnit ss fleet.service replace",
        f"{SYSTEMD} StopUnit ss fleet.socket replace",
        f"{SYSTEMD} RestartUnit ss fleet.service replace",
        f"{SYSTEMD} KillUnit ssi fleet.service all 9",
        f"{SYSTEMD} SetUnitProperties 'sba(sv)' fleet.service true 1 MemoryMax t 1",
        f"{SYSTEMD} SetUnitProperties 'sba(sv)' mine.service true 1 CPUQuotaPerSecUSec t 1",
        f"{SYSTEMD} LinkUnitFiles asbb 1 /tmp/evil.service true true",
        f"{SYSTEMD} AttachProcessesToUnit ssau fleet.service '' 1 1",
        f"{SYSTEMD} SetEnvironment as 1 LD_PRELOAD=/tmp/evil.so",
        f"{SYSTEMD} Reload",
        f"{SYSTEMD} BindMountUnit sssbb mine.service /tmp /etc true true",
        "systemctl stop mine.service --no-ask-password",
        "systemctl reload fleet --no-ask-password",
        "systemctl edit --runtime --stdin mine.service --no-ask-password </dev/null",
        "systemctl cat mine.service",
    ],
)
def test_the_bus_obeys_nobody(attacker: Attacker, command: str) -> None:
    assert attacker.fails(command)


def test_systemd_shows_every_user_what_a_unit_is_started_with(attacker: Attacker) -> None:
    """Not fleet's to close: SECURITY.md says so, and secrets (Secret=) are not shown."""
    assert SHOWN in attacker.gets("systemctl show mine.service --property=Environment")[1]
    assert SECRET not in attacker.gets("systemctl show mine.service --all")[1]


def test_a_bus_name_like_systemds_or_fleets_is_of_no_use(attacker: Attacker) -> None:
    bus = "busctl --timeout=3 call"
    wanted = "org.freedesktop.DBus / org.freedesktop.DBus RequestName su org.freedesktop.systemd1 7"
    assert attacker.fails(f"{bus} {wanted} | grep 'u 1'")
    rows = attacker.machine.run(["busctl", "list", "--no-legend", "--unique"]).stdout.splitlines()
    name = next(row.split()[0] for row in rows if row.split()[1] == str(attacker.fleetd))
    assert attacker.fails(f"{bus} {name} / org.freedesktop.DBus.Introspectable Introspect | grep interface")
    assert attacker.fails(f"{bus} {name} /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager Reload")


def test_a_program_of_roots_that_lends_its_socket_lends_no_rights(attacker: Attacker) -> None:
    """Who connects counts, not who sends: a connection that a user passes to root's program stays the user's."""
    script = (
        "import socket, subprocess, sys\n"
        "client = socket.socket(socket.AF_UNIX); client.connect('/run/fleet.sock')\n"
        "subprocess.run(['su', 'root', '-c', 'cat >&0'], stdin=client.fileno(), timeout=5)\n"
        "client.sendall(b'GET /fleet/v2/units/mine.service HTTP/1.1\\r\\nHost: fleet\\r\\n\\r\\n')\n"
        "text = client.recv(65536); print(text.decode()); sys.exit(b' 200 ' not in text)\n"
    )
    attacker.machine.path("/var/tmp/lend.py").write_text(script)
    attacker.machine.path("/var/tmp/lend.py").chmod(0o644)
    assert attacker.fails("/usr/bin/python3 /var/tmp/lend.py")


def test_many_connections_of_one_user_keep_nobody_else_out(attacker: Attacker) -> None:
    script = (
        "import socket, time\n"
        "held = []\n"
        "for _ in range(1500):\n"
        "    client = socket.socket(socket.AF_UNIX)\n"
        "    client.settimeout(1)\n"
        "    try: client.connect('/run/fleet.sock')\n"
        "    except OSError: break\n"
        "    held.append(client)\n"
        "print(len(held), flush=True); time.sleep(5)\n"
    )
    attacker.machine.path("/var/tmp/many.py").write_text(script)
    attacker.machine.path("/var/tmp/many.py").chmod(0o644)
    attacker.gets("ulimit -n 2000; /usr/bin/python3 /var/tmp/many.py >/dev/null 2>&1 &")
    for _ in range(3):
        assert "mine.service" in attacker.machine.run(["fleetctl", "list-units"]).stdout
