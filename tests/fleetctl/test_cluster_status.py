"""`cluster status`, against what servers answer."""

import json
import time

import msgspec
import pytest

from fleetctl.cluster.status import describe_access, describe_authority, describe_store
from fleetd.api import schema
from fleetd.api.http import Response, render_json
from fleetd.model.timespan import render_moment
from fleetd.trust import x509
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

NOW_S = int(time.time())
AUTHORITY = schema.AuthorityReport(1, x509.make_authority(1, NOW_S).certificate, "m1", NOW_S, "/t/authority-1.key")
A, B, C = (schema.StoreMember(name, name * 32, (f"https://{name}:2379",), True, True) for name in "abc")
COPY = schema.StoreMember("b", "b" * 32, ("https://b:2379",), healthy=False, vote=False)
ILL = msgspec.structs.replace(C, healthy=False)
SERVER = schema.ClusterMachine("a" * 32, "10.0.0.1", "server", "2.0.0", "a", "https://10.0.0.1:7443", NOW_S + 2_000_000)
LEARNER = schema.ClusterMachine("b" * 32, "10.0.0.2", "server", "2.0.0", "b", "https://10.0.0.2:7443", NOW_S + 3600)
PLAIN = schema.ClusterMachine("c" * 32, "10.0.0.3", "server")
WORKER = schema.ClusterMachine("d" * 32, "10.0.0.4", "worker", certificate_expires=NOW_S + 2_000_000)
REPORT = schema.ClusterReport((AUTHORITY,), (A, COPY), (SERVER, LEARNER, PLAIN, WORKER))


def test_it_shows_the_authority_the_store_and_the_machines(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    def answer(method: str, path: str) -> Response | None:
        return render_json(REPORT) if path == "/fleet/v2/cluster" else None

    cluster.intercept = answer
    shown = fleetctl("cluster", "status")
    assert (shown.status, shown.stderr) == (
        0,
        f"warning: the certificate of bbbbbbbb.../10.0.0.2 expires on {render_moment(NOW_S + 3600)}: its log says why "
        "it is not renewed\n",
    )
    authority, store, access, *rows = shown.stdout.splitlines()
    assert authority.startswith("Authority: 1, until ")
    assert authority.endswith("; its key is in /t/authority-1.key here")
    assert store == "Store: etcd with 1 voting member, healthy; none may fail"
    assert access.startswith("Access: not enforced; these are neither servers nor workers, and reach the store: cccccc")
    assert [row.split()[:4] for row in rows] == [
        ["MACHINE", "IP", "ROLE", "ETCD"],
        ["aaaaaaaa...", "10.0.0.1", "server", "votes"],
        ["bbbbbbbb...", "10.0.0.2", "server", "copy"],
        ["cccccccc...", "10.0.0.3", "server", "client"],
        ["dddddddd...", "10.0.0.4", "worker", "-"],
    ]
    assert json.loads(fleetctl("cluster", "status", "--output=json").stdout) == json.loads(msgspec.json.encode(REPORT))


def test_against_a_fleetd_without_etcd_and_https_it_says_so(fleetctl: Fleetctl) -> None:
    shown = fleetctl("cluster", "status")
    assert shown.stdout.splitlines()[:2] == [
        "Authority: none, since no machine serves https (listen=https://:7443)",
        "Store: on this machine alone",
    ]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([A, B, C], "etcd with 3 voting members, healthy; 1 may fail"),
        ([A, B, ILL], f"etcd with 3 voting members, {'c' * 8} not healthy; none more may fail"),
        ([A, COPY], "etcd with 1 voting member, healthy; none may fail"),
        ([A, B], "etcd with 2 voting members, healthy; none may fail"),
        ([], "on this machine alone"),
    ],
)
def test_how_many_members_of_the_store_may_fail(members: list[schema.StoreMember], text: str) -> None:
    assert describe_store(members) == f"Store: {text}"


@pytest.mark.parametrize(
    ("machines", "text"),
    [
        ((SERVER, LEARNER, WORKER), "only servers reach the store"),
        ((PLAIN,), "every machine reaches the store, so root on one machine is root on all"),
        (
            (SERVER, PLAIN),
            "not enforced; these are neither servers nor workers, and reach the store: cccccccc.../10.0.0.3",
        ),
    ],
)
def test_whether_others_than_servers_reach_the_store(machines: tuple[schema.ClusterMachine, ...], text: str) -> None:
    assert describe_access(schema.ClusterReport((), (), machines)) == f"Access: {text}"


def test_the_last_authority_signs() -> None:
    text = describe_authority([AUTHORITY, msgspec.structs.replace(AUTHORITY, number=2, key_file="")])
    assert text.startswith("Authority: 2, until ")
    assert text.endswith("; its key is not in a file here; 1 former still trusted")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["status", "x"], "cluster status takes no arguments"),
        (["init", "--output=json"], "--output is for cluster status, not for cluster init"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(fleetctl: Fleetctl, arguments: list[str], text: str) -> None:
    refused = fleetctl("cluster", *arguments)
    assert (refused.status, text in refused.stderr) == (2, True)
