"""What a changed unit file needs of a running unit: nothing, a reload, or a restart."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.content import Content, DropIn
from fleetd.model.content_change import Impact, effect, impact
from fleetd.model.group import UpdateAction

BEFORE = "[Unit]\nDescription=web\nAfter=a.service\n\n[Service]\nExecStart=/bin/web\nMemoryMax=10M\n"


@pytest.mark.parametrize(
    ("change", "kind", "because"),
    [
        (("", ""), "none", "nothing that systemd acts on changed"),
        (("[Unit]", "# a remark\n[Unit]"), "none", "nothing that systemd acts on changed"),
        (("=web\n", "=the web\nDocumentation=man:web\n"), "none", "nothing that systemd acts on changed"),
        (("[Service]", "[X-Fleet]\nGlobal=true\n[Service]"), "none", "nothing that systemd acts on changed"),
        (("[Service]", "[Install]\nWantedBy=x.target\n[Service]\nX-Note=x"), "none", "nothing that systemd acts on"),
        (("10M", "20M"), "reload", "MemoryMax= changed"),
        (("MemoryMax=10M\n", ""), "reload", "MemoryMax= changed"),
        (("10M", "10M\nRestart=always\nRestartSec=1"), "reload", "Restart=, RestartSec= changed"),
        (("[Service]", "StartLimitBurst=9\nOnFailure=x.service\n[Service]"), "reload", "StartLimitBurst=, OnFailure="),
        (("/bin/web", "/bin/new"), "restart", "ExecStart= changed"),
        (("/bin/web\nMemoryMax=10M", "/bin/new\nMemoryMax=20M"), "restart", "ExecStart= changed"),
        (("After=a", "After=b"), "restart", "After= changed"),
        (("[Service]", "[Service]\nMemoryDenyWriteExecute=yes"), "restart", "MemoryDenyWriteExecute= changed"),
        (("[Service]", "MemoryMax=1M\n[Service]"), "restart", "MemoryMax= changed"),  # has no meaning in [Unit]
        (("[Unit]", "[Unit] x"), "restart", "its content cannot be compared: "),
        (
            ("/bin/web", "/bin/web\n" + "\n".join(f"Environment=A{number}=1\nZ{number}=1" for number in range(9))),
            "restart",
            "Environment=, Z0=, Z1=, Z2=, Z3=, … changed",
        ),
    ],
)
def test_a_change_needs_the_least_that_applies_it(change: tuple[str, str], kind: str, because: str) -> None:
    before, after = Content(BEFORE), Content(BEFORE.replace(*change))
    found, why = impact(before, after)
    assert found == Impact(kind)
    assert why.startswith(because)
    assert impact(after, before)[0] == Impact(kind)


LIMITED = DropIn("b.conf", "[Service]\nMemoryMax=20M\n")


@pytest.mark.parametrize(
    ("before", "after", "kind", "because"),
    [
        ((), (LIMITED,), "reload", "MemoryMax= changed"),
        ((LIMITED,), (DropIn("b.conf", ""),), "reload", "MemoryMax= changed"),
        ((), (DropIn("b.conf", "[Service]\nExecStart=\nExecStart=/bin/new\n"),), "restart", "ExecStart= changed"),
        ((), (DropIn("b.conf", "[Service]\nEnvironment=A=1\n"), LIMITED), "restart", "Environment= changed"),
        ((), (DropIn("b.conf", ""),), "none", "nothing that systemd acts on changed"),
        ((LIMITED,), (DropIn("a.conf", LIMITED.text),), "none", "nothing that systemd acts on changed"),
        ((LIMITED,), (DropIn("a.conf", "[Unit]\nDescription=x\n"), LIMITED), "none", "nothing that systemd acts on"),
        ((), (DropIn("b.conf", "[X-Fleet]\nMachineID=m1\n"),), "none", "nothing that systemd acts on changed"),
        ((), (DropIn("b.conf", "[Service] x\n"),), "restart", "its content cannot be compared: "),
        # Which of the two counts depends on the names alone.
        (
            (DropIn("a.conf", "[Service]\nUser=a\n"), DropIn("b.conf", "[Service]\nUser=b\n")),
            (DropIn("b.conf", "[Service]\nUser=b\n"), DropIn("c.conf", "[Service]\nUser=a\n")),
            "restart",
            "User= changed",
        ),
        # A reset of one section's list leaves what follows it, and needs what is before it.
        (
            (DropIn("a.conf", "[Service]\nEnvironment=\nEnvironment=A=1\n"),),
            (DropIn("a.conf", "[Service]\nEnvironment=A=1\nEnvironment=\n"),),
            "restart",
            "Environment= changed",
        ),
    ],
)
def test_drop_ins_count_as_systemd_reads_them(
    before: tuple[DropIn, ...], after: tuple[DropIn, ...], kind: str, because: str
) -> None:
    old, new = Content(BEFORE, before), Content(BEFORE, after)
    found, why = impact(old, new)
    assert found == Impact(kind)
    assert why.startswith(because)
    assert impact(new, old)[0] == Impact(kind)


def test_an_option_may_move_between_the_unit_file_and_a_drop_in_behind_it() -> None:
    moved = Content(BEFORE.replace("MemoryMax=10M\n", ""), (DropIn("a.conf", "[Service]\nMemoryMax=10M\n"),))
    assert impact(Content(BEFORE), moved)[0] is Impact.NONE


SECTIONS = st.lists(
    st.sampled_from(("Environment=A=1", "Environment=", "User=a", "MemoryMax=1M", "MemoryMax=", "ExecStop=/x", "X-a=1"))
).map(lambda lines: "[Service]\n" + "".join(f"{line}\n" for line in lines))
CONTENTS = st.builds(
    lambda text, texts: Content(text, tuple(DropIn(f"{at}.conf", each) for at, each in enumerate(texts))),
    SECTIONS,
    st.lists(SECTIONS, max_size=3),
)


def in_force(content: Content) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What systemd makes of these options: a list grows until it is reset, of other options the last counts."""
    values: dict[str, list[str]] = {"Environment": [], "ExecStop": []}
    last = {"User": "", "MemoryMax": ""}
    for option in content.options():
        if option.name in values:
            values[option.name] = [*values[option.name], option.value] if option.value else []
        elif option.name in last:
            last[option.name] = option.value
    return values, last


