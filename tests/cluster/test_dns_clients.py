"""The recipes of docs/services.md, each with the real program on a machine of a cluster."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT
from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.registry.records import encode
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from tests.requirements import require

RESOLVED = CHECKOUT / "build/resolved"
DOCS = CHECKOUT / "docs/services.md"
TIMEOUT_S = 120.0


def recipe(beginning: str) -> str:
    """The block of the page that begins so, without that line."""
    blocks = DOCS.read_text().split("```")[1::2]
    found = [block.split("\n", 1)[1].split("\n", 1) for block in blocks]
    (text,) = [rest for first, rest in found if first.startswith(beginning)]
    return text


def install_resolved(machine: Machine) -> None:
    """systemd-resolved of Debian, on this machine alone, as the resolver of its programs."""
    require([] if RESOLVED.exists() else ["systemd-resolved could not be fetched"], "resolves names")
    for name in (
        "lib/systemd/systemd-resolved",
        "lib/systemd/system/systemd-resolved.service",
        "usr/bin/resolvectl",
        "usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf",
        "usr/share/dbus-1/system-services/org.freedesktop.resolve1.service",
        "usr/lib/sysusers.d/systemd-resolve.conf",
    ):
        target = machine.path(f"/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RESOLVED / name, target)
    machine.path("/etc/resolv.conf").unlink(missing_ok=True)
    machine.path("/etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    write(machine, "/etc/systemd/resolved.conf.d/fleet.conf", recipe("# /etc/systemd/resolved.conf.d/fleet.conf"))
    machine.run(["systemd-sysusers"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reload", "dbus"])
    machine.run(["systemctl", "start", "systemd-resolved"])


def write(machine: Machine, path: str, text: str) -> None:
    target: Path = machine.path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(machines=2, config={"dns_listen": "127.0.0.1:8600"})


def test_programs_find_names_by_systemd_resolved(cluster: Cluster) -> None:
    first, second = cluster.machines
    install_resolved(first)
    name = f"{second.id[:8]}.machine.fleet.internal"

    def addresses() -> list[str]:
        return first.run(["getent", "ahostsv4", name], check=False).stdout.split()[:1]

    cluster.wait_until("getent finds the machine", lambda: addresses() == [second.address], TIMEOUT_S)
    assert second.address in first.run(["resolvectl", "query", name]).stdout
    missing = first.run(["resolvectl", "query", "nothing.fleet.internal"], check=False)
    assert "not found" in missing.stderr


def serve(machine: Machine, port: int) -> None:
    """A web server on a machine that says its name."""
    write(machine, f"/srv/{port}/index.html", machine.name)
    command = ("python3", "-m", "http.server", str(port), "--directory", f"/srv/{port}")
    machine.run(["systemd-run", "--quiet", f"--unit=serve-{port}", *command])


def announce(cluster: Cluster, machine: Machine, port: int) -> None:
    """Write what the agent of that machine would."""
    record = ServiceRecord(machine.address, (ServicePort(port),))
    cluster.etcd.etcdctl("put", service_key(machine), encode(record).decode())


def withdraw(cluster: Cluster, machine: Machine) -> None:
    cluster.etcd.etcdctl("del", service_key(machine))


def service_key(machine: Machine) -> str:
    return f"/fleet/services/web/{machine.id}/web.service"


def get(machine: Machine, url: str) -> str:
    return machine.run(["curl", "--silent", "--fail", "--max-time", "5", url], check=False).stdout


def wait_until_both_are_asked(cluster: Cluster, url: str) -> None:
    """Wait until answers of both machines come from the first one's proxy."""
    first, second = cluster.machines
    answers: set[str] = set()

    def sees_both() -> bool:
        answers.add(get(first, url))
        return {first.name, second.name} <= answers

    cluster.wait_until("both are asked", sees_both, TIMEOUT_S)


def wait_until_the_first_is_asked_alone(cluster: Cluster, url: str) -> None:
    """Wait until eight answers in a row are the first machine's."""
    first, _ = cluster.machines
    cluster.wait_until(
        "the one that is left is asked alone",
        lambda: [get(first, url) for _ in range(8)] == [first.name] * 8,
        TIMEOUT_S,
    )


