"""A plan equals fate on real machines: what it says of an apply, a drain and a loss is what happens then."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import Operator, with_fleet

TTL_S = 10  # long enough for machines that are busy to keep their leases
PATIENCE_S = 300.0
WEB = tuple(f"web@{number}.service" for number in range(1, 5))

Places = dict[str, list[str]]  # unit → sorted ids of the machines where it is active


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster of three machines with a short time to live."""
    return Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


def foresee(operator: Operator, *words: str, on: Machine | None = None) -> Places:
    """Where the plan of this has the units, and that it moves nothing."""
    before = operator.placed(on)
    planned = operator.cluster.fleetctl("plan", "--output=json", *words, on=on, timeout_s=PATIENCE_S).stdout
    assert operator.placed(on) == before
    found = {unit: set(machines) for unit, machines in before.items()}
    for step in json.loads(planned):
        if step["action"] in ("place", "move", "stop", "nowhere"):
            found.setdefault(step["unit"], set()).discard(step["origin"])
            found[step["unit"]] |= {step["machine"]} - {None}
    return {unit: sorted(machines) for unit, machines in found.items() if machines}


def wait_for(operator: Operator, foreseen: Places, on: Machine | None = None) -> None:
    """Wait until each unit is where it was foreseen, and nowhere else."""
    operator.cluster.wait_until("all is as planned", lambda: operator.placed(on) == foreseen, PATIENCE_S)


@pytest.mark.covers("C.10")
def test_what_is_planned_of_an_apply_a_drain_and_a_loss_is_what_happens(operator: Operator) -> None:
    first, second, third = operator.cluster.machines
    folder = operator.folder / "set"
    folder.mkdir()
    for name, text in {
        **dict.fromkeys(WEB, with_fleet("UpdateSettleSec=1s")),
        "beside.service": with_fleet("MachineOf=web@2.service"),
        "everywhere.service": with_fleet("Global=true"),
        "pinned.service": with_fleet(f"MachineID={first.id}"),
    }.items():
        (folder / name).write_text(text)
    foreseen = foresee(operator, "apply", str(folder), on=second)
    assert foreseen.keys() == {*WEB, "beside.service", "everywhere.service", "pinned.service"}
    line = operator.cluster.fleetctl("plan", "apply", str(folder), on=second).stdout.splitlines()[0]
    revision = line.removeprefix("at revision ").partition(",")[0]
    operator.cluster.fleetctl("apply", f"--if={revision}", str(folder), on=third, timeout_s=PATIENCE_S)
    wait_for(operator, foreseen, second)

    foreseen = foresee(operator, "drain", first.id, on=second)
    assert foreseen["pinned.service"] == [first.id]
    operator.cluster.fleetctl("drain", first.id, on=third, timeout_s=PATIENCE_S, check=False)
    wait_for(operator, foreseen, second)
    operator.cluster.fleetctl("uncordon", first.id, on=third)

    foreseen = foresee(operator, "lose", third.id, on=second)
    assert third.id not in {machine for machines in foreseen.values() for machine in machines}
    third.power_cut()
    wait_for(operator, foreseen, second)
