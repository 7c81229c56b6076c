"""Who makes a request, and for which units they may."""

import pytest

from fleetd.model.actor import Actor, claimed_name
from fleetd.model.permission import EVERY_RIGHT, Permission, parse_rights
from fleetd.model.unit_option import UnitOption

ANN = Actor("ann", rights=parse_rights("operate:web-*,submit:log-*"))


@pytest.mark.parametrize(
    ("permission", "names", "lacks"),
    [
        (Permission.VIEW, ("db.service",), ""),
        (Permission.OPERATE, ("web-1.service", "log-1.service"), ""),
        (Permission.OPERATE, ("web-1.service", "db.service"), "operate:db.service, which the group fleet-operate"),
        (Permission.SUBMIT, ("web-1.service",), "submit:web-1.service, which the group fleet of"),
        (Permission.OPERATE, ("*",), "operate, which the group fleet-operate of"),
        (Permission.ADMIN, ("web-1.service",), "admin, which the group fleet of"),
    ],
)
def test_the_first_unit_that_one_may_not_touch_is_named_with_the_remedy(permission, names, lacks):
    refusal = ANN.refuse(permission, names)
    assert refusal.startswith(f"ann may not do this: it needs the permission {lacks}" if lacks else "")
    assert bool(refusal) is bool(lacks)


@pytest.mark.parametrize(
    ("section", "option", "value", "is_refused"),
    [
        ("X-Fleet", "Replaces", "log-old.service", False),
        ("X-Fleet", "Replaces", "log-[ab]*", False),
        ("X-Fleet", "Replaces", "lo*", True),
        ("X-Fleet", "Replaces", "db.service", True),
        ("X-Fleet", "Lock", "log-lock", False),
        ("X-Fleet", "Lock", "db", True),
        ("Install", "Alias", "log-2.service", False),
        ("Install", "Alias", "front.service", True),
        ("Install", "WantedBy", "multi-user.target", False),
        ("Install", "RequiredBy", "db.service", True),
    ],
)
def test_what_a_unit_names_has_to_be_its_authors_too(section, option, value, is_refused):
    options = [UnitOption("Service", "ExecStart", "/bin/true"), UnitOption(section, option, value)]
    refusal = ANN.refuse_content("log-1.service", options)
    assert refusal.startswith(f"{option}={value}: ann may not do this" if is_refused else "")
    assert bool(refusal) is is_refused
    assert Actor("root", rights=EVERY_RIGHT).refuse_content("log-1.service", options) == ""


@pytest.mark.parametrize(
    ("rights", "unit", "announced", "is_refused"),
    [
        ("submit:log-*", "log-1.service", "80", False),  # the unit's own name
        ("submit:log-*", "log-1.service", "log-all 80", False),
        ("submit:log-*", "log-1.service", "db 5432", True),
        ("submit:log-*", "log-1.service", "log 80", True),
        ("submit:log-*", "log-@.service", "log-%i 80", False),
        ("submit:log-*", "log-@.service", "%i 80", True),
        ("submit:log-*", "log-@db.service", "%i 80", True),
        ("submit:log-*.service", "log-1.service", "80", False),
        ("submit:web@*", "web@1.service", "80", False),
        ("submit:web@test*", "web@test1.service", "80", True),  # others answer to the name of the template
    ],
)
def test_a_name_that_a_unit_announces_has_to_be_its_authors_too(rights, unit, announced, is_refused):
    options = [UnitOption("X-Fleet", "Announce", announced)]
    refusal = Actor("ann", rights=parse_rights(rights)).refuse_content(unit, options)
    assert refusal.startswith("Announce=" if is_refused else "")
    assert bool(refusal) is is_refused
    assert Actor("root", rights=EVERY_RIGHT).refuse_content(unit, options) == ""


def test_a_name_that_was_taken_back_is_not_announced():
    options = [UnitOption("X-Fleet", "Announce", value) for value in ("db 5432", "", "80")]
    assert ANN.refuse_content("log-1.service", options) == ""


def test_whoever_is_nobody_may_nothing():
    assert Actor().refuse(Permission.VIEW).startswith("you may not do this: it needs the permission view, which")


def test_a_claimed_name_is_short_and_printable():
    assert claimed_name([]) == ""
    assert claimed_name(["an\x1b[2Jn\n", "bob"]) == "an[2Jn"
    assert len(claimed_name(["x" * 1000])) == 64
