"""services: what is listed, against a cluster whose agents announce; and what is refused."""

import json
import time
from pathlib import Path

import pytest

from fleetd.api import schema
from fleetd.api.http import Response, render_json
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster
from tests.fleetctl.small_cluster import SmallCluster

UNIT = "[Service]\nExecStart=/bin/daemon\n[X-Fleet]\nAnnounce=web 8080\nAnnounce=web 8081/udp\n"
PATIENCE_S = 60.0


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    path = tmp_path / "app.service"
    path.write_text(UNIT)
    return path


def test_what_a_started_unit_announces_is_listed(
    small_fleetctl: Fleetctl, small_cluster: SmallCluster, unit: Path
) -> None:
    assert small_fleetctl("services").stdout == "SERVICE\tUNIT\tMACHINE\tADDRESS\tPORT\tSTATE\n"
    assert small_fleetctl("start", str(unit)).status == 0
    deadline_s = time.monotonic() + PATIENCE_S
    while small_fleetctl("services", "web").status and time.monotonic() < deadline_s:
        time.sleep(0.05)
    shown = small_fleetctl("services", "--fields=service,unit,port,state", "--no-legend", "web")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["web", "app.service", "8080/tcp", "announced"],
        ["web", "app.service", "8081/udp", "announced"],
    ]
    found = json.loads(small_fleetctl("services", "--output=json").stdout)
    assert [(each["service"], each["port"], each["protocol"], each["failing"]) for each in found] == [
        ("web", 8080, "tcp", None),
        ("web", 8081, "udp", None),
    ]
    assert found[0]["address"].startswith("10.0.0.")
    shown = small_fleetctl("list-units", "--no-legend", "--fields=unit,announces")
    assert shown.stdout.split() == ["app.service", "web:8080,web:8081/udp"]
    (row,) = json.loads(small_fleetctl("list-units", "--output=json").stdout)
    assert row["announces"][0] == {"service": "web", "port": 8080, "protocol": "tcp", "failing": None}
    assert small_fleetctl("__complete", "--", "--endpoint", small_cluster.unix, "services", "").stdout.split() == [
        "web"
    ]


def test_why_a_unit_is_not_announced_is_explained(
    small_fleetctl: Fleetctl, small_cluster: SmallCluster, unit: Path
) -> None:
    unit.write_text(UNIT + "Check=tcp:8080\n")
    small_cluster.prober.failures["tcp:8080"] = "connection refused"
    assert small_fleetctl("start", str(unit)).status == 0
    deadline_s = time.monotonic() + PATIENCE_S
    words = "no: its check fails: connection refused"
    while words not in small_fleetctl("explain", "app").stdout and time.monotonic() < deadline_s:
        time.sleep(0.05)
    lines = small_fleetctl("explain", "app").stdout.splitlines()
    assert lines[1].startswith("  announced  ")
    assert lines[1].endswith(words)
    while small_fleetctl("services", "web").status and time.monotonic() < deadline_s:  # written apart from the state
        time.sleep(0.05)
    shown = small_fleetctl("services", "--no-legend", "web").stdout.splitlines()
    assert len(shown) == 2
    assert all("its check fails: connection refused" in line for line in shown)
    shown = small_fleetctl("list-units", "--no-legend", "--fields=announces").stdout.split()
    assert shown == ["!web:8080,!web:8081/udp"]
    result = small_fleetctl("list-units", "-w", "--fields=unit,announces")
    assert (result.status, "announces is not followed" in result.stderr) == (1, True)


def test_a_name_that_nothing_announces_is_a_failure(small_fleetctl: Fleetctl, small_cluster: SmallCluster) -> None:
    result = small_fleetctl("services", "web")
    assert result.status == 1
    assert result.stderr.startswith("No unit that is active announces web: ")
    result = small_fleetctl("services", "Web")
    assert result.status == 1
    assert '"Web" is no label of a DNS name' in result.stderr


@pytest.fixture
def announced(cluster: ScriptedCluster) -> None:
    """web on two machines, told in another order than that of their units, and dns."""
    found = (
        schema.Service("dns", "dns.service", "m1", "10.0.0.1", 53, "udp"),
        schema.Service("web", "web@2.service", "m1", "10.0.0.1", 80, "tcp"),
        schema.Service("web", "web@1.service", "m2", "10.0.0.2", 80, "tcp", failing="its check fails"),
    )

    def answer(method: str, path: str) -> Response | None:
        if not path.startswith("/fleet/v2/services"):
            return None
        name = path.removeprefix("/fleet/v2/services").lstrip("/")
        return render_json(schema.Services(tuple(each for each in found if name in ("", each.service)), 7))

    cluster.intercept = answer


@pytest.mark.usefixtures("announced")
@pytest.mark.parametrize(
    ("names", "units", "missing"),
    [
        ((), ["dns", "web@1", "web@2"], ""),
        (("web",), ["web@1", "web@2"], ""),
        (("web", "web", "d*"), ["dns", "web@1", "web@2"], ""),
        (("web", "wep"), ["web@1", "web@2"], "wep: fleetctl status"),
        (("wep",), [], "Did you mean this?\n\tweb"),
        (("x*",), [], "announces x*: "),
    ],
)
def test_names_and_patterns_select_what_is_listed(
    fleetctl: Fleetctl, names: tuple[str, ...], units: list[str], missing: str
) -> None:
    result = fleetctl("services", "--no-legend", "--fields=unit", *names)
    assert result.stdout.split() == [f"{unit}.service" for unit in units]
    assert result.status == bool(missing)
    assert missing in result.stderr


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("Announce=Web 80", '"Web" is no label of a DNS name'),
        ("Announce=web http", '"http" is no port'),
        ("Announce=80\nCheck=curl localhost", "is no check: write http:PORT/PATH"),
        ("Check=tcp:80", "Check has no effect without Announce"),
    ],
)
def test_what_cannot_be_announced_is_refused_by_verify_and_by_the_cluster(
    small_fleetctl: Fleetctl, small_cluster: SmallCluster, tmp_path: Path, line: str, cause: str
) -> None:
    path = tmp_path / "bad.service"
    path.write_text(f"[Service]\nExecStart=/bin/true\n[X-Fleet]\n{line}\n")
    for command in ("verify", "start"):
        result = small_fleetctl(command, str(path))
        assert result.status == 1
        assert cause in result.stdout + result.stderr