def test_haproxy_follows_what_is_announced(cluster: Cluster) -> None:
    require([] if shutil.which("haproxy") else ["haproxy is not installed"], "balances")
    first, second = cluster.machines
    write(first, "/etc/haproxy/fleet.cfg", recipe("# /etc/haproxy/haproxy.cfg"))
    first.run(["systemd-run", "--quiet", "--unit=balance", "haproxy", "-Ws", "-f", "/etc/haproxy/fleet.cfg"])
    for machine in cluster.machines:
        serve(machine, 8001)
        announce(cluster, machine, 8001)
    wait_until_both_are_asked(cluster, "http://127.0.0.1:8080/")
    withdraw(cluster, second)
    wait_until_the_first_is_asked_alone(cluster, "http://127.0.0.1:8080/")
    announce(cluster, second, 8001)
    wait_until_both_are_asked(cluster, "http://127.0.0.1:8080/")
    withdraw(cluster, first)
    withdraw(cluster, second)
    cluster.wait_until("none is asked", lambda: get(first, "http://127.0.0.1:8080/") == "", TIMEOUT_S)


def test_nginx_follows_what_is_announced(cluster: Cluster) -> None:
    require([] if shutil.which("nginx") else ["nginx is not installed"], "proxies")
    first, second = cluster.machines
    write(first, "/etc/nginx/web.conf.j2", recipe("{# /etc/nginx/web.conf.j2"))
    write(first, "/etc/systemd/system/nginx-names.service", recipe("# /etc/systemd/system/nginx-names.service"))
    first.run(["systemctl", "daemon-reload"])
    first.run(["systemctl", "start", "nginx"])
    first.run(["systemctl", "start", "nginx-names"])
    cluster.wait_until("a file without any", lambda: "down;" in read(first, "/etc/nginx/conf.d/web.conf"), TIMEOUT_S)
    for machine in cluster.machines:
        serve(machine, 8001)
        announce(cluster, machine, 8001)
    wait_until_both_are_asked(cluster, "http://127.0.0.1:8081/")
    withdraw(cluster, second)
    cluster.wait_until(
        "one is left", lambda: second.address not in read(first, "/etc/nginx/conf.d/web.conf"), TIMEOUT_S
    )
    wait_until_the_first_is_asked_alone(cluster, "http://127.0.0.1:8081/")


def read(machine: Machine, path: str) -> str:
    return machine.run(["cat", path], check=False).stdout


def test_prometheus_scrapes_what_is_announced(new_cluster: Callable[..., Cluster]) -> None:
    require([] if shutil.which("prometheus") else ["prometheus is not installed"], "scrapes")
    cluster = new_cluster(machines=[{"listen": "https://:7443"}])
    (machine,) = cluster.machines
    TrustFiles(machine.path("/var/lib/fleet/trust")).write_key(x509.make_authority(1, time.time()))
    machine.run(["systemctl", "restart", "fleet.service"])
    login = ["login", "--for=prometheus", "--role=view", f"--out={machine.path('/etc/prometheus/fleet.pem')}"]
    machine.path("/etc/prometheus").mkdir(exist_ok=True)
    cluster.wait_until(
        "it makes a certificate", lambda: cluster.fleetctl(*login, on=machine, check=False).returncode == 0, TIMEOUT_S
    )
    config = recipe("# /etc/prometheus/prometheus.yml").replace("SERVER", machine.address)
    write(machine, "/etc/prometheus/prometheus.yml", config)
    command = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/prometheus")
    machine.run(["systemd-run", "--quiet", "--unit=scrape", "prometheus", *command])
    announce(cluster, machine, 8001)

    def targets() -> list[tuple[str, str]]:
        found = json.loads(get(machine, "http://127.0.0.1:9090/api/v1/targets?state=active") or '{"data": {}}')
        active = found["data"].get("activeTargets", ())
        return [(each["labels"]["instance"], each["labels"].get("unit", "")) for each in active]

    cluster.wait_until(
        "Prometheus scrapes it", lambda: targets() == [(f"{machine.address}:8001", "web.service")], TIMEOUT_S
    )
    withdraw(cluster, machine)
    cluster.wait_until("Prometheus leaves it", lambda: targets() == [], TIMEOUT_S)
