"""[Install], compared with what `systemctl enable --runtime` and `disable` do for the same units on one machine."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

RUNTIME = "/run/systemd/system"
TARGETS = "multi-user.target sockets.target default.target"
ADMINISTRATORS = "/etc/systemd/system"
SHOWN = "Names,Wants,Requires,WantedBy,RequiredBy"


def installed(*lines: str, unit: str = "", service: str = SLEEPER) -> str:
    return f"{unit}{service}\n[Install]\n" + "\n".join(lines) + "\n"


SOCKET = "[Socket]\nListenStream=/run/pair.sock\n"
CASES = {
    "an alias": {"a.service": installed("Alias=b.service c.service")},
    "wanted by a target": {"a.service": installed("WantedBy=multi-user.target")},
    "wanted by an alias of a target": {"a.service": installed("WantedBy=default.target")},
    "of instances": {"a@1.service": installed("Alias=b@%i.service", "WantedBy=x-%p-%i.target")},
    "of another unit": {
        "a.service": installed("WantedBy=web.service", "RequiredBy=web.service"),
        "web.service": SLEEPER,
    },
    "of an alias": {"a.service": installed("RequiredBy=db.service"), "pg.service": installed("Alias=db.service")},
    "a service and its socket": {
        "pair.service": installed("Also=pair.socket", "WantedBy=multi-user.target"),
        "pair.socket": installed("Also=pair.service", "WantedBy=sockets.target", service=SOCKET),
    },
    "specifiers of the machine": {"a.service": installed("Alias=a-%H.service a-%m.service", "WantedBy=b-%l-%v.target")},
    "an empty value": {"a.service": installed("Alias=b.service", "Alias=", "Alias=c.service")},
    "quoted and continued": {"a.service": installed("Alias='b.service' \\\n# or\n  c.service")},
}


@pytest.fixture(scope="module")
def lone_machine() -> Iterator[Cluster]:
    with Cluster(machines=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(lone_machine: Cluster) -> Iterator[Cluster]:
    yield lone_machine
    lone_machine.destroy_all_units()


@pytest.fixture
def machine(cluster: Cluster) -> Machine:
    return cluster.machines[0]


def shell(machine: Machine, command: str) -> str:
    return machine.run(["sh", "-c", command]).stdout


def links(machine: Machine) -> list[str]:
    """Everything below systemd's runtime directory."""
    return shell(machine, f"cd {RUNTIME} && find . -type l -o -type f | sort").split()


def shown(machine: Machine, units: Mapping[str, str]) -> list[str]:
    """systemd's view of each unit, and of the targets that want one."""
    lines = shell(machine, f"systemctl show --property={SHOWN} {shlex.join(units)} {TARGETS}").splitlines()
    return [f"{name}={' '.join(sorted(words.split()))}" for name, _, words in (line.partition("=") for line in lines)]


def inspect(machine: Machine, units: Mapping[str, str]) -> list[list[str]]:
    """The links but for those of the unit files themselves, and systemd's view of each unit."""
    own = [f"./{name}" for name in units]
    return [[link for link in links(machine) if link not in own], shown(machine, units)]


def enable_by_hand(machine: Machine, units: Mapping[str, str]) -> list[list[str]]:
    """Enable the units as an administrator does, record the result, and disable them again."""
    for name, text in units.items():
        machine.path(f"{ADMINISTRATORS}/{name}").write_text(text)
    names = shlex.join(units)
    try:
        shell(machine, f"systemctl enable --runtime {names} 2>&1 || true; systemctl daemon-reload")
        return inspect(machine, units)
    finally:
        shell(machine, f"systemctl disable --runtime {names}; cd {ADMINISTRATORS}; rm {names}; systemctl daemon-reload")


@pytest.mark.covers("6.2.1")
@pytest.mark.parametrize("units", CASES.values(), ids=CASES)
def test_install_makes_what_systemctl_enable_makes_and_removes_it(
    cluster: Cluster, machine: Machine, tmp_path: Path, units: Mapping[str, str]
) -> None:
    before = links(machine)
    by_systemctl = enable_by_hand(machine, units)
    assert links(machine) == before, "systemctl has taken its links away"
    cluster.fleetctl("load", *Operator(cluster, tmp_path).write(units))
    by_fleet = inspect(machine, units)
    cluster.fleetctl("destroy", *units)
    assert by_fleet == by_systemctl
    assert links(machine) == before
    shell(machine, "systemctl daemon-reload")
    states = set(shell(machine, f"systemctl show --value --property=LoadState {shlex.join(units)}").split())
    assert states == {"not-found"}


