"""apply, diff, scale, and cat of a version."""

import json
from pathlib import Path

import pytest

from fleetctl.plan_lines import render_plan, summarise
from fleetd.api import schema
from fleetd.api.http import Response
from fleetd.model.rollout import Phase
from fleetd.model.unit import TargetState
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import NO_SSD, STUCK, ScriptedCluster, ScriptedOutcome

SERVICE = "[Service]\nExecStart=/bin/true\n"
OTHER = "[Service]\nExecStart=/bin/false\n"
LIMIT = "[Service]\nMemoryMax=1G\n"


def web(instances: int, text: str = SERVICE) -> str:
    return f"{text}\n[X-Fleet]\nInstances={instances}\n"


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """A folder in the current directory."""
    folder = tmp_path / "deploy"
    folder.mkdir()
    return folder


def fill(folder: Path, **files: str) -> None:
    """Write these unit files, whose names are given without `.service`; in place of `@`, they have `_`."""
    for name, text in files.items():
        (folder / f"{name.replace('_', '@')}.service").write_text(text)


def test_apply_creates_waits_and_prints_what_is_new(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=SERVICE, web_=web(2))
    result = fleetctl("apply", "deploy", "--note=first")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "  db.service    new",
        "  web@.service  new  2 instances (Instances=2)",
        "deploy: 4 new",
        "Unit db.service launched on 11111111.../10.0.0.1",
        "Unit web@1.service launched on 11111111.../10.0.0.1",
        "Unit web@2.service launched on 11111111.../10.0.0.1",
    ]
    assert result.status == 0
    assert (cluster.units["db.service"].set, cluster.units["db.service"].note) == ("deploy", "first")
    assert cluster.units["db.service"].by != ""


@pytest.mark.covers("C.6")
def test_apply_again_changes_nothing_and_says_so(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=SERVICE, web_=web(2))
    fleetctl("apply", "deploy")
    before = cluster.units
    result = fleetctl("apply", f"{deploy}/")
    assert (result.status, result.stdout, result.stderr) == (0, "deploy: nothing to do (4 unchanged)\n", "")
    assert cluster.units == before


def test_apply_says_what_a_change_asks_for(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=SERVICE, log=SERVICE, old=SERVICE, web_=web(2))
    fleetctl("apply", "deploy")
    cluster.set_target("log.service", "loaded")
    (deploy / "old.service").unlink()
    (deploy / "db.service.d").mkdir()
    (deploy / "db.service.d" / "limit.conf").write_text(LIMIT)
    fill(deploy, log=OTHER, web_=web(3, OTHER))
    result = fleetctl("apply", "deploy", "--plan")
    assert result.stdout.splitlines() == [
        "  db.service     changed  daemon-reload is enough (MemoryMax= changed)",
        "  log.service    changed  is loaded: nothing restarts",
        "  old.service    gone     is not in the folder, and stays without --prune",
        "  web@.service   changed  2 instances: restart (ExecStart= changed), one at a time (MaxUnavailable=1)",
        "  web@3.service  new      Instances=2 → 3",
        "deploy: 5 changed, 1 new, 1 gone (a plan: nothing is done)",
    ]
    assert "web@3.service" not in cluster.units
    assert fleetctl("apply", "deploy", "--prune").status == 0
    assert "old.service" not in cluster.units
    assert cluster.targets["log.service"] is TargetState.LOADED
    assert cluster.units["web@3.service"].text == web(3, OTHER)


def test_apply_reports_what_is_reverted_and_tries_it_again_only_on_request(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path
) -> None:
    fill(deploy, db=SERVICE, a=SERVICE)
    fleetctl("apply", "deploy")
    cluster.phases["db.service"] = Phase.REVERTED
    fill(deploy, db=OTHER)
    result = fleetctl("apply", "deploy")
    assert (result.status, result.stderr.startswith("db.service: reverted")) == (1, True)
    result = fleetctl("apply", "deploy")
    assert (result.status, result.stdout) == (1, "deploy: nothing to do (2 unchanged)\n")
    assert result.stderr.splitlines()[-1] == "    This was applied before, and is not tried again without --retry"
    del cluster.phases["db.service"]
    result = fleetctl("apply", "deploy", "--retry")
    assert (result.status, result.stdout.splitlines()[-1]) == (0, "db.service: done")