@given(CONTENTS, CONTENTS)
def test_nothing_that_systemd_would_see_differently_is_called_none(one: Content, other: Content) -> None:
    (before, limits), (after, new_limits) = in_force(one), in_force(other)
    kind, _ = impact(one, other)
    if (before, limits) != (after, new_limits):
        assert kind is not Impact.NONE
    if before["Environment"] != after["Environment"] or limits["User"] != new_limits["User"]:
        assert kind is Impact.RESTART


def test_the_order_of_options_matters_only_within_a_section() -> None:
    one = "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n"
    other = "[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n[Unit]\nAfter=a.service\n"
    swapped = "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/b\nExecStart=/bin/a\n"
    assert impact(Content(one), Content(other))[0] is Impact.NONE
    assert impact(Content(one), Content(swapped)) == (Impact.RESTART, "ExecStart= changed")


def test_a_large_file_is_compared_quickly() -> None:
    one = "[Service]\n" + "".join(f"Environment=A{number}=1\n" for number in range(10_000))
    began_s = time.process_time()
    assert impact(Content(one), Content(one.replace("=1", "=2")))[0] is Impact.RESTART
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("action", "kind", "because"),
    [
        ("auto", "reload", "MemoryMax= changed"),
        ("restart", "restart", "UpdateAction=restart"),
        ("reload", "reload", "UpdateAction=reload"),
        ("none", "none", "the new content counts from its next start (UpdateAction=none)"),
    ],
)
def test_an_update_action_decides_what_any_change_does(action: str, kind: str, because: str) -> None:
    after = Content(BEFORE.replace("10M", "20M"))
    assert effect(Content(BEFORE), after, UpdateAction(action)) == (Impact(kind), because)
    if action != "auto":
        remarked = Content(f"# a remark\n{BEFORE}")
        assert effect(Content(BEFORE), remarked, UpdateAction(action)) == (Impact(kind), because)