def test_a_unit_that_requires_an_alias_starts_the_unit_that_has_it(cluster: Cluster, tmp_path: Path) -> None:
    units = {
        "client.service": with_fleet("MachineOf=pg.service", service=f"[Unit]\nRequires=db.service\n{SLEEPER}"),
        "pg.service": installed("Alias=db.service", service="[Service]\nExecStart=/bin/sleep 4242\n"),
    }
    operator = Operator(cluster, tmp_path)
    operator.start(units)
    machine = cluster.machines[0]
    assert shell(machine, "pgrep -fc 'sleep 424[2]'").strip() == "1"
    cluster.fleetctl("destroy", *units)
    assert shell(machine, "pgrep -fc 'sleep 424[2]' || true").strip() == "0"


def test_a_changed_install_section_removes_the_old_links(cluster: Cluster, machine: Machine, tmp_path: Path) -> None:
    operator = Operator(cluster, tmp_path)
    operator.start({"web.service": SLEEPER})
    cluster.fleetctl(
        "load", *operator.write({"logger.service": installed("WantedBy=web.service", "Alias=old.service")})
    )
    shell(machine, "systemctl restart web.service")
    assert shell(machine, "systemctl is-active logger.service").strip() == "active", "without anybody's daemon-reload"
    shell(machine, "systemctl stop logger.service")
    cluster.fleetctl("load", "--replace", *operator.write({"logger.service": SLEEPER}))
    shell(machine, "systemctl restart web.service")
    assert shell(machine, "systemctl is-active logger.service old.service || true").split() == ["inactive", "inactive"]
    assert [link for link in links(machine) if "logger" in link or "old" in link] == ["./logger.service"]


def test_a_change_of_an_instance_that_stays_in_memory_takes_effect(
    cluster: Cluster, machine: Machine, tmp_path: Path
) -> None:
    operator = Operator(cluster, tmp_path)
    operator.start({"web@1.service": SLEEPER})
    for number, owner in enumerate(("web@1.service", "web@.service")):
        logger = {f"logger{number}.service": installed(f"WantedBy={owner}")}
        cluster.fleetctl("load", *operator.write(logger))
        shell(machine, "systemctl restart web@1.service")
        assert shell(machine, f"systemctl is-active logger{number}.service").strip() == "active"


@pytest.mark.covers("R.7", "R.15")
def test_an_alias_never_replaces_stops_or_disables_a_unit_of_the_system(
    cluster: Cluster, machine: Machine, tmp_path: Path
) -> None:
    operator = Operator(cluster, tmp_path)
    shell(machine, f"printf '{SLEEPER}[Install]\\nWantedBy=multi-user.target\\n' > {ADMINISTRATORS}/theirs.service")
    shell(machine, "systemctl enable --now theirs.service")
    before = machine.main_pid("theirs.service")
    try:
        for name in ("theirs.service", "poweroff.target", "fleet.service"):
            kind = name.rpartition(".")[2]
            text = "[Unit]\nDescription=x\n" if kind == "target" else SLEEPER
            refused = operator.start({f"a.{kind}": installed(f"Alias={name}", service=text)}, check=False)
            assert refused.returncode == 1
            assert name in refused.stderr
        said = operator.start({"a.service": installed("RequiredBy=theirs.service", "Also=theirs.service")}).stderr
        assert "RequiredBy=theirs.service" in said
        assert "Also=theirs.service has no effect" in said
        cluster.fleetctl("destroy", "a.service")
        assert machine.main_pid("theirs.service") == before
        assert shell(machine, "systemctl is-enabled theirs.service").strip() == "enabled"
        shell(machine, "systemctl daemon-reload && systemctl restart theirs.service")
        shown_path = shell(machine, "systemctl show --value --property=FragmentPath theirs.service").strip()
        assert shown_path == f"{ADMINISTRATORS}/theirs.service"
    finally:
        shell(machine, "systemctl disable --now theirs.service; rm /etc/systemd/system/theirs.service")


def test_an_existing_mount_stays_mounted(cluster: Cluster, machine: Machine, tmp_path: Path) -> None:
    """On a test machine /tmp is mounted without a unit file."""
    refused = Operator(cluster, tmp_path).start({"tmp.mount": "[Mount]\nWhat=tmpfs\nWhere=/tmp\n"}, check=False)
    assert refused.returncode == 1
    assert "would hide" in refused.stderr
    assert shell(machine, "systemctl is-active tmp.mount").strip() == "active"