def test_apply_says_which_new_units_no_machine_takes(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path
) -> None:
    fill(deploy, db=SERVICE)
    cluster.outcomes["db.service"] = NO_SSD
    result = fleetctl("apply", "deploy")
    assert result.status == 1
    assert "Unit db.service cannot be placed: no machine fits: metadata disk=ssd missing" in result.stderr
    fill(deploy, log=f"{SERVICE}[X-Fleet]\nGlobal=true\n")
    cluster.outcomes["log.service"] = ScriptedOutcome(active="failed", sub="failed", error="exit-code 1")
    assert "Unit log.service " in fleetctl("apply", "deploy").stderr


def test_apply_does_not_wait_if_it_is_told_so(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=SERVICE)
    cluster.phases["db.service"] = Phase.RUNNING
    cluster.outcomes["db.service"] = STUCK
    assert fleetctl("apply", "--no-block", "deploy").status == 0


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("reload", "reload without a restart (UpdateAction=reload)"),
        ("none", "the new content counts from its next start (UpdateAction=none)"),
        ("restart", "restart (UpdateAction=restart)"),
    ],
)
def test_the_plan_says_what_the_update_action_does(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path, action: str, words: str
) -> None:
    fill(deploy, db=SERVICE, web_=web(2))
    fleetctl("apply", "deploy")
    fleet = f"[X-Fleet]\nUpdateAction={action}\n"
    fill(deploy, db=f"{OTHER}{fleet}", web_=f"{web(2, OTHER)}UpdateAction={action}\n")
    assert fleetctl("apply", "--plan", "deploy").stdout.splitlines()[:2] == [
        f"  db.service    changed  {words}",
        f"  web@.service  changed  2 instances: {words}"
        + (", one at a time (MaxUnavailable=1)" if action == "restart" else ""),
    ]


def test_apply_waits_for_destroyed_units(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=f"{SERVICE}[X-Fleet]\nDesiredState=loaded\n", a=SERVICE, b=SERVICE)
    result = fleetctl("apply", "deploy")
    assert "  db.service  new  loaded" in result.stdout.splitlines()
    (deploy / "a.service").unlink()
    assert fleetctl("apply", "deploy", "--prune").stdout.splitlines() == [
        "  a.service  destroyed  (--prune)",
        "deploy: 1 destroyed, 2 unchanged",
        "Destroyed a.service",
    ]
    (deploy / "b.service").unlink()
    cluster.outcomes["b.service"] = STUCK
    result = fleetctl("apply", "deploy", "--prune")
    assert result.status == 1
    assert "timed out waiting for destroyed unit b.service to stop" in result.stderr


@pytest.mark.covers("B.1", "B.2")
def test_a_broken_file_applies_nothing_and_is_named_with_its_line(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path
) -> None:
    fill(deploy, db=SERVICE, a="[Service\n", web_=f"{SERVICE}[X-Fleet]\nMaxUnavailable=0\n")
    result = fleetctl("apply", "deploy")
    assert result.status == 1
    assert result.stderr.splitlines()[0].startswith("deploy/a.service:1: ")
    assert result.stderr.splitlines()[-1] == "deploy cannot be applied: it has 1 error"
    fill(deploy, a=SERVICE)
    result = fleetctl("apply", "deploy")
    assert result.stderr.splitlines()[0].startswith("deploy/web@.service:4: MaxUnavailable: with 0 ")
    assert cluster.changes == []


@pytest.mark.parametrize("flags", [[], ["--prune", "--yes"]])
def test_an_empty_folder_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path, flags: list[str]
) -> None:
    result = fleetctl("apply", "deploy", *flags)
    assert (result.status, result.stderr) == (1, "deploy holds no unit files: nothing is applied\n")
    assert cluster.requests == []


