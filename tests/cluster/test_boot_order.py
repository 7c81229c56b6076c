"""After a power cut, a machine's units start in the order in which systemd starts them in one transaction."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from tests.cluster.operator import Operator

COUNT = 200
TIMES = ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")


def unit(after: list[str], before: list[str]) -> str:
    order = f"[Unit]\nAfter={' '.join(after)}\nBefore={' '.join(before)}\n"
    return order + "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"


def draw(rng: random.Random) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Units with random dependencies, and the pairs (first, second) of which the first starts earlier."""
    names = [f"u{number:03}.service" for number in range(COUNT)]
    rng.shuffle(names)
    after: dict[str, list[str]] = {name: [] for name in names}
    before: dict[str, list[str]] = {name: [] for name in names}
    pairs = []
    for place, name in enumerate(names[1:], start=1):
        for first in rng.sample(names[:place], min(place, rng.randrange(3))):
            pairs.append((first, name))
            if rng.random() < 0.7:
                after[name].append(first)
            else:
                before[first].append(name)
    return {name: unit(after[name], before[name]) for name in names}, pairs


@pytest.mark.covers("P.7")
def test_two_hundred_units_start_in_dependency_order_after_a_power_cut(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    units, pairs = draw(random.Random(997))
    others = {
        "web.socket": "[Socket]\nListenStream=/run/web.sock\nService=b-web.service\n",
        "b-web.service": "[Service]\nExecStart=/bin/sleep infinity\n",
        "a-app.service": "[Unit]\nAfter=z-db.service\n[Service]\nExecStart=/bin/sleep infinity\n",
        "z-db.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 1\n",
    }
    operator = Operator(new_cluster(machines=1), tmp_path)
    (machine,) = operator.cluster.machines
    operator.start(units | others)
    for _ in range(2):
        machine.reboot()
        operator.cluster.wait_ready()
        operator.wait_until_placed(*units, *others)
        shown = machine.run(["systemctl", "show", f"--property={','.join(TIMES)}", "--", *units, *others]).stdout
        times = {
            name: {line.split("=")[0]: int(line.split("=")[1]) for line in block.splitlines()}
            for name, block in zip((*units, *others), shown.strip().split("\n\n"), strict=True)
        }
        late = [
            (first, then)
            for first, then in (*pairs, ("z-db.service", "a-app.service"), ("web.socket", "b-web.service"))
            if times[first][TIMES[1]] > times[then][TIMES[0]]
        ]
        assert late == []
