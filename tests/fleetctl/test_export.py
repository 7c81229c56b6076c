"""export and import."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.content import DropIn
from fleetd.model.machine import Cordon, MachineSettings
from fleetd.model.unit import TargetState
from fleetd.registry.records import SETS
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, ScriptedCluster

SERVICE = "[Service]\nExecStart=/bin/true\n"
OTHER = "[Service]\nExecStart=/bin/false\n"
LIMIT = "[Service]\nMemoryMax=1G\n"
SET = ClusterSettings({"failover_delay": ClusterSetting("45s", "ann", 1_800_014_400.0)})
HEAD = '{"kind":"fleet","format":1}\n'


@pytest.fixture
def other(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedCluster]:
    """Another cluster, which is empty."""
    cluster = ScriptedCluster(background, f"{tmp_path_factory.mktemp('o')}/fleet.sock")
    yield cluster
    cluster.close()


def fill(cluster: ScriptedCluster, fleetctl: Fleetctl, tmp_path: Path) -> None:
    """Units alone, with a drop-in, in a set, with instances; a setting and a cordon."""
    cluster.add("db.service", SERVICE, "launched", limit=LIMIT)
    cluster.add("idle.service", SERVICE)
    folder = tmp_path / "prod"
    folder.mkdir()
    (folder / "web@.service").write_text(f"{SERVICE}\n[X-Fleet]\nInstances=3\n")
    (folder / "web@2.service.d").mkdir()
    (folder / "web@2.service.d" / "limit.conf").write_text(LIMIT)
    (folder / "log.service").write_text(SERVICE)
    assert fleetctl("apply", "prod", "--no-block").status == 0
    cluster.set_target("web@3.service", "loaded")
    cluster.set_cluster_settings(SET)
    cluster.set_settings(M1, MachineSettings(cordon=Cordon("disk", "ann", 1_800_014_400.0)))


def write(tmp_path: Path, *lines: str, head: str = HEAD) -> str:
    """A file with these lines after its first one; its name."""
    (tmp_path / "file.jsonl").write_text(head + "".join(f"{line}\n" for line in lines))
    return "file.jsonl"


def unit(name: str, text: str = SERVICE, **fields: object) -> str:
    return json.dumps({"kind": "unit", "name": name, "text": text, **fields})


def contents(cluster: ScriptedCluster) -> dict[str, tuple[str, TargetState, tuple[DropIn, ...]]]:
    """What an import restores of each unit."""
    return {each.name: (each.text, each.target, each.dropins) for each in cluster.units.values()}


def sets(cluster: ScriptedCluster) -> dict[str, tuple[str, ...]]:
    """The members of each set."""
    return {name: found.members for (name,), found in cluster.read(SETS).items()}


def test_an_export_has_units_sets_settings_and_machines_a_line_each(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    fill(cluster, fleetctl, tmp_path)
    result = fleetctl("export")
    assert (result.status, result.stderr) == (0, "")
    head, *lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (head["kind"], head["format"], head["units"], head["settings"], head["machines"]) == ("fleet", 1, 7, 1, 2)
    found = {line.get("name", line.get("id")): line for line in lines}
    assert found["failover_delay"] == {"kind": "setting", "name": "failover_delay", "value": "45s"}
    assert found[M1.id]["cordon"] == "disk"
    assert found["db.service"]["dropins"] == [{"name": "limit.conf", "text": LIMIT}]
    assert found["db.service"]["target"] == "launched"
    assert (found["web@3.service"]["set"], found["web@3.service"]["target"]) == ("prod", "loaded")
    assert [line["name"] for line in lines if line["kind"] == "unit"] == sorted(cluster.units)


def test_an_empty_cluster_becomes_what_the_export_says_and_a_second_import_changes_nothing(
    fleetctl: Fleetctl, cluster: ScriptedCluster, other: ScriptedCluster, tmp_path: Path
) -> None:
    fill(cluster, fleetctl, tmp_path)
    (tmp_path / "all.jsonl").write_text(fleetctl("export").stdout)
    endpoint = f"--endpoint={other.unix}"
    plan = fleetctl(endpoint, "import", "all.jsonl")
    assert plan.status == 0
    assert plan.stdout.splitlines()[-1] == "9 new (a plan: nothing is done without --yes)"
    assert ["unit", "web@3.service", "new", "loaded,", "set", '"prod"'] in map(str.split, plan.stdout.splitlines())
    assert other.units == {}
    result = fleetctl(endpoint, "import", "--yes", "all.jsonl")
    assert (result.status, result.stderr) == (0, "")
    assert contents(other) == contents(cluster)
    assert sets(other) == sets(cluster) != {}
    assert other.cluster_settings.values["failover_delay"].value == "45s"
    assert other.settings[M1.id].cordon is not None
    before = other.units
    again = fleetctl(endpoint, "import", "--yes", "all.jsonl")
    assert (again.status, again.stdout, again.stderr) == (0, "nothing to do (8 unchanged)\n", "")
    assert other.units == before


def test_what_is_there_otherwise_is_kept_without_replace(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.add("db.service", OTHER, "launched")
    cluster.add("own.service", SERVICE)
    file = write(tmp_path, unit("db.service"), unit("new.service", target="launched"))
    result = fleetctl("import", "--yes", file)
    assert result.status == 1
    assert result.stdout.splitlines() == [
        "  unit  db.service   kept  unit file, launched → inactive",
        "  unit  new.service  new   launched",
        "1 new, 1 kept",
    ]
    assert result.stderr == "1 of these is otherwise in the cluster, and kept so without --replace\n"
    assert cluster.units["db.service"].text == OTHER
    assert cluster.targets["new.service"] is TargetState.LAUNCHED
    result = fleetctl("import", "--yes", "--replace", file)
    assert (result.status, result.stderr) == (0, "")
    assert cluster.units["db.service"].text == SERVICE
    assert cluster.units["db.service"].rollout != ""
    assert cluster.targets == {
        "db.service": TargetState.INACTIVE,
        "new.service": TargetState.LAUNCHED,
        "own.service": TargetState.INACTIVE,
    }


def test_units_join_their_set_without_another_change(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.add("db.service", SERVICE, "launched")
    before = cluster.units["db.service"]
    result = fleetctl("import", "--yes", write(tmp_path, unit("db.service", target="launched", set="prod")))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == '  unit  db.service  changed  set "prod"'
    after = cluster.units["db.service"]
    assert sets(cluster) == {"prod": ("db.service",)}
    assert (after.text, after.target, after.generation) == (before.text, before.target, before.generation)
    assert fleetctl("import", write(tmp_path, unit("db.service", target="launched", set="prod"))).stdout == (
        "nothing to do (1 unchanged)\n"
    )


def test_a_set_whose_template_stands_for_more_is_left_as_it_is(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    text = f"{SERVICE}\n[X-Fleet]\nInstances=2\n"
    lines = [unit("web@.service", text, set="prod"), unit("web@1.service", text, set="prod")]
    result = fleetctl("import", "--yes", write(tmp_path, *lines))
    assert result.status == 1
    assert 'set "prod": is left as it is, because this would also change web@2.service' in result.stderr
    assert sorted(cluster.units) == ["web@.service", "web@1.service"]


def test_a_unit_of_another_set_is_taken_over_with_replace_alone(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "db.service").write_text(SERVICE)
    assert fleetctl("apply", "old", "--no-block").status == 0
    file = write(tmp_path, unit("db.service", target="launched", set="new"))
    result = fleetctl("import", "--yes", file)
    assert (result.status, result.stdout.splitlines()[0]) == (1, '  unit  db.service  kept  set "old" → "new"')
    assert sets(cluster) == {"old": ("db.service",)}
    result = fleetctl("import", "--yes", "--replace", file)
    assert (result.status, result.stderr) == (0, "")
    assert {name: members for name, members in sets(cluster).items() if members} == {"new": ("db.service",)}


def test_an_instance_with_a_content_of_its_own_comes_into_its_set_with_it(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    text, own = (f"{service}\n[X-Fleet]\nInstances=2\n" for service in (SERVICE, OTHER))
    texts = {"web@.service": text, "web@1.service": text, "web@2.service": own}
    file = write(tmp_path, *(unit(name, each, set="prod") for name, each in texts.items()))
    result = fleetctl("import", "--yes", file)
    assert (result.status, result.stderr) == (0, "")
    assert {name: each.text for name, each in cluster.units.items()} == texts
    assert sets(cluster) == {"prod": tuple(sorted(texts))}
    assert fleetctl("import", file).stdout == "nothing to do (3 unchanged)\n"


def test_a_set_that_is_larger_than_a_request_comes_in_parts(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    text = "[Service]\n" + f"Environment=A={'a' * 1900}\n" * 30 + "ExecStart=/bin/true\n"
    names = [f"u{number:02}.service" for number in range(40)]
    file = write(tmp_path, *(unit(name, text, set="prod") for name in names))
    result = fleetctl("import", "--yes", file)
    assert (result.status, result.stderr) == (0, "")
    assert sets(cluster) == {"prod": tuple(names)}
    assert {each.text for each in cluster.units.values()} == {text}


def test_drop_ins_that_units_share_come_to_all_of_them(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    for name in ("a.service", "b.service", "c.service"):
        cluster.add(name, SERVICE if name != "c.service" else OTHER, limit=LIMIT)
    cluster.add("d.service", SERVICE, limit=LIMIT.replace("1G", "2G"))
    lines = [json.loads(line) for line in fleetctl("export").stdout.splitlines()]
    found = {line["name"]: line["dropins"] for line in lines if line["kind"] == "unit"}
    shared, other = ([{"name": "limit.conf", "text": text}] for text in (LIMIT, LIMIT.replace("1G", "2G")))
    assert found == {"a.service": shared, "b.service": shared, "c.service": shared, "d.service": other}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[]"], "line 2: "),
        (["{"], "line 2: "),
        (['{"kind":"unit"}'], "line 2: Object missing required field `name`"),
        (['{"kind":"secret","name":"x"}'], "line 2: Invalid value 'secret'"),
        ([unit("db.service", tagret="launched")], "line 2: Object contains unknown field `tagret`"),
        ([unit("db.service", target="started")], "line 2: Invalid enum value 'started'"),
        ([unit("db.service"), unit("db.service")], 'line 3: "db.service" is there twice'),
        ([unit("db.service", "ExecStart=/bin/true\n[Service")], 'line 2: unit "db.service": line 2 of its text: '),
        ([unit("db.service", "")], 'line 2: unit "db.service": its unit file has no options'),
        ([unit("../db.service")], 'line 2: unit "../db.service": '),
        ([unit("db.service", set="-x")], 'line 2: unit "db.service": "-x" is no name of a set'),
        ([unit("db@.service", target="launched")], 'line 2: unit "db@.service": a template does not run'),
        ([unit("db.service", dropins=[{"name": "x", "text": LIMIT}])], 'line 2: unit "db.service": "x" is no name'),
        (['{"kind":"machine","id":"a/b"}'], "line 2: a machine has an id of letters"),
        ([HEAD.strip()], "line 2: another export begins here"),
    ],
)
def test_a_broken_file_imports_nothing_and_each_error_has_its_line(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, lines: list[str], said: str
) -> None:
    result = fleetctl("import", "--yes", write(tmp_path, *lines, unit("good.service")))
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(f"file.jsonl: {said}")
    assert result.stderr.endswith("file.jsonl is broken: nothing is done\n")
    assert cluster.units == {}


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("", "its first line is not"),
        ('{"kind":"unit","name":"a.service","text":""}\n', "its first line is not"),
        ('{"kind":"fleet","format":2}\n', "it has format 2, and this fleetctl reads 1"),
        ('{"kind":"fleet","format":1,"units":2}\n', "its first line says 2 units, and there are 1: it was cut off"),
        ("PK\x03\x04\n", "its first line is not"),
    ],
)
def test_what_is_no_export_or_was_cut_off_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, head: str, said: str
) -> None:
    lines = [unit("good.service")] if head else []
    result = fleetctl("import", "--yes", write(tmp_path, *lines, head=head))
    assert result.status == 1
    assert said in result.stderr
    assert cluster.units == {}


def test_a_file_that_is_not_there_is_named(fleetctl: Fleetctl) -> None:
    result = fleetctl("import", "nowhere.jsonl")
    assert (result.status, result.stderr) == (1, "Error reading nowhere.jsonl: no such file or directory\n")


def test_secrets_that_are_missing_are_named(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    text = f"{SERVICE}\n[X-Fleet]\nSecret=password\n"
    result = fleetctl("import", write(tmp_path, unit("db.service", text), unit("web.service", text)))
    assert result.status == 0
    assert result.stderr == (
        "WARNING: db.service and 1 more needs the secret password, which the cluster does not have, nor any export: "
        "fleetctl secret set password < FILE\n"
    )


def test_a_unit_that_is_refused_hinders_no_other(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    cluster.system_units["cron.service"] = "/lib/systemd/system/cron.service"
    result = fleetctl("import", "--yes", write(tmp_path, unit("cron.service"), unit("db.service")))
    assert result.status == 1
    assert result.stderr.startswith("cron.service: Error 4")
    assert sorted(cluster.units) == ["db.service"]


def test_the_plan_as_json(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    file = write(tmp_path, unit("db.service"), '{"kind":"setting","name":"failover_delay","value":"45s"}')
    result = fleetctl("import", "--output=json", file)
    assert msgspec.json.decode(result.stdout) == [
        {"kind": "setting", "name": "failover_delay", "change": "new", "what": "45s"},
        {"kind": "unit", "name": "db.service", "change": "new", "what": "inactive"},
    ]
