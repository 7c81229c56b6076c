"""list-units, list-unit-files, list-machines, forget-machine and cat: fields, order, alignment, errors."""

import json
import time

import msgspec
import pytest

from fleetctl.output import render_table
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.unitfile import UnitFile
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster, ScriptedOutcome

GLOBAL = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=yes\n"
HASH = UnitFile.parse(HELLO).hash


@pytest.fixture
def filled_cluster(cluster: ScriptedCluster) -> ScriptedCluster:
    """Units in several states, more than fit on a page; two names differ in byte order and alphabetical order."""
    cluster.outcomes["tpl2@1.service"] = ScriptedOutcome(machine=M2, active="failed", sub="failed")
    cluster.add("hello.service", HELLO, target="launched")
    cluster.add("tpl@.service", HELLO)
    cluster.add("tpl2@1.service", HELLO, target="launched")
    cluster.add("all.service", GLOBAL, target="loaded")
    return cluster


@pytest.mark.covers("3.9.4", "3.9.10", "3.9.11", "3.9.19", "3.9.20")
def test_list_units_shows_what_machines_report(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    assert fleetctl("list-units").stdout == (
        "UNIT\t\tMACHINE\t\t\tACTIVE\t\tSUB\n"
        "all.service\t11111111.../10.0.0.1\tinactive\tdead\n"
        "hello.service\t11111111.../10.0.0.1\tactive\t\trunning\n"
        "tpl2@1.service\t22222222...\t\tfailed\t\tfailed\n"
    )


@pytest.mark.covers("1.6.1", "3.9.1", "3.9.12")
def test_list_units_full_shows_whole_ids_and_hashes(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    result = fleetctl("list-units", "--full", "--no-legend", "--fields=unit,hash,machine,load")
    assert result.stdout.splitlines()[1].split() == ["hello.service", HASH, "1" * 32 + "/10.0.0.1", "loaded"]
    assert result.stdout.splitlines()[2].split() == ["tpl2@1.service", HASH, "2" * 32, "loaded"]
    short = fleetctl("list-units", "--no-legend", "--fields=hash").stdout.splitlines()
    assert short[1] == HASH[:7]


@pytest.mark.covers("1.6.2", "3.8.40", "3.9.5", "3.9.6", "3.9.13", "3.9.14", "3.9.15", "3.9.16", "3.9.19")
def test_list_unit_files_shows_every_unit_in_byte_order(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    short, other = HASH[:7], UnitFile.parse(GLOBAL).hash[:7]
    assert fleetctl("list-unit-files").stdout == (
        "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\n"
        f"all.service\t{other}\tloaded\t\t-\t\tglobal\n"
        f"hello.service\t{short}\tlaunched\tlaunched\t11111111.../10.0.0.1\n"
        f"tpl2@1.service\t{short}\tlaunched\tlaunched\t22222222...\n"
        f"tpl@.service\t{short}\tinactive\tinactive\t-\n"
    )


@pytest.mark.covers("3.9.1", "3.9.2", "3.9.13", "3.9.17", "3.9.18")
def test_list_unit_files_shows_further_fields_on_request(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    result = fleetctl("list-unit-files", "--no-legend", "--fields=unit,global,desc,unit", "--full")
    assert result.stdout.splitlines()[:2] == [
        "all.service\ttrue\t-\t\tall.service",
        "hello.service\tfalse\tSays hello\thello.service",
    ]
    assert fleetctl("list-unit-files", "--full", "--no-legend", "--fields=hash").stdout.splitlines()[1] == HASH


@pytest.mark.covers(
    "3.9.3", "3.9.4", "3.9.5", "3.9.7", "3.9.10", "3.9.11", "3.9.14", "3.9.15", "3.9.16", "3.9.17", "3.9.18", "3.9.20"
)
def test_every_field_of_every_list_to_the_byte(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    machine, machines = f"{'1' * 32}/10.0.0.1", [f"{'1' * 32}", f"{'2' * 32}"]
    other = UnitFile.parse(GLOBAL).hash
    assert fleetctl("list-units", "--full", "--fields=active,hash,load,machine,sub,unit").stdout == (
        "ACTIVE\t\tHASH\t\t\t\t\t\tLOAD\tMACHINE\t\t\t\t\t\tSUB\tUNIT\n"
        f"inactive\t{other}\tloaded\t{machine}\tdead\tall.service\n"
        f"active\t\t{HASH}\tloaded\t{machine}\trunning\thello.service\n"
        f"failed\t\t{HASH}\tloaded\t{machines[1]}\t\tfailed\ttpl2@1.service\n"
    )
    every = "--fields=desc,dstate,global,hash,state,target,tmachine,unit"
    assert fleetctl("list-unit-files", "--full", "--no-legend", every).stdout == (
        f"-\t\tloaded\t\ttrue\t{other}\t-\t\tglobal\t\t\t\t\t\tglobal\t\t\t\t\t\tall.service\n"
        f"Says hello\tlaunched\tfalse\t{HASH}\tlaunched\t{machine}\t{machine}\thello.service\n"
        f"Says hello\tlaunched\tfalse\t{HASH}\tlaunched\t{machines[1]}\t\t{machines[1]}\t\ttpl2@1.service\n"
        f"Says hello\tinactive\tfalse\t{HASH}\tinactive\t-\t\t\t\t\t\t-\t\t\t\t\t\ttpl@.service\n"
    )
    assert fleetctl("list-machines", "--full", "--fields=ip,machine,metadata").stdout == (
        f"IP\t\tMACHINE\t\t\t\t\tMETADATA\n10.0.0.1\t{machines[0]}\tdisk=ssd,region=eu\n-\t\t{machines[1]}\t-\n"
    )


@pytest.mark.covers("3.9.10", "3.9.12")
def test_a_state_without_a_hash_of_an_unknown_machine_is_listed(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    cluster.report("web.service", hash="")
    cluster.register()
    listed = fleetctl("list-units", "--no-legend", "--fields=unit,hash,machine")
    assert listed.stdout == "web.service\t-\t11111111...\n"


@pytest.mark.covers("3.9.16")
def test_the_field_tmachine_is_deprecated(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    result = fleetctl("list-unit-files", "--fields=tmachine", "--no-legend")
    assert (result.status, result.stdout.splitlines()[0]) == (0, "global")
    assert result.stderr == "WARNING: The tmachine field is deprecated: use target\n"


@pytest.mark.covers("3.9.3", "3.9.7", "3.9.8", "3.9.9")
def test_list_machines_shows_addresses_and_sorted_metadata(fleetctl: Fleetctl) -> None:
    assert fleetctl("list-machines").stdout == (
        "MACHINE\t\tIP\t\tMETADATA\n11111111...\t10.0.0.1\tdisk=ssd,region=eu\n22222222...\t-\t\t-\n"
    )
    assert fleetctl("list-machines", "--full", "--fields=machine").stdout == f"MACHINE\n{'1' * 32}\n{'2' * 32}\n"


def test_list_machines_warns_of_a_certificate_that_was_not_renewed(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    for left_s, state in [(10 * 86400, ""), (5 * 86400, "will have"), (-5, "has")]:
        cluster.register(M1, msgspec.structs.replace(M2, certificate_expires_s=time.time() + left_s))
        result = fleetctl("list-machines", "--fields=machine,certificate")
        assert result.stderr.startswith(f"machine 22222222... {state} no valid certificate from 20" if state else "")
        assert ("it has not been renewed" in result.stderr) is bool(state)
        assert result.stdout.splitlines()[1].split() == ["11111111...", "-"]
        assert "UTC" in result.stdout.splitlines()[2]


def test_list_machines_warns_of_a_parked_machine_on_stderr(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    plain = fleetctl("list-machines")
    assert plain.stderr == ""
    cluster.register(M1, msgspec.structs.replace(M2, mode=MachineMode.PARKED))
    result = fleetctl("list-machines")
    assert result.stdout == plain.stdout
    assert result.stderr.startswith("machine 22222222... is parked: its fleetd was stopped; ")
    assert "`fleetctl forget-machine 22222222`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_forget_machine_accepts_a_prefix_of_the_id(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.register(M1, msgspec.structs.replace(M2, mode=MachineMode.PARKED))
    result = fleetctl("forget-machine", "1111", "2222", "3333")
    assert result.status == 1
    assert result.stdout == "Forgot machine 22222222...\n"
    refused, unknown = result.stderr.splitlines()
    assert refused.startswith("Error forgetting machine 11111111.../10.0.0.1: Error 409: machine is not parked")
    assert unknown == "3333 is not a machine of the cluster"
    assert cluster.machines == [M1]
    assert fleetctl("forget-machine").stderr == "No machines given\n"


@pytest.mark.covers("3.9.2")
@pytest.mark.parametrize("command", ["list-units", "list-unit-files", "list-machines"])
@pytest.mark.parametrize("unknown", ["Hash", "", "\x1b"])
def test_fields_are_checked_before_the_api_is_asked(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, unknown: str
) -> None:
    result = fleetctl(command, "--fields=")
    assert (result.status, result.stdout, result.stderr) == (1, "", "Must define output format\n")
    known = "ip" if command == "list-machines" else "unit"
    result = fleetctl(command, f"--fields={known},{unknown}")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(f'Invalid key in output format: "{unknown.replace(chr(27), chr(92) + "x1b")}"')
    assert cluster.requests == []


@pytest.mark.covers("3.9.2")
@pytest.mark.parametrize(
    ("command", "header"),
    [
        ("list-units", "UNIT\tMACHINE\tACTIVE\tSUB\n"),
        ("list-unit-files", "UNIT\tHASH\tDSTATE\tSTATE\tTARGET\n"),
        ("list-machines", "MACHINE\tIP\tMETADATA\n"),
    ],
)
def test_the_list_of_an_empty_cluster_is_its_header(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, header: str
) -> None:
    cluster.register()
    assert fleetctl(command).stdout == header
    assert fleetctl(command, "--no-legend").stdout == ""


@pytest.mark.covers("3.4.7")
def test_every_page_of_a_list_is_fetched(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    names = [f"web@{number}.service" for number in range(7)]
    for name in names:
        cluster.add(name)
    assert fleetctl("list-unit-files", "--no-legend", "--fields=unit").stdout.splitlines() == names
    assert cluster.requests.count(("GET", "/fleet/v1/units")) == 4


@pytest.mark.covers("3.9.20")
@pytest.mark.parametrize(("length", "tabs"), [(0, 2), (1, 2), (7, 2), (8, 1), (14, 1), (15, 1)])
def test_columns_are_aligned_at_the_next_tab_stop(length: int, tabs: int) -> None:
    longest = "x" * 15
    assert render_table([["a" * length, "-"], [longest, "-"]]) == f"{'a' * length}{chr(9) * tabs}-\n{longest}\t-"


@pytest.mark.covers("H.6")
def test_control_characters_in_lists_are_escaped(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", "[Unit]\nDescription=a\x1b[2Jb\n")
    assert fleetctl("list-unit-files", "--no-legend", "--fields=desc").stdout == "a\\x1b[2Jb\n"


@pytest.mark.covers("1.5.5", "3.5.1", "3.8.9", "3.8.36")
def test_cat_prints_the_stored_unit_file(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", "# comment\n" + HELLO)
    result = fleetctl("cat", "some/where/web")
    assert (result.status, result.stdout, result.stderr) == (0, HELLO, "")


@pytest.mark.covers("3.4.9", "3.5.3", "3.8.36")
def test_cat_takes_exactly_one_unit_that_exists(fleetctl: Fleetctl) -> None:
    for arguments in ([], ["a", "b"]):
        result = fleetctl("cat", *arguments)
        assert (result.status, result.stdout, result.stderr) == (1, "", "One unit file must be provided\n")
    result = fleetctl("cat", "web")
    assert (result.status, result.stdout, result.stderr) == (1, "", "Unit web.service not found\n")


@pytest.mark.parametrize(
    ("command", "path"), [("list-units", "state"), ("list-unit-files", "units"), ("list-machines", "machines")]
)
def test_lists_request_large_pages_and_accept_small_ones(
    fleetctl: Fleetctl, filled_cluster: ScriptedCluster, command: str, path: str
) -> None:
    filled_cluster.register(M1, M2, Machine("3" * 32))
    result = fleetctl("--debug", command, "--no-legend")
    asked = [line.partition(f"/{path}?")[2] for line in result.stderr.splitlines() if f"/fleet/v1/{path}?" in line]
    assert asked[0] == "limit=10000"
    assert len(asked) > 1
    assert all(question.startswith("limit=10000&nextPageToken=") for question in asked[1:])
    assert len(result.stdout.splitlines()) == {"state": 3, "units": 4, "machines": 3}[path]


# JSON


def test_list_units_as_json_is_never_shortened(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("hello.service", HELLO, target="launched")
    rows = json.loads(fleetctl("list-units", "--output=json").stdout)
    assert rows == [
        {
            "unit": "hello.service",
            "machine": M1.id,
            "ip": "10.0.0.1",
            "load": "loaded",
            "active": "active",
            "sub": "running",
            "hash": HASH,
            "announces": [],
        }
    ]


def test_list_unit_files_as_json_has_null_for_missing_values(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("all.service", GLOBAL, target="launched")
    rows = json.loads(fleetctl("list-unit-files", "--output", "json").stdout)
    assert rows == [
        {
            "unit": "all.service",
            "hash": UnitFile.parse(GLOBAL).hash,
            "dstate": "launched",
            "state": None,
            "target": None,
            "ip": None,
            "global": True,
            "desc": None,
            "reason": None,
            "by": None,
            "at": None,
        }
    ]


def test_list_machines_as_json_has_metadata_as_an_object(fleetctl: Fleetctl) -> None:
    rows = json.loads(fleetctl("list-machines", "--output=json").stdout)
    nothing = dict.fromkeys(("mode", "cordon", "drain", "reboot", "reboot_required", "certificate"))
    assert rows == [
        {
            "machine": M1.id,
            "ip": "10.0.0.1",
            "metadata": {"region": "eu", "disk": "ssd"},
            **nothing,
        },
        {"machine": M2.id, "ip": None, "metadata": {}, **nothing},
    ]


def test_json_fields_can_be_chosen_and_lists_may_be_empty(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    assert json.loads(fleetctl("list-machines", "--output=json", "--fields=ip").stdout) == [
        {"ip": "10.0.0.1"},
        {"ip": None},
    ]
    assert json.loads(fleetctl("list-units", "--output=json").stdout) == []
    result = fleetctl("list-unit-files", "--output=json", "--fields=tmachine")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith('Invalid key in output format: "tmachine" (there are at, by, desc, dstate,')


def test_an_unknown_output_format_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("list-units", "--output=yaml")
    assert result.status == 2
    assert 'invalid argument for "--output" flag' in result.stderr
    assert cluster.requests == []
