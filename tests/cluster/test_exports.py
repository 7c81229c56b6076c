"""export, import and simulate, on real machines."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster
from tests.cluster.operator import RECORDER, SLEEPER, Operator, recorded_times, with_fleet
from tests.cluster.remote_operator import RemoteOperator

UNITS = {f"u{number}.service": RECORDER for number in range(6)}
LATE = {"late.service": with_fleet("FailoverDelay=20s", service=RECORDER)}
EVERYWHERE = {"every.service": with_fleet("Global=true")}


def test_a_cluster_is_exported_and_imported_into_another_one_over_ssh(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    one, other = new_cluster(machines=1), new_cluster(machines=3, ssh=True)
    folder = tmp_path / "prod"
    (folder / "web@2.service.d").mkdir(parents=True)
    (folder / "web@.service").write_text(with_fleet("Instances=2"))
    (folder / "web@2.service.d" / "limit.conf").write_text("[Service]\nMemoryMax=1G\n")
    (tmp_path / "db.service").write_text(SLEEPER)
    one.fleetctl("apply", str(folder))
    one.fleetctl("start", str(tmp_path / "db.service"))
    one.fleetctl("settings", "set", "failover_delay=45s")
    file = tmp_path / "one.jsonl"
    file.write_text(one.fleetctl("export").stdout)

    remote = RemoteOperator(other, tmp_path)
    remote.install_key()
    remote.write_known_hosts()
    remote.reach_by_tunnel()
    planned = remote.fleetctl("import", str(file))
    assert (planned.returncode, planned.stderr) == (0, "")
    assert planned.stdout.splitlines()[-1] == "5 new (a plan: nothing is done without --yes)"
    assert other.fleetctl("list-unit-files", "--no-legend").stdout == ""
    done = remote.fleetctl("import", "--yes", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    running = ["db.service", "web@1.service", "web@2.service"]
    Operator(other, tmp_path).wait_until_placed(*running)
    assert "MemoryMax=1G" in other.fleetctl("cat", "web@2.service").stdout
    assert remote.fleetctl("import", "--yes", str(file)).stdout == "nothing to do (5 unchanged)\n"

    def wanted(text: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in text.splitlines()[1:]]
        return [{**line, "on": None} for line in lines if line["kind"] != "machine"]

    assert wanted(remote.fleetctl("export").stdout) == wanted(file.read_text())


def test_a_simulated_loss_ends_as_the_real_one(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=3)
    operator = Operator(cluster, tmp_path)
    everything = UNITS | LATE | EVERYWHERE
    operator.start(everything)
    file = tmp_path / "cluster.jsonl"
    file.write_text(cluster.fleetctl("export").stdout)
    lost = operator.machine_of("late.service")
    played = cluster.fleetctl("simulate", f"--lose={lost.id}", "--output=json", str(file))
    rows = [row for row in json.loads(played.stdout) if row["from"] is not None]
    assert {row["step"] for row in rows} == {"lose"}
    expected = {row["unit"]: row for row in rows}
    assert "late.service" in expected
    assert "every.service" not in expected
    moved = [unit for unit in operator.processes(everything) if unit[0] == lost.name and unit[1] != "every.service"]
    assert expected.keys() == {unit for _, unit in moved}

    cut_s = time.time()
    lost.power_cut()
    names = list(expected)
    cluster.wait_until("all of them run elsewhere", lambda: all(operator.machines_of(names).values()))
    found = operator.machines_of(names)
    assert found == {unit: [cluster.machine(row["machine"]).name] for unit, row in expected.items()}
    for unit, row in expected.items():
        began_s = recorded_times(cluster.machine(row["machine"]), "began", unit)[-1]
        assert row["from"] / 2 < began_s - cut_s < row["from"] + 60, unit  # a busy machine is late