def test_refusals_are_printed_and_nothing_is_done(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, a=SERVICE, b=SERVICE, c=SERVICE)
    fleetctl("apply", "deploy", "--set=other")
    before = cluster.units
    result = fleetctl("apply", "deploy")
    assert result.status == 1
    assert 'Error applying deploy: Error 409: unit "a.service" belongs to the set "other"' in result.stderr
    result = fleetctl("apply", "deploy", "--plan")
    assert result.status == 1
    assert len(result.stderr.splitlines()) == 3
    assert cluster.units == before
    result = fleetctl("apply", "deploy", "--take-over")
    assert result.status == 0
    assert '  a.service  unchanged  taken over from the set "other"' in result.stdout.splitlines()
    (deploy / "a.service").unlink()
    (deploy / "b.service").unlink()
    assert "add --yes if that is meant" in fleetctl("apply", "deploy", "--prune").stderr
    assert fleetctl("apply", "deploy", "--prune", "--yes").status == 0
    assert list(cluster.units) == ["c.service"]


def test_a_folder_without_a_name_for_a_set_needs_one(fleetctl: Fleetctl, tmp_path: Path) -> None:
    folder = tmp_path / "my folder"
    folder.mkdir()
    fill(folder, a=SERVICE)
    result = fleetctl("apply", "my folder")
    assert result.status == 1
    assert result.stderr.endswith("; name one with --set\n")
    assert fleetctl("apply", "my folder", "--set=a/b").stderr.startswith('"a/b" is no name of a set')


def test_a_folder_that_is_too_large_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    for number in range(11):
        fill(deploy, **{f"u{number}": f"{SERVICE}Environment={'x' * 200_000}\n"})
    result = fleetctl("apply", "deploy")
    assert (result.status, "and at most 2097152 can be applied at once" in result.stderr) == (1, True)
    assert cluster.requests == []


def test_warnings_do_not_hinder_an_apply(fleetctl: Fleetctl, deploy: Path) -> None:
    fill(deploy, a=SERVICE)
    (deploy / "NOTES.md").touch()
    result = fleetctl("apply", "deploy")
    assert result.status == 0
    assert result.stderr == "WARNING: not read, since it is neither a unit file nor a drop-in of one: NOTES.md\n"


def test_apply_as_json(fleetctl: Fleetctl, deploy: Path) -> None:
    fill(deploy, a=SERVICE, web_=web(1))
    result = fleetctl("apply", "deploy", "--output=json")
    new = {"change": "new", "impact": None, "owner": None}
    assert json.loads(result.stdout) == [
        {"unit": "a.service", "dstate": "launched", "because": None, **new},
        {"unit": "web@.service", "dstate": "inactive", "because": None, **new},
        {"unit": "web@1.service", "dstate": "launched", "because": "Instances=1", **new},
    ]
    assert result.stderr.splitlines()[0] == "Unit a.service launched on 11111111.../10.0.0.1"
    assert json.loads(fleetctl("apply", "deploy", "--output=json").stdout) == []


def test_an_older_fleetd_is_named(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, a=SERVICE)
    cluster.intercept = lambda method, path: Response(404, (), b"")
    result = fleetctl("apply", "deploy")
    assert (result.status, "if it is an older fleetd" in result.stderr) == (1, True)


# diff


def test_diff_shows_unit_files_and_drop_ins_as_diff_does(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path
) -> None:
    cluster.add("db.service", SERVICE, old=LIMIT)
    fill(deploy, db=f"# why\n{OTHER}", new=SERVICE)
    (deploy / "db.service.d").mkdir()
    (deploy / "db.service.d" / "limit.conf").write_text(LIMIT)
    before = cluster.units
    result = fleetctl("diff", "deploy")
    assert (result.status, result.stderr) == (1, "")
    assert result.stdout == (
        "--- cluster/db.service\n+++ deploy/db.service\n@@ -1,2 +1,2 @@\n [Service]\n-ExecStart=/bin/true\n"
        "+ExecStart=/bin/false\n"
        "--- /dev/null\n+++ deploy/db.service.d/limit.conf\n@@ -0,0 +1,2 @@\n+[Service]\n+MemoryMax=1G\n"
        "--- cluster/db.service.d/old.conf\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-[Service]\n-MemoryMax=1G\n"
        "--- /dev/null\n+++ deploy/new.service\n@@ -0,0 +1,2 @@\n+[Service]\n+ExecStart=/bin/true\n"
    )
    assert cluster.units == before


