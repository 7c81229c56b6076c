"""The table of the act `services`: who has answered the requests of each two seconds."""

from contrib.demo.services import instance_of, render_answers
from contrib.testbed.requests import Requests


def test_the_table_shows_which_version_of_each_instance_has_answered_when() -> None:
    requests = Requests("127.0.0.1", 1)
    requests.answered = [(0.1, "Version 1, instance 1 on m1"), (0.2, "Version 1, instance 2 on m2")]
    requests.answered += [(2.5, "Version 2, instance 1 on m1")]
    requests.failures = [(3.0, "HTTP/1.0 503 Service Unavailable")]
    assert render_answers(requests).splitlines() == [
        " seconds  requests  failed  instance 1          instance 2",
        "     0–2         2       0  Version 1 on m1     Version 1 on m2",  # noqa: RUF001
        "     2–4         2       1  Version 2 on m1     –",  # noqa: RUF001
    ]


def test_an_answer_names_its_instance() -> None:
    assert instance_of("Version 1, instance 2 on m3") == "2"
    assert instance_of("something else") == ""
