"""whoami, and what a person without a permission is told."""

import json

import pytest

from fleetd.api.http import Response, render_json
from fleetd.api.schema import Grant, WhoAmI
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

ANN = WhoAmI("ann", "uid:1000(ann)", ("web-team",), (Grant("operate", "web-*"), Grant("view", "*"), Grant("new", "*")))


@pytest.fixture
def by_ann(cluster: ScriptedCluster) -> None:
    def answer(method: str, path: str) -> Response | None:
        return render_json(ANN) if path == "/fleet/v2/whoami" else None

    cluster.intercept = answer


@pytest.mark.usefixtures("by_ann")
def test_it_says_who_one_is_and_what_one_may_do(fleetctl: Fleetctl) -> None:
    assert fleetctl("whoami").stdout.splitlines() == [
        "ann (uid:1000(ann))",
        "groups: web-team",
        "may start, stop, restart, scale, move and drain what exists: web-*",
        "may see everything",
        "may new",
    ]
    assert json.loads(fleetctl("whoami", "--output=json").stdout) == {
        "name": "ann",
        "identity": "uid:1000(ann)",
        "groups": ["web-team"],
        "grants": [
            {"permission": "operate", "pattern": "web-*"},
            {"permission": "view", "pattern": "*"},
            {"permission": "new", "pattern": "*"},
        ],
    }


def test_whoever_owns_the_daemon_may_do_everything(fleetctl: Fleetctl) -> None:
    assert fleetctl("whoami").stdout.splitlines()[-1] == "may do everything"
