"""Names on real machines: fleet-dns answers from what fleetd writes, also while fleetd and the store are away."""

from collections.abc import Callable

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import write_config

PORT = 8600
DIG = ("dig", "@127.0.0.1", "-p", str(PORT), "+short", "+tries=1", "+time=30")
TIMEOUT_S = 120.0


def ask(machine: Machine, name: str, *options: str) -> list[str]:
    """What fleet-dns of a machine answers, in order; [] also if it does not answer."""
    found = machine.run([*DIG, f"{name}.fleet.internal", *options], check=False)
    return sorted(found.stdout.split("\n")[:-1]) if found.returncode == 0 else []


def test_machines_have_names_while_fleetd_and_the_store_are_away(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(machines=2, config={"dns_listen": f"127.0.0.1:{PORT}"})
    for asked in cluster.machines:
        for named in cluster.machines:
            for name in (named.id, named.id[:8]):
                cluster.wait_until(
                    f"{asked.name} knows {named.name}",
                    lambda asked=asked, name=name, named=named: ask(asked, f"{name}.machine") == [named.address],
                    TIMEOUT_S,
                )
    first, second = cluster.machines
    first.run(["systemctl", "kill", "--signal=KILL", "fleet.service"])
    first.run(["systemctl", "stop", "fleet.service", "fleet.socket"])
    second.cut_from_etcd()
    for machine in cluster.machines:
        assert ask(machine, f"{second.id}.machine") == [second.address]
        assert ask(machine, f"{second.id}.machine", "+tcp") == [second.address]
        assert machine.show("fleet-dns.service", "NRestarts") == "0"
    second.reach_etcd()
    status = first.run(["cat", f"/proc/{first.main_pid('fleet-dns.service')}/status"]).stdout
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t0" not in status
    first.run(["systemctl", "start", "fleet.service"])


def test_names_begin_and_end_with_the_option(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(machines=1)
    (machine,) = cluster.machines
    assert machine.show("fleet-dns.service", "ActiveState") == "inactive"
    assert machine.show("fleet-dns.path", "ActiveState") == "active"
    config = machine.run(["cat", "/etc/fleet/fleet.conf"]).stdout
    options = {
        name: value.strip('"') for name, _, value in (line.partition("=") for line in config.split("\n")) if value
    }
    write_config(machine.root, {**options, "dns_listen": f"127.0.0.1:{PORT}"})
    machine.run(["systemctl", "reload", "fleet"])
    name = f"{machine.id}.machine"
    cluster.wait_until("names are answered", lambda: ask(machine, name) == [machine.address], TIMEOUT_S)
    write_config(machine.root, {**options, "dns_listen": "127.0.0.1:8601"})
    machine.run(["systemctl", "reload", "fleet"])
    cluster.wait_until("it listens elsewhere", lambda: ask(machine, name, "-p", "8601") == [machine.address], TIMEOUT_S)
    write_config(machine.root, options)
    machine.run(["systemctl", "reload", "fleet"])
    cluster.wait_until(
        "it has ended", lambda: machine.show("fleet-dns.service", "ActiveState") == "inactive", TIMEOUT_S
    )
    assert machine.show("fleet-dns.service", "Result") == "success"
