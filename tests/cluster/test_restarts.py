"""restart and start --replace on real machines keep what depends on a unit, as systemctl does."""

import json
from collections.abc import Mapping

from contrib.testbed import Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

# Stores a file descriptor with systemd, and records how many it got at its start.
KEEPER = """
import array, os, socket, time
given = os.environ.get("LISTEN_FDS", "0")
with open("/run/keeper/starts", "a") as starts:
    starts.write(given + "\\n")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    if given == "0":
        passed = array.array("i", [os.memfd_create("kept")])
        notify.sendmsg([b"FDSTORE=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)], 0, os.environ["NOTIFY_SOCKET"])
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1e6)
"""
BASE = (
    "[Service]\nType=notify\nNotifyAccess=all\nFileDescriptorStoreMax=4\nRuntimeDirectory=keeper\n"
    "RuntimeDirectoryPreserve=restart\nExecStart=/usr/bin/python3 /var/lib/keeper.py\n"
)
TIED = {
    "app.service": "[Unit]\nRequires=base.service\nAfter=base.service\n" + SLEEPER,
    "bound.service": "[Unit]\nBindsTo=base.service\nAfter=base.service\n" + SLEEPER,
    "part.service": "[Unit]\nPartOf=base.service\n" + SLEEPER,
    "further.service": "[Unit]\nRequires=app.service\nAfter=app.service\n" + SLEEPER,
}


def starts(machine: Machine) -> list[str]:
    return machine.path("/run/keeper/starts").read_text().split()


def wait_for_others(operator: Operator, machine: Machine, before: Mapping[str, int]) -> dict[str, int]:
    """The main processes of these units, after each has a new one."""

    def all_have() -> bool:
        return all(pid not in (0, before[name]) for name, pid in machine.main_pids(list(before)).items())

    operator.cluster.wait_until("each has a new process", all_have)
    return machine.main_pids(list(before))


def test_dependent_units_survive_a_restart_and_a_replacement(operator: Operator) -> None:
    here = f"MachineID={operator.cluster.machines[0].id}"
    machine = operator.cluster.machines[0]
    machine.path("/var/lib/keeper.py").write_text(KEEPER)
    tied = {name: with_fleet(here, service=text) for name, text in TIED.items()}
    names = ["base.service", *tied]
    operator.start({"base.service": with_fleet(here, service=BASE), **tied})
    pids = [machine.main_pids(names)]
    assert all(pids[0].values())

    restarted = operator.cluster.fleetctl("restart", "base")
    assert restarted.stdout.startswith("Unit base.service launched on ")
    pids.append(wait_for_others(operator, machine, pids[0]))
    assert starts(machine) == ["0", "1"], "the directory is kept, and so is the file descriptor"

    operator.start({"base.service": with_fleet(here, service=BASE + "Environment=A=1\n")}, "--replace")
    pids.append(wait_for_others(operator, machine, pids[1]))
    assert starts(machine) == ["0", "1", "1"]

    changed = BASE + "Environment=A=1\nMemoryMax=300M\nExecStop=/bin/touch /run/stopped-as-new\n"
    operator.start({"base.service": with_fleet(here, service=changed)}, "--replace")
    assert machine.main_pids(names) == pids[2], "a daemon-reload was enough"
    assert machine.show("base.service", "MemoryMax") == str(300 * 1024 * 1024)
    assert machine.show("base.service", "NeedDaemonReload") == "no"
    operator.cluster.fleetctl("stop", "base")
    assert machine.path("/run/stopped-as-new").exists()


def test_a_fleetd_killed_in_a_restart_completes_it_exactly_once(operator: Operator) -> None:
    machine = operator.cluster.machines[0]
    here = f"MachineID={machine.id}"
    text = SLEEPER + "ExecStartPre=/bin/sh -c 'echo x >> /run/starts-%n'\nExecStop=/bin/sleep 2\n"
    operator.start({"slow.service": with_fleet(here, service=text)})
    before = machine.main_pid("slow.service")
    asking = {"names": ["slow.service"]}
    curl = ["curl", "-s", "--unix-socket", "/run/fleet.sock", "-H", "Content-Type: application/json"]
    other = operator.cluster.machines[1]
    answer = other.run([*curl, "-d", json.dumps(asking), "http://fleet/fleet/v2/restart"]).stdout
    assert json.loads(answer)["results"] == [{"name": "slow.service", "code": 204}]
    operator.cluster.wait_until("it stops", lambda: machine.show("slow.service", "ActiveState") == "deactivating")
    machine.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "fleet.service"])
    operator.cluster.wait_until("it runs again", lambda: machine.main_pid("slow.service") not in (0, before))

    def is_reported() -> bool:
        report = operator.reports(on=other)["slow.service"]
        return bool(report["allocations"][0]["generation"] == report["generation"])

    operator.cluster.wait_until("the restart is reported", is_reported)
    assert machine.path("/run/starts-slow.service").read_text().split() == ["x", "x"]
