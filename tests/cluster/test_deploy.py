"""units/deploy just as it is, on real machines: whatever is done to its web servers, no request to them fails."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.registry import ContainerRegistry
from contrib.testbed.requests import Requests
from contrib.testbed.root import CHECKOUT
from tests.cluster.operator import Operator
from tests.requirements import require

FOLDER = CHECKOUT / "units/deploy"
WEBS = ("web@1.service", "web@2.service", "web@3.service")
PORT = 8080
WITHIN_S = 120.0


class Deployed:
    """A cluster to which units/deploy was applied. Requests go to HAProxy on `asked`."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.operator = Operator(cluster, folder)
        self.folder = folder / "deploy"
        self.asked = cluster.machines[1]

    def expect(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until this holds."""
        self.cluster.wait_until(what, holds, WITHIN_S)

    def announced(self) -> list[str]:
        """Announced web servers, as unit and machine."""
        rows = self.cluster.fleetctl("services", "web", "--no-legend", "--full", check=False).stdout.splitlines()
        return sorted(" ".join(row.split()[1:3]) for row in rows if row.split()[-1] == "announced")

    def is_whole(self) -> bool:
        """True if all web servers are announced, and HAProxy on the machine that is asked has found them."""
        units = [each.split()[0] for each in self.announced()]
        if units != list(WEBS):
            return False
        with Requests(self.asked.address, PORT) as requests:
            self.expect("some are answered", lambda: requests.count >= 20)
        return len(requests.answers) == len(WEBS) and not requests.failures

    def requests(self) -> Requests:
        """Requests, all web servers being well."""
        self.expect("all web servers answer", self.is_whole)
        return Requests(self.asked.address, PORT)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    require([] if shutil.which("haproxy") else ["haproxy is not installed"], "balances")
    with Cluster(machines=3, config={"dns_listen": "127.0.0.1:8600"}) as cluster:
        ContainerRegistry(cluster, cluster.machines[0]).push("library/busybox:1.36", "")
        cluster.fleetctl("apply", str(FOLDER))
        deployed = Deployed(cluster, tmp_path_factory.mktemp("operator"))
        shutil.copytree(FOLDER, deployed.folder)
        yield deployed


def check_none_failed(requests: Requests) -> None:
    assert requests.failures == []
    assert requests.count > 100


def test_the_folder_has_no_fault(deployed: Deployed) -> None:
    files = sorted(str(path) for path in FOLDER.iterdir() if path.suffix != ".md")
    result = deployed.cluster.machines[0].run(["fleetctl", "verify", *files])
    assert result.stdout == ""
    (note,) = result.stderr.splitlines()
    assert note.startswith("scheduler.service runs while it holds the lock scheduler, which others get if")
    applied = deployed.cluster.fleetctl("apply", str(FOLDER))
    assert "unchanged" in applied.stdout
    assert applied.stderr == ""


def test_a_rolling_update_fails_no_request(deployed: Deployed) -> None:
    file = deployed.folder / "web@.container"
    with deployed.requests() as requests:
        file.write_text(file.read_text().replace("Version 1", "Version 2"))
        deployed.cluster.fleetctl("apply", str(deployed.folder))
        deployed.expect("all answer with the second version", lambda: versions_of(deployed) == {"Version 2"})
    check_none_failed(requests)
    assert {answer.split(",")[0] for answer in requests.answers} == {"Version 1", "Version 2"}


def versions_of(deployed: Deployed) -> set[str]:
    with Requests(deployed.asked.address, PORT) as requests:
        deployed.expect("some are answered", lambda: requests.count >= 20)
    return {answer.split(",")[0] for answer in requests.answers}


def test_a_drain_and_a_move_fail_no_request(deployed: Deployed) -> None:
    with deployed.requests() as requests:
        source = deployed.operator.machine_of("web@1.service")
        deployed.cluster.fleetctl("drain", source.id)
        assert all(source.id not in each for each in deployed.announced())
        deployed.cluster.fleetctl("uncordon", source.id)
        deployed.cluster.fleetctl("move", "web@1.service", source.id)
        assert deployed.operator.machine_of("web@1.service") is source
    check_none_failed(requests)


def test_all_are_asked_where_all_are_on_one_machine(deployed: Deployed) -> None:
    only, *others = deployed.cluster.machines
    with deployed.requests() as requests:
        for each in others:
            deployed.cluster.fleetctl("drain", each.id)
        assert {deployed.operator.machine_of(unit) for unit in WEBS} == {only}
        deployed.expect("all answer", deployed.is_whole)
        for each in others:
            deployed.cluster.fleetctl("uncordon", each.id)
    check_none_failed(requests)


def test_a_restart_and_a_stop_fail_no_request(deployed: Deployed) -> None:
    with deployed.requests() as requests:
        deployed.cluster.fleetctl("restart", "web@1.service")
        deployed.cluster.fleetctl("stop", "web@2.service")
        deployed.cluster.fleetctl("start", "web@2.service")
        deployed.expect("all answer", deployed.is_whole)
    check_none_failed(requests)


def test_a_reboot_order_fails_no_request(deployed: Deployed) -> None:
    (rebooted,) = set(deployed.cluster.machines) - {deployed.asked, deployed.cluster.machines[0]}
    before = rebooted.boot_id
    if deployed.operator.machine_of("web@3.service") is not rebooted:
        deployed.cluster.fleetctl("move", "web@3.service", rebooted.id)
    with deployed.requests() as requests:
        deployed.cluster.fleetctl("reboot", rebooted.id, timeout_s=WITHIN_S)
        deployed.expect("all answer", deployed.is_whole)
    assert rebooted.boot_id != before
    check_none_failed(requests)


def test_a_container_that_is_killed_fails_no_more_than_what_it_was_answering(deployed: Deployed) -> None:
    machine = deployed.operator.machine_of("web@1.service")
    with deployed.requests() as requests:
        machine.run(["podman", "kill", "--signal=KILL", "systemd-web_1"])
        deployed.expect("all answer", deployed.is_whole)
    assert len(requests.failures) <= 2


def test_a_check_that_begins_to_fail_takes_its_instance_out_and_fails_no_request(deployed: Deployed) -> None:
    machine = deployed.operator.machine_of("web@2.service")
    with deployed.requests() as requests:
        machine.run(["podman", "exec", "systemd-web_2", "busybox", "mv", "/tmp/healthz", "/tmp/ill"])
        deployed.expect("it is not asked", lambda: answering(deployed) == {"1", "3"})
        said = deployed.cluster.fleetctl("services", "web").stdout
        assert "its check fails: status 404" in said
        machine.run(["podman", "exec", "systemd-web_2", "busybox", "mv", "/tmp/ill", "/tmp/healthz"])
        deployed.expect("all answer", deployed.is_whole)
    check_none_failed(requests)


def answering(deployed: Deployed) -> set[str]:
    """The instances that answer twenty requests."""
    with Requests(deployed.asked.address, PORT) as requests:
        deployed.expect("some are answered", lambda: requests.count >= 20)
    return {found for answer in requests.answers for found in re.findall("instance ([0-9])", answer)}


def test_a_backup_waits_for_the_lock_that_another_machine_holds(deployed: Deployed) -> None:
    first, second, _ = deployed.cluster.machines
    assert second.show("backup.timer", "ActiveState") == "active"
    holding = ["systemd-run", "--quiet", "--unit=holder", "fleetctl", "lock", "backup", "--", "sleep", "infinity"]
    first.run(holding)
    deployed.expect("the lock is held", lambda: "backup" in deployed.cluster.fleetctl("locks").stdout)
    second.run(["systemctl", "start", "--no-block", "backup.service"])
    deployed.expect("the backup waits", lambda: waiting(deployed) == ["backup", "1"])
    assert second.show("backup.service", "ActiveState") == "activating"
    first.run(["systemctl", "stop", "holder"])
    deployed.expect("the backup ends", lambda: second.show("backup.service", "ActiveState") == "inactive")
    assert second.show("backup.service", "Result") == "success"
    assert second.path("/var/lib/backup/etc.tar.gz").stat().st_size > 0


def waiting(deployed: Deployed) -> list[str]:
    """The lock of backups, and how many wait for it."""
    rows = [row.split() for row in deployed.cluster.fleetctl("locks", "--no-legend").stdout.splitlines()]
    return next(([row[0], row[-1]] for row in rows if row[0] == "backup"), [])


def test_there_is_one_scheduler_and_another_machine_takes_over(deployed: Deployed) -> None:
    runs = [machine for machine, _ in wait_for_one(deployed)]
    machine = next(each for each in deployed.cluster.machines if each.name in runs)
    assert "with token" in deployed.cluster.fleetctl("journal", "scheduler").stdout
    machine.run(["systemctl", "stop", "scheduler.service"])
    deployed.expect("another one runs it", lambda: machine.name not in [each for each, _ in wait_for_one(deployed)])


def wait_for_one(deployed: Deployed) -> list[tuple[str, str]]:
    """The machine on which the scheduler runs."""
    find = deployed.operator.processes
    deployed.expect("one runs", lambda: len(find(["scheduler.service"])) == 1)
    return list(find(["scheduler.service"]))