def test_diff_does_not_repeat_instances_that_change_as_their_template(fleetctl: Fleetctl, deploy: Path) -> None:
    fill(deploy, web_=web(3))
    fleetctl("apply", "deploy")
    fill(deploy, web_=web(3, OTHER))
    (deploy / "web@2.service.d").mkdir()
    (deploy / "web@2.service.d" / "limit.conf").write_text(LIMIT)
    lines = fleetctl("diff", "deploy").stdout.splitlines()
    assert [line for line in lines if line.startswith("+++")] == [
        "+++ deploy/web@.service",
        "+++ deploy/web@2.service",
        "+++ deploy/web@2.service.d/limit.conf",
    ]


def test_diff_of_the_same_ends_with_0(fleetctl: Fleetctl, deploy: Path) -> None:
    fill(deploy, a=SERVICE, b=SERVICE)
    fleetctl("apply", "deploy")
    assert fleetctl("diff", "deploy") == fleetctl("diff", "--output=table", "deploy")
    result = fleetctl("diff", "deploy")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    (deploy / "b.service").unlink()
    result = fleetctl("diff", "deploy")
    assert (result.status, result.stdout) == (0, "")
    assert result.stderr == "b.service is of the set and not in deploy: it stays, unless --prune is given\n"
    result = fleetctl("diff", "--prune", "deploy")
    assert (result.status, "+++ /dev/null" in result.stdout) == (1, True)


def test_diff_names_units_of_other_sets(fleetctl: Fleetctl, deploy: Path) -> None:
    fill(deploy, a=SERVICE)
    fleetctl("apply", "deploy", "--set=other")
    result = fleetctl("diff", "deploy")
    assert result.status == 1
    assert 'a.service is of the set "other", and would be taken out of it' in result.stderr.splitlines()


def test_diff_of_what_cannot_be_compared_ends_with_2(
    fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path
) -> None:
    assert fleetctl("diff", "deploy").status == 2
    fill(deploy, a="[")
    assert fleetctl("diff", "deploy").status == 2
    fill(deploy, a=SERVICE)
    cluster.intercept = lambda method, path: Response(500, (), b"")
    assert fleetctl("diff", "deploy").status == 2


def test_diff_as_json(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    cluster.add("a.service", SERVICE)
    fill(deploy, a=OTHER)
    [found] = json.loads(fleetctl("diff", "deploy", "--output=json").stdout)
    assert (found["unit"], found["change"], found["impact"]) == ("a.service", "changed", "restart")
    assert found["diff"].startswith("--- cluster/a.service\n")


# scale


def test_scale_makes_and_destroys_instances(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web@.service", SERVICE)
    result = fleetctl("scale", "web@", "2", "--note=more")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "  web@1.service  new  scaled to 2",
        "  web@2.service  new  scaled to 2",
        "web@.service: 2 new",
        "Unit web@1.service launched on 11111111.../10.0.0.1",
        "Unit web@2.service launched on 11111111.../10.0.0.1",
    ]
    assert fleetctl("scale", "web@.service", "1").stdout.splitlines() == [
        "  web@2.service  destroyed  (scaled to 1)",
        "web@.service: 1 destroyed",
        "Destroyed web@2.service",
    ]
    assert fleetctl("scale", "web@.service", "1").stdout == "web@.service: nothing to do\n"
    assert fleetctl("scale", "--plan", "web@.service", "0").status == 0
    assert sorted(cluster.units) == ["web@.service", "web@1.service"]


def test_scale_says_what_the_unit_file_says(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web@.service", web(1))
    result = fleetctl("scale", "web@.service", "2", "--output=json")
    assert [unit["unit"] for unit in json.loads(result.stdout)] == ["web@1.service", "web@2.service"]
    assert "web@.service says Instances=1: the next apply of its folder makes that of it again" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["web@.service", "1"], 1, 'the cluster has no template "web@.service"'),
        (["web.service", "1"], 1, "web.service is no template"),
        (["web@1", "1"], 1, "web@1.service is no template"),
        (["web@.service", "x"], 2, "'x' cannot be the number of instances: write one from 0 to 1000"),
        (["web@.service", "-1"], 2, ""),
        (["web@.service", "10001"], 2, ""),
        (["web@.service"], 2, ""),
    ],
)
def test_what_cannot_be_scaled(fleetctl: Fleetctl, arguments: list[str], status: int, message: str) -> None:
    result = fleetctl("scale", *arguments)
    assert (result.status, message in result.stderr) == (status, True)


