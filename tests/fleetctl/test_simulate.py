"""simulate: a cluster played in virtual time."""

import json
from pathlib import Path

import pytest

from tests.fleetctl.conftest import Fleetctl

SERVICE = "[Service]\nExecStart=/bin/daemon\n"
M1, M2, M3 = ("1" * 32, "2" * 32, "3" * 32)


def machine(id_: str, **metadata: str) -> str:
    return json.dumps({"kind": "machine", "id": id_, "address": f"10.0.0.{id_[0]}", "metadata": metadata})


def unit(name: str, *on: str, options: str = "", text: str = SERVICE) -> str:
    text = f"{text}[X-Fleet]\n{options}\n" if options else text
    return json.dumps({"kind": "unit", "name": name, "target": "launched", "text": text, "on": on})


def write(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "cluster.jsonl").write_text("\n".join(['{"kind":"fleet","format":1}', *lines]))
    return "cluster.jsonl"


def play(fleetctl: Fleetctl, *arguments: str, status: int = 0) -> dict[str, list[tuple[str, str, float | None, float]]]:
    """The rows of each step: unit, first digit of the machine, from, away."""
    result = fleetctl("simulate", "--output=json", *arguments)
    assert result.status == status, result.stderr
    steps: dict[str, list[tuple[str, str, float | None, float]]] = {}
    for row in json.loads(result.stdout):
        steps.setdefault(row["step"], []).append((row["unit"], row["machine"][0], row["from"], row["away"]))
    return steps


def test_units_of_a_lost_machine_start_elsewhere_after_the_time_that_a_cluster_takes(
    bare_fleetctl: Fleetctl, tmp_path: Path
) -> None:
    lines = [unit("a.service", M1), unit("b.service", M2), unit("late.service", M1, options="FailoverDelay=5min")]
    file = write(tmp_path, machine(M1), machine(M2), machine(M3), *lines)
    steps = play(bare_fleetctl, "--lose=1", file)
    assert "begin" not in steps
    (_, _, from_a, _), (_, to_a, _, away_a), (_, _, _, _), (_, to_late, _, away_late) = steps["lose"]
    assert (from_a, to_a, to_late) == (None, "3", "2") or to_a in "23"
    assert 5 < away_a < 30
    assert 300 < away_late < 330


def test_a_unit_that_fits_nowhere_else_is_named(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    file = write(
        tmp_path, machine(M1, disk="ssd"), machine(M2), unit("db.service", M1, options="MachineMetadata=disk=ssd")
    )
    result = bare_fleetctl("simulate", f"--lose={M1}", file)
    assert result.status == 1
    assert result.stderr.startswith("lose: db.service runs nowhere: no machine ")
    assert "disk=ssd" in result.stderr


def test_a_folder_is_rolled_out_one_member_after_the_other(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "prod").mkdir()
    (tmp_path / "prod" / "web@.service").write_text("[Service]\nExecStart=/bin/other\n[X-Fleet]\nInstances=2\n")
    template = json.loads(unit("web@.service", options="Instances=2")) | {"target": "inactive"}
    instances = [unit(f"web@{number}.service", on, options="Instances=2") for number, on in ((1, M1), (2, M2))]
    file = write(tmp_path, machine(M1), machine(M2), json.dumps(template), *instances)
    rows = play(bare_fleetctl, "--apply=prod", file)["apply"]
    began = {name: at_s for name, _, at_s, _ in rows if at_s is not None}
    assert began.keys() == {"web@1.service", "web@2.service"}
    assert abs(began["web@1.service"] - began["web@2.service"]) >= 1


def test_a_drained_machine_is_left_and_a_machine_lost_after_that_finds_it_cordoned(
    bare_fleetctl: Fleetctl, tmp_path: Path
) -> None:
    lines = [machine(M1), machine(M2), machine(M3), unit("a.service", M1), unit("b.service", M2)]
    steps = play(bare_fleetctl, "--drain=1", "--lose=2", write(tmp_path, *lines))
    assert list(steps) == ["drain", "lose"]
    (_, from_, _, _), (_, to, _, away) = steps["drain"]
    assert (from_, to) == ("1", "3")
    assert away < 5
    assert [(name, on) for name, on, _, _ in steps["lose"]] == [("b.service", "2"), ("b.service", "3")]


def test_a_drain_that_finds_no_room_leaves_the_unit_where_it_is(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    pinned = unit("db.service", M1, options="MachineMetadata=disk=ssd")
    everywhere = [unit("all.service", M1, M2, options="Global=true")]
    file = write(tmp_path, machine(M1, disk="ssd"), machine(M2), pinned, *everywhere)
    result = bare_fleetctl("simulate", "--drain=1", file)
    assert (result.status, result.stdout) == (
        1,
        "begin: 0 units started or stopped\ndrain: 0 units started or stopped\n",
    )
    begin, _, why = result.stderr.partition("10.0.0.1: ")
    assert begin == "drain: db.service has not left 11111111.../"
    assert "disk=ssd" in why


def test_secrets_that_units_name_are_there(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    credential = "LoadCredential=db.pw:/run/fleet/credentials.sock\n"
    lines = [machine(M1), machine(M2), unit("a.service", M1, text=SERVICE + credential, options="Secret=db.pw")]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.service").write_text(
        f"{SERVICE}LoadCredential=b.pw:/run/fleet/credentials.sock\n[X-Fleet]\nSecret=b.pw\n"
    )
    steps = play(bare_fleetctl, "--lose=1", "--apply=new", write(tmp_path, *lines))
    assert [(name, on) for name, on, _, _ in steps["lose"]] == [("a.service", "1"), ("a.service", "2")]
    assert [(name, on) for name, on, _, _ in steps["apply"]] == [("b.service", "2")]


def test_a_oneshot_that_has_ended_is_not_missing(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    text = "[Service]\nType=oneshot\nExecStart=/bin/sleep 5\n"
    assert play(bare_fleetctl, write(tmp_path, machine("m1"), unit("once.service", text=text))) == {
        "begin": [("once.service", "m", 0.0, 0.0)]
    }


def test_two_plays_are_equal(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    file = write(tmp_path, machine(M1), machine(M2), unit("a.service", M1), unit("b.service"))
    assert play(bare_fleetctl, "--lose=1", file) == play(bare_fleetctl, "--lose=1", file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lose=4"], "4: the file has no such machine"),
        (["--lose=1,2"], "no machine would be left"),
        (["--apply=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_played_is_refused(
    bare_fleetctl: Fleetctl, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = bare_fleetctl("simulate", *arguments, write(tmp_path, machine(M1), machine(M2), unit("a.service")))
    assert (result.status, result.stdout) == (1, "")
    assert said in result.stderr


def test_settings_that_no_cluster_takes_are_refused(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    settings = [{"name": "colour", "value": "red"}, {"name": "failover_delay", "value": "soon"}]
    lines = [json.dumps({"kind": "setting", **each}) for each in settings]
    result = bare_fleetctl("simulate", write(tmp_path, machine(M1), unit("a.service"), *lines))
    assert (result.status, result.stdout) == (1, "")
    unknown, value, end = result.stderr.splitlines()
    assert unknown == 'cluster.jsonl: unknown setting "colour"'
    assert value.startswith("cluster.jsonl: failover_delay: ")
    assert end == "cluster.jsonl has settings that no cluster takes: nothing is played"


def test_a_file_without_machines_is_refused(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    result = bare_fleetctl("simulate", write(tmp_path, unit("a.service")))
    assert (result.status, result.stderr) == (1, "cluster.jsonl has no machines: nothing could run anywhere\n")
