"""FleetLock on real machines: clients like Zincati reboot all machines, and no unit of a group is missed."""

import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, Operator, recorded_times, with_fleet

PORT = 2390
UNITS = tuple(f"out@{number}.service" for number in (1, 2, 3))
TEXT = with_fleet("MaxUnavailable=1", "UpdateSettleSec=2s", service=RECORDER)
ZINCATI = "de35106b6ec24688b63afddaa156679b"  # what it makes its id of
PAUSE_S = 0.5
PATIENCE_S = 300.0


class Client(msgspec.Struct):
    """What Zincati does on a machine: it asks one server, reboots when it may, and says when it is up again."""

    machine: Machine
    url: str

    def ask(self, path: str) -> str:
        """One request; returns the body of the answer and its status."""
        made = self.machine.run(["systemd-id128", "machine-id", f"--app-specific={ZINCATI}"]).stdout.strip()
        body = json.dumps({"client_params": {"id": made, "group": "default"}})
        curl = ("curl", "-s", "-m", "5", "-w", "%{http_code}", "-H", "fleet-lock-protocol: true", "-d", body)
        return self.machine.run([*curl, f"{self.url}{path}"], check=False).stdout

    def ask_until_granted(self, path: str) -> tuple[list[str], float]:
        """Ask until the answer is 200; returns all answers, and when the last question was asked."""
        answers, end = [], time.monotonic() + PATIENCE_S
        while True:
            asked_s = time.time()
            answers.append(self.ask(path))
            if answers[-1].endswith("200"):
                return answers, asked_s
            assert time.monotonic() < end, answers[-1]
            time.sleep(PAUSE_S)

    def update(self) -> tuple[float, float, list[str]]:
        """Reboot the machine. Returns from when to when it had the lock for certain, and the answers before that."""
        answers, _ = self.ask_until_granted("/v1/pre-reboot")
        began, boot_id = time.time(), self.machine.boot_id
        self.machine.run(["systemctl", "reboot"])
        self.machine.wait_until_rebooted(boot_id)
        _, ended = self.ask_until_granted("/v1/steady-state")
        return began, ended, answers


@pytest.mark.covers("C.12")
def test_clients_of_one_url_reboot_all_machines_one_after_the_other(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(config={"fleetlock_listen": f":{PORT}"})
    operator = Operator(cluster, tmp_path)
    operator.start({**dict.fromkeys(UNITS, TEXT), "log.service": with_fleet("Global=true")})
    operator.wait_until_placed(*UNITS)
    cluster.machines[0].run(["systemctl", "reload", "fleet"])
    clients = [Client(machine, f"http://{cluster.machines[0].address}:{PORT}") for machine in cluster.machines]
    assert {client.ask_until_granted("/v1/steady-state")[0][-1] for client in clients} == {"{}200"}
    with ThreadPoolExecutor(len(clients)) as pool:
        done = list(pool.map(Client.update, clients))

    held = sorted((began, ended) for began, ended, _ in done)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(held)), "two had the lock"
    said = "".join(answer for _, _, answers in done for answer in answers)
    assert '"kind":"queued"' in said
    assert '"kind":"draining"' in said
    operator.wait_until_placed(*UNITS)
    found = moves(operator)
    assert len(found) >= len(UNITS)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(found)), "two instances were down"
    assert operator.placed()["log.service"] == sorted(machine.id for machine in cluster.machines)
    assert json.loads(cluster.fleetctl("reboot", "--output=json").stdout) == []
    assert cluster.fleetctl("list-machines").stderr == ""


def moves(operator: Operator) -> list[tuple[float, float]]:
    """From when to when instances did not run, in order, wherever they were. Each has to run now."""
    found = []
    for unit in UNITS:
        began, ended = (
            sorted(moment for machine in operator.cluster.machines for moment in recorded_times(machine, what, unit))
            for what in ("began", "ended")
        )
        found += list(zip(ended, began[1:], strict=True))
    return sorted(found)
