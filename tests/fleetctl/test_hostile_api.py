"""Arbitrary responses in place of the API's: fleetctl exits with 0 or 1, a message, and no control characters."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster, always

COMMANDS = [
    "list-units",
    "list-unit-files",
    "list-machines",
    "cat web",
    "stop --no-block web",
    "destroy web",
    "list-units --output=json",
]
TEXT = st.text(max_size=8) | st.sampled_from(
    ["web.service", "\x1b[2J\x07", "launched", "m1", "a\nb", "\u202e", "x" * 2000]
)
NUMBERS = st.integers() | st.sampled_from([-1, 2**64, 10**40]) | st.floats(allow_nan=False, allow_infinity=False)
KEYS = re.findall(
    r"\w+",
    """units states machines options name value section desiredState currentState machineID systemdActiveState metadata
    primaryIP id allocations machine target generation reason cause kind waits rejections error message code since lost
    nextPageToken""",
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)
STRUCTURED = ("units", "states", "machines", "options", "allocations", "cause", "rejections", "nextPageToken")
FIELDS = {key: TEXT for key in KEYS if key not in STRUCTURED}
ITEM = st.fixed_dictionaries(
    {},
    optional={
        **FIELDS,
        "options": st.lists(st.fixed_dictionaries({}, optional=FIELDS), max_size=2),
        "cause": st.fixed_dictionaries({"kind": TEXT, "waits": TEXT}),
    },
)
PAGE = st.dictionaries(st.sampled_from(["units", "states", "machines"]), st.lists(ITEM, max_size=3))
DEEP = st.sampled_from([b"[" * 100_000, b'{"units":' * 100_000, b'{"error":' * 100_000])
BODIES = st.binary(max_size=30) | DEEP | (JSON | PAGE | ITEM).map(lambda value: json.dumps(value).encode())


@pytest.mark.covers("H.6")
@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from(COMMANDS),
    status=st.sampled_from([200, 200, 200, 201, 204, 301, 400, 404, 500, 503]),
    kind=st.sampled_from(["application/json", "text/html", ""]),
    body=BODIES,
)
def test_no_response_causes_a_traceback_or_writes_control_characters(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, status: int, kind: str, body: bytes
) -> None:
    cluster.intercept = always(status, body, kind)
    result = fleetctl("--request-timeout=5", *command.split())
    assert result.status in (0, 1)
    assert "Traceback" not in result.stderr
    if command != "cat web":  # prints a file to the byte
        assert not {"\x1b", "\x07"} & set(result.stdout + result.stderr)


# What a machine says of itself, of its units and their files, in answers that are right otherwise.
HOSTILE = "\x1b[2J\x07\x9b2J"
EVENT = {"kind": "state", **dict.fromkeys(("unit", "machine", "active", "sub", "error", "by", "detail"), HOSTILE)}
PLACE = {"machine": HOSTILE, "address": HOSTILE, "message": HOSTILE}
EXPLANATION = {
    "revision": 1,
    "unit": HOSTILE,
    "reason": HOSTILE,
    "places": [PLACE],
    "whyNot": [PLACE],
    "history": [EVENT],
}
STAYS = [{"unit": HOSTILE, "reason": HOSTILE, "state": HOSTILE, "machine": HOSTILE, "address": HOSTILE}]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("explain web", EXPLANATION),
        ("explain --output=json web", EXPLANATION),
        ("history web", EVENT),
        ("events --output=json", EVENT),
        ("rebalance --plan", {"revision": 1, "machines": 1, "units": 1, "stays": STAYS}),
        ("rebalance --plan --output=json", {"revision": 1, "machines": 1, "units": 1, "stays": STAYS}),
        ("list-units --output=json", {"states": [{"name": "web.service", "machineID": HOSTILE}]}),
    ],
)
def test_no_text_from_machines_reaches_the_terminal_as_it_is(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, answer: object
) -> None:
    cluster.intercept = always(200, json.dumps(answer).encode() + b"\n", "application/json")
    result = fleetctl(*command.split())
    assert "2J" in result.stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(result.stdout + result.stderr)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"units":' * 100_000])
def test_deeply_nested_json_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster, body: bytes) -> None:
    cluster.intercept = always(200, body)
    result = fleetctl("list-units")
    assert (result.status, result.stdout) == (1, "")
    assert "does not answer" in result.stderr


def test_a_list_with_a_unit_without_a_name_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.intercept = always(200, b'{"units":[{"desiredState":"launched"}]}')
    result = fleetctl("list-unit-files")
    assert (result.status, result.stdout) == (1, "")
    assert "lists a unit without a name: check --endpoint" in result.stderr
