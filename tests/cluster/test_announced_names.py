"""What units announce, in DNS on real machines: by name at once, and gone at each resolver when a check fails."""

from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster
from tests.cluster.operator import Operator
from tests.cluster.test_dns import PORT, TIMEOUT_S, ask

UNIT = """\
[Service]
ExecStart=/usr/bin/python3 -m http.server 8001 --directory /srv

[X-Fleet]
Global=true
Announce=web 8001
Check=http:8001/healthz
CheckInterval=1s
CheckFailures=2
"""


def test_a_service_is_found_where_its_checks_pass(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=2, config={"dns_listen": f"127.0.0.1:{PORT}"})
    first, second = cluster.machines
    for machine in cluster.machines:
        machine.path("/srv").mkdir(exist_ok=True)
        machine.path("/srv/healthz").write_text("well\n")
    Operator(cluster, tmp_path).start({"web.service": UNIT})
    both = sorted(machine.address for machine in cluster.machines)
    for machine in cluster.machines:
        cluster.wait_until("both are found", lambda machine=machine: ask(machine, "web") == both, TIMEOUT_S)
        own = f"1 1 8001 {machine.id[:8]}.machine.fleet.internal."
        cluster.wait_until(
            "its own is the nearest",
            lambda machine=machine, own=own: ask(machine, "_web._tcp", "SRV")[:1] == [own],
            TIMEOUT_S,
        )
    second.path("/srv/healthz").unlink()
    cluster.wait_until("the other machine has forgotten it", lambda: ask(first, "web") == [first.address], TIMEOUT_S)
    second.path("/srv/healthz").write_text("well\n")
    cluster.wait_until("it is back", lambda: ask(first, "web") == both, TIMEOUT_S)
    cluster.fleetctl("destroy", "web.service")
    cluster.wait_until("there is none", lambda: ask(first, "web") == [] and ask(second, "web") == [], TIMEOUT_S)
