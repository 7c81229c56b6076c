"""Images of containers, and files, on real machines: nothing is stopped before what follows it is there."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.container_registry import container
from tests.cluster.operator import Operator
from tests.cluster.test_containers import Fleet, names, podman

HELLO = "hello.service"
# Deletes what nothing has needed for a day, as fleetd does once an hour, a day later.
TIDY = """
import asyncio, pathlib, time
from fleetd.agent.fetcher import HostFetcher
fetcher = HostFetcher(pathlib.Path("/var/lib/fleet"), unix_now=lambda: time.time() + 90_000)
asyncio.run(fetcher.tidy(()))
"""


@pytest.fixture
def fleet(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Fleet:
    return Fleet(new_cluster(machines=2), tmp_path)


def test_a_unit_runs_on_until_its_new_machine_has_the_image(fleet: Fleet) -> None:
    """It stays while the registry is away, and leaves when it is back."""
    fleetctl, operator = fleet.cluster.fleetctl, fleet.operator
    image = fleet.registry.push("hello:1", "one")
    operator.start({"hello.container": container(image)})
    here = operator.machine_of(HELLO)
    there = operator.other_machine(here)
    pid = here.main_pid(HELLO)
    fleet.registry.stop()
    fleetctl("drain", "--no-block", here.id)
    fleet.expect("it says why it stays", lambda: "cannot get the image" in fleetctl("explain", HELLO).stdout)
    assert (here.main_pid(HELLO), podman(there, "images", "--quiet")) == (pid, [])
    fleet.registry.start()
    fleet.expect("it has moved", lambda: operator.placed().get(HELLO) == [there.id])
    fleet.expect("it runs there alone", lambda: (names(here), names(there)) == ([], ["systemd-hello"]))
    assert "fleet-pull-" in there.run(["journalctl", "--output=cat", "--no-pager"]).stdout

    fleetctl("uncordon", here.id)
    fleet.registry.stop()
    fleetctl("drain", there.id)  # what is there is asked for nowhere
    assert operator.placed()[HELLO] == [here.id]

    podman(here, "tag", podman(here, "images", "--quiet")[0], "localhost/own")
    for machine in (here, there):
        machine.run([sys.executable, "-c", TIDY])
    assert podman(there, "images", "--quiet") == []
    assert len(set(podman(here, "images", "--quiet"))) == 1  # it is used, and somebody has given it a name
    assert names(here) == ["systemd-hello"]


def test_an_image_that_cannot_be_had_stops_nothing(fleet: Fleet) -> None:
    operator = fleet.operator
    image = fleet.registry.push("hello:1", "one")
    operator.start({"hello.container": container(image)})
    here = operator.machine_of(HELLO)
    pid = here.main_pid(HELLO)
    lost = f"{fleet.registry.location}/hello@sha256:{'0' * 64}"
    changed = operator.start({"hello.container": container(lost)}, "--replace", check=False)
    assert changed.returncode == 1
    assert "cannot get the image" in changed.stderr
    assert "manifest unknown" in changed.stderr
    assert here.main_pid(HELLO) == pid

    operator.start({"lost.container": container(lost)}, "--no-block")
    fleet.expect("each machine has tried it", lambda: "(2 machines)" in why_unplaced(fleet, "lost.service"))
    assert "no machine fits: machine cannot get the image" in why_unplaced(fleet, "lost.service")


def why_unplaced(fleet: Fleet, unit: str) -> str:
    """What status says of a unit that is on no machine."""
    answer = fleet.cluster.fleetctl("status", unit, check=False)
    return answer.stdout + answer.stderr


AUTH = "/etc/fleet/auth.json"


def test_each_machine_says_why_it_cannot_have_an_image(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """One has no login, then no room; and of both the architecture is another one. The unit goes to the other."""
    cluster = new_cluster([{"registry_auth_file": AUTH}, {}])
    fleet = Fleet(cluster, tmp_path)
    able, unable = cluster.machines
    foreign = fleet.registry.push("foreign:1", "one", "s390x")
    image = fleet.registry.push("hello:1", "one")
    large = fleet.registry.push("large:1", "one")
    fleet.registry.require_login()
    refused = fleet.operator.start({"hello.container": container(image)}, check=False)
    assert refused.returncode == 1  # its tag cannot be resolved
    fleet.registry.log_in(able, AUTH)

    cluster.fleetctl("cordon", able.id)
    fleet.operator.start({"hello.container": container(image)}, "--no-block")
    fleet.expect("it wants a login", lambda: "registry_auth_file= in fleet.conf" in why_unplaced(fleet, HELLO))
    cluster.fleetctl("uncordon", able.id)
    fleet.expect("it runs where there is one", lambda: fleet.operator.placed().get(HELLO) == [able.id])

    fleet.operator.start({"foreign.container": container(foreign)}, "--no-block")
    fleet.expect("it is tried", lambda: "for the architecture s390x" in why_unplaced(fleet, "foreign.service"))

    unable.run(["sh", "-c", f"echo registry_auth_file={AUTH} >> /etc/fleet/fleet.conf; systemctl restart fleet"])
    fleet.registry.log_in(unable, AUTH)
    unable.run(["mount", "-o", "remount,size=700k", "/var/lib/containers"])
    cluster.fleetctl("cordon", able.id)
    fleet.operator.start({"large.container": container(large)}, "--no-block")
    fleet.expect("there is no room", lambda: "make room on the machine" in why_unplaced(fleet, "large.service"))
    unable.run(["mount", "-o", "remount,size=1g", "/var/lib/containers"])
    fleet.expect("there is now", lambda: fleet.operator.placed().get("large.service") == [unable.id])


def test_a_restart_of_fleetd_ends_no_download(fleet: Fleet) -> None:
    image = fleet.registry.push("hello:1", "one")
    here = fleet.cluster.machines[1]
    fleet.cluster.fleetctl("cordon", fleet.cluster.machines[0].id)
    [path] = fleet.operator.write({"hello.container": container(image)})
    fleet.cluster.fleetctl("submit", path)
    fleet.registry.freeze()
    fleet.cluster.fleetctl("start", "--no-block", "hello")

    def pulls() -> list[str]:
        listed = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "fleet-pull-*"]
        units = [line.split()[0] for line in here.run(listed).stdout.splitlines()]
        return [here.show(unit, "InvocationID") for unit in units]

    fleet.expect("it is being pulled", lambda: len(pulls()) == 1)
    before = pulls()
    fleet.expect("status says so", lambda: "is being downloaded" in fleet.cluster.fleetctl("explain", HELLO).stdout)
    here.run(["systemctl", "restart", "fleet.service"])
    fleet.cluster.wait_ready()
    fleet.expect("it goes on", lambda: "is being downloaded" in fleet.cluster.fleetctl("explain", HELLO).stdout)
    assert pulls() == before
    fleet.cluster.fleetctl("unload", "hello")
    fleet.expect("nobody waits for it any more", lambda: pulls() == [])
    fleet.registry.freeze(thaw=True)
    fleet.cluster.fleetctl("start", "hello")
    assert names(here) == ["systemd-hello"]


def serve(server: Machine) -> str:
    """Serve what is in /run/www of the machine. Returns the URL of that."""
    httpd = ["busybox", "httpd", "-f", "-p", "8001", "-h", "/run/www"]
    server.run(["mkdir", "/run/www"])
    server.run(["systemd-run", "--quiet", "--collect", "--unit=httpd", *httpd])
    return f"http://{server.address}:8001"


def test_a_unit_has_its_file_before_it_starts(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=2)
    operator = Operator(cluster, tmp_path)
    server = cluster.machines[0]
    url = serve(server)
    two = "two-$$-${HOME}-$HOME"  # which systemd would take for variables
    server.run(["sh", "-c", f"echo one > /run/www/one; echo two > '/run/www/{two}'"])

    def unit(name: str, content: str) -> dict[str, str]:
        digest = hashlib.sha256(content.encode()).hexdigest()
        reads = "ExecStartPre=/bin/sh -c 'cat /var/lib/fleet/fetched/%n/text > /run/read-%n'"
        service = f"[Service]\n{reads}\nExecStart=/bin/sleep infinity\n"
        return {"reader.service": f"{service}[X-Fleet]\nFetch={url}/{name} sha256:{digest} text\n"}

    def read_on(machine: Machine) -> str:
        return machine.run(["cat", "/run/read-reader.service"]).stdout

    operator.start(unit("one", "one\n"))
    here = operator.machine_of("reader.service")
    there = operator.other_machine(here)
    assert read_on(here) == "one\n"
    pid = here.main_pid("reader.service")
    bad = operator.start(unit(two, "three\n"), "--replace", check=False)
    assert "another hash" in bad.stderr
    assert (here.main_pid("reader.service"), read_on(here)) == (pid, "one\n")
    operator.start(unit(two, "two\n"), "--replace")
    assert read_on(here) == "two\n"
    cluster.fleetctl("drain", here.id)
    assert operator.placed()["reader.service"] == [there.id]
    assert read_on(there) == "two\n"
    found = there.run(["find", "/var/lib/fleet/fetched", "-type", "f", "-perm", "644", "-user", "root"]).stdout.split()
    assert "/var/lib/fleet/fetched/reader.service/text" in found
    cluster.fleetctl("destroy", "reader.service")
    assert there.run(["ls", "/var/lib/fleet/fetched"]).stdout == ""
    assert there.run(["ls", "-A", "/var/lib/fleet/fetched"]).stdout == ".sha256\n"


# An image with busybox and a text, whose file system cannot be written. systemd mounts something on most directories.
IMAGE = """
set -e
mkdir -p /run/root /run/www
cd /run/root
mkdir -p bin dev etc proc run sys tmp usr/lib var/tmp
cp /bin/busybox bin
echo ID=app > usr/lib/os-release
echo in the image > etc/greeting
mkfs.ext4 -q -O ^has_journal -d /run/root /run/www/app.raw 8M
tune2fs -O read-only /run/www/app.raw
"""
# Devices are not namespaced: the machines have those of this host, once there are nodes for them.
LOOP_DEVICES = """
set -e
mknod /dev/loop-control c 10 237
for number in $(seq 0 63); do mknod /dev/loop$number b 7 $number; done
"""
APP = """
[Service]
RootImage=/var/lib/fleet/fetched/%n/app.raw
ExecStart=/bin/busybox sh -c 'cat /etc/greeting; exec /bin/busybox sleep infinity'
"""


def test_a_service_has_a_fetched_image_as_its_root(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=2)
    operator = Operator(cluster, tmp_path)
    url = serve(cluster.machines[0])
    cluster.machines[0].run(["sh", "-c", IMAGE])
    for machine in cluster.machines:
        machine.run(["sh", "-c", LOOP_DEVICES])
    digest = cluster.machines[0].run(["sha256sum", "/run/www/app.raw"]).stdout.split()[0]
    operator.start({"app.service": f"{APP}[X-Fleet]\nFetch={url}/app.raw sha256:{digest} app.raw\n"})
    here = operator.machine_of("app.service")
    assert "in the image" in here.journal("app.service")
    cluster.fleetctl("restart", "app.service")
    fetched = here.run(["sha256sum", "/var/lib/fleet/fetched/app.service/app.raw"]).stdout.split()[0]
    assert fetched == digest
    cluster.fleetctl("drain", here.id)
    there = operator.other_machine(here)
    assert operator.placed()["app.service"] == [there.id]
    assert "in the image" in there.journal("app.service")