# cat of a version


def test_cat_prints_a_version(fleetctl: Fleetctl, cluster: ScriptedCluster, deploy: Path) -> None:
    fill(deploy, db=SERVICE, web_=web(2))
    for folder in ("web@.service.d", "web@2.service.d"):
        (deploy / folder).mkdir()
    (deploy / "web@.service.d" / "limit.conf").write_text(LIMIT)
    (deploy / "web@2.service.d" / "own.conf").write_text("[Service]\nNice=1\n")
    fleetctl("apply", "deploy")
    fill(deploy, db=OTHER)
    fleetctl("apply", "deploy")
    assert fleetctl("cat", "db.service@1").stdout == SERVICE
    assert fleetctl("cat", "db.service@2").stdout == OTHER
    assert fleetctl("cat", "web@.service@1").stdout == (
        f"{web(2)}\n# /run/systemd/system/web@.service.d/limit.conf\n{LIMIT}"
        "\n# /run/systemd/system/web@2.service.d/own.conf\n[Service]\nNice=1\n"
    )
    result = fleetctl("cat", "db.service@7")
    assert (result.status, result.stderr) == (1, "db.service has no version 7: there are 1, 2\n")
    assert "it has none: an apply makes one" in fleetctl("cat", "no.service@1").stderr
    assert HELLO != SERVICE


# lines


def changed(name: str, change: str = "changed", **fields: str) -> schema.PlannedUnit:
    return schema.PlannedUnit(name, change, **{"target": "launched", **fields})


def test_many_instances_that_change_alike_are_one_line() -> None:
    units = tuple(changed(f"web@{number}.service", "new", because="scaled to 20") for number in range(6))
    assert render_plan(schema.Applied(units=units)) == ["  web@.service  new  6 instances (scaled to 20)"]


def test_lines_of_global_units_and_of_a_larger_budget() -> None:
    units = (
        schema.PlannedUnit("log.service", "changed", "launched", "reload", "MemoryMax= changed", is_global=True),
        schema.PlannedUnit("log@.service", "changed", "inactive", "none", "nothing that systemd acts on changed"),
        schema.PlannedUnit("web@.service", "changed", "inactive", "restart", "User= changed"),
        *(schema.PlannedUnit(f"web@{n}.service", "changed", "launched", "restart", "User= changed") for n in range(8)),
        schema.PlannedUnit("x@.service", "changed", "inactive", "restart", "User= changed"),
    )
    groups = (schema.PlannedGroup("log.service", 20, 1, "1"), schema.PlannedGroup("web@.service", 8, 2, "25%"))
    answer = schema.Applied(units=units, groups=groups, unchanged=3)
    assert render_plan(answer) == [
        "  log.service   changed  20 machines: daemon-reload is enough (MemoryMax= changed)",
        "  log@.service  changed  nothing that systemd acts on changed",
        "  web@.service  changed  8 instances: restart (User= changed), 2 at a time (MaxUnavailable=25%)",
        "  x@.service    changed  no instance runs",
    ]
    assert summarise(answer) == "12 changed, 3 unchanged"


@pytest.mark.parametrize("number", ["minus", "1001", "1.5", "², "])
def test_scale_refuses_what_is_no_number_of_instances(
    fleetctl: Fleetctl, cluster: ScriptedCluster, number: str
) -> None:
    cluster.add("web@.service", HELLO)
    result = fleetctl("scale", "web@.service", number)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"{number!r} cannot be the number of instances: write one from 0 to 1000\n"
