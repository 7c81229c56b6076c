"""The OpenAPI description against the daemon: requests generated from it, valid and invalid, go to an API in a process
of its own. Each answer has a described status and shape, and none is a server error."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fleetd.api import schema
from fleetd.api.routes import OPENAPI, Api
from fleetd.api.v2.openapi import render_openapi
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Store
from tests.api.served_process import ServedProcess, served_process
from tests.examples import examples

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
DESCRIPTION = render_openapi(Api(Registry(cast(Store, None))).routes)
OPERATIONS = {
    result.ok().label: result.ok() for result in schemathesis.openapi.from_dict(DESCRIPTION).get_all_operations()
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with served_process(tmp_path_factory.mktemp("served"), over_tcp=True) as process:
        yield process


def test_the_daemon_serves_the_description(api: ServedProcess) -> None:
    with urllib.request.urlopen(f"http://{api.path}{OPENAPI}", timeout=60) as answer:
        assert answer.headers["Content-Type"] == schema.JSON_TYPE
        assert json.load(answer) == json.loads(json.dumps(DESCRIPTION))


def test_a_daemon_imports_the_description_only_when_asked() -> None:
    code = "import sys, fleetd.process.node, fleetd.api.server, fleetd.api.routes; print(MODULE in sys.modules)"
    code = code.replace("MODULE", repr("fleetd.api.v2.openapi"))
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


ROUTES = [
    "DELETE /fleet/v1/units/{unitName}",
    "DELETE /fleet/v2/lock-sessions/{session}",
    "DELETE /fleet/v2/locks/{lock}",
    "DELETE /fleet/v2/machines/{machine}",
    "DELETE /fleet/v2/machines/{machine}/cordon",
    "DELETE /fleet/v2/machines/{machine}/drain",
    "DELETE /fleet/v2/machines/{machine}/reboot",
    "DELETE /fleet/v2/secrets/{secret}",
    "GET /fleet/v1/discovery",
    "GET /fleet/v1/machines",
    "GET /fleet/v1/state",
    "GET /fleet/v1/state/{unitName}",
    "GET /fleet/v1/units",
    "GET /fleet/v1/units/{unitName}",
    "GET /fleet/v2/authorities",
    "GET /fleet/v2/authority-keys",
    "GET /fleet/v2/cluster",
    "GET /fleet/v2/events",
    "GET /fleet/v2/explain/{unitName}",
    "GET /fleet/v2/host-keys",
    "GET /fleet/v2/http_sd",
    "GET /fleet/v2/journal",
    "GET /fleet/v2/locks",
    "GET /fleet/v2/machines/{machine}/drain",
    "GET /fleet/v2/openapi.json",
    "GET /fleet/v2/reboots",
    "GET /fleet/v2/rollouts",
    "GET /fleet/v2/secrets",
    "GET /fleet/v2/services",
    "GET /fleet/v2/services/{service}",
    "GET /fleet/v2/sets",
    "GET /fleet/v2/settings",
    "GET /fleet/v2/status",
    "GET /fleet/v2/units",
    "GET /fleet/v2/units/{unitName}",
    "GET /fleet/v2/units/{unitName}/move",
    "GET /fleet/v2/versions/{group}",
    "GET /fleet/v2/whoami",
    "GET /health",
    "GET /metrics",
    "GET /v1/agent/self",
    "GET /v1/catalog/service/{service}",
    "GET /v1/catalog/services",
    "GET /v1/health/service/{service}",
    "PATCH /fleet/v1/machines",
    "PATCH /fleet/v2/settings",
    "POST /fleet/v2/apply",
    "POST /fleet/v2/authorities",
    "POST /fleet/v2/images",
    "POST /fleet/v2/join",
    "POST /fleet/v2/leave",
    "POST /fleet/v2/locks/{lock}",
    "POST /fleet/v2/login",
    "POST /fleet/v2/machine-tokens",
    "POST /fleet/v2/machines/{machine}/remove",
    "POST /fleet/v2/plan",
    "POST /fleet/v2/renew",
    "POST /fleet/v2/reports",
    "POST /fleet/v2/restart",
    "POST /fleet/v2/revocations",
    "POST /fleet/v2/rollouts/{group}",
    "POST /fleet/v2/scale",
    "POST /fleet/v2/units",
    "PUT /fleet/v1/units/{unitName}",
    "PUT /fleet/v2/lock-sessions/{session}",
    "PUT /fleet/v2/machines/{machine}/cordon",
    "PUT /fleet/v2/machines/{machine}/drain",
    "PUT /fleet/v2/machines/{machine}/reboot",
    "PUT /fleet/v2/secrets/{secret}",
    "PUT /fleet/v2/units/{unitName}/move",
]


def test_every_route_is_described_and_tested() -> None:
    assert sorted(OPERATIONS) == ROUTES


def takes_only_text(label: str) -> bool:
    """True for a route without a body and with text parameters alone."""
    return label.startswith(
        ("GET", "DELETE", "POST /fleet/v2/leave", "POST /fleet/v2/authorities", "PUT /fleet/v2/lock-sessions")
    ) and not label.endswith(("v1/machines", "v1/state", "v1/units"))


# Answers that do not end; test_events.py and tests/locks have their requests.
STREAMS = ("GET /fleet/v2/events", "POST /fleet/v2/locks/{lock}")
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
MODES = [
    (label, mode)
    for label in sorted(OPERATIONS)
    for mode in (RIGHT, WRONG)[: 1 if takes_only_text(label) else 2]
    if label not in STREAMS
]


@pytest.mark.covers("H.5")
@pytest.mark.parametrize(("label", "mode"), MODES)
def test_generated_requests_are_answered_as_described(api: ServedProcess, label: str, mode: GenerationMode) -> None:
    @settings(max_examples=examples(15), phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
        if case.query and case.query.get("index"):
            case.query["wait"] = "1ms"  # for a change after that index, which does not come here
        case.call_and_validate(base_url=f"http://{api.path}", checks=CHECKS)

    check()
    assert "Traceback" not in api.log
