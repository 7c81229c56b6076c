"""Options that are set in the text of a fleet.conf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.config.file_edit import option_names, set_options

NEW = {"role": "worker", "servers": "https://a:1"}
SET = "role=worker\nservers=https://a:1\n"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", SET),
        ("\n\n", SET),
        ("metadata=disk=ssd\n", f"metadata=disk=ssd\n{SET}"),
        ("metadata=disk=ssd", f"metadata=disk=ssd\n{SET}"),
        ("# role=server\nrole = server\n# end\n", "# role=server\nrole=worker\n# end\nservers=https://a:1\n"),
        ("Role=server\nrole=server\n", SET),
        ("servers=https://b:1,\\\n https://c:1\nverbosity=1\n", "servers=https://a:1\nverbosity=1\nrole=worker\n"),
        ("# a comment \\\nrole=server\n", f"# a comment \\\n{SET}"),
        ("verbosity=1\n\n[other]\nrole=server\n", f"verbosity=1\n{SET}\n[other]\nrole=server\n"),
        ("[other]\n", f"{SET}\n[other]\n"),
        ("# servers=\n\n# role=server\n# x", "# servers=\nservers=https://a:1\n\n# role=server\nrole=worker\n# x\n"),
    ],
)
def test_each_option_is_set_once_and_all_else_stays(text: str, after: str) -> None:
    assert set_options(text, NEW) == after
    assert set_options(after, NEW) == after


def test_the_options_are_those_outside_of_comments_and_sections() -> None:
    text = "# a=1\n;b=2\nC = 3\nd=4 \\\ne=5\n no option\n[s]\nf=6\n"
    assert option_names(text) == {"c", "d"}


@given(st.text("role=servs#;[]\\\n x"))
def test_they_are_set_whatever_there_was(text: str) -> None:
    after = set_options(text, NEW)
    assert {"role", "servers"} <= option_names(after)
    assert set_options(after, NEW) == after
