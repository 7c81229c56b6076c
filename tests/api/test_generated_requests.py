"""Requests made from the API's own description, well-formed and not, to the API in a process of its own: no answer is a
mistake of ours, and each is of the shape that is published.
"""

from collections.abc import Iterator

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

from tests.api.openapi import render_openapi
from tests.api.served_process import ServedProcess, served_process
from tests.examples import examples

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = {
    result.ok().label: result.ok() for result in schemathesis.openapi.from_dict(render_openapi()).get_all_operations()
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with served_process(tmp_path_factory.mktemp("served"), over_tcp=True) as process:
        yield process


def test_every_operation_that_is_described_is_tried() -> None:
    assert sorted(OPERATIONS) == [
        "DELETE /fleet/v1/units/{unitName}",
        "DELETE /fleet/v2/machines/{machine}",
        "GET /fleet/v1/machines",
        "GET /fleet/v1/state",
        "GET /fleet/v1/state/{unitName}",
        "GET /fleet/v1/units",
        "GET /fleet/v1/units/{unitName}",
        "GET /fleet/v2/units",
        "PATCH /fleet/v1/machines",
        "POST /fleet/v2/reports",
        "POST /fleet/v2/restart",
        "POST /fleet/v2/units",
        "PUT /fleet/v1/units/{unitName}",
    ]


def is_any_text_right(label: str) -> bool:
    """Whether a request takes nothing but texts: then none can be malformed."""
    return label.startswith(("GET", "DELETE")) and label.endswith(("{unitName}", "{machine}", "v2/units"))


RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
MODES = [
    (label, mode) for label in sorted(OPERATIONS) for mode in (RIGHT, WRONG)[: 1 if is_any_text_right(label) else 2]
]


@pytest.mark.parametrize(("label", "mode"), MODES)
def test_generated_requests_are_answered_as_described(api: ServedProcess, label: str, mode: GenerationMode) -> None:
    @settings(max_examples=examples(15), phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
        case.call_and_validate(base_url=f"http://{api.path}", checks=CHECKS)

    check()
    assert "Traceback" not in api.log
