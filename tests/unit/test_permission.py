"""Permissions: what a role allows, and for which units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.permission import (
    EVERY_NAME,
    EVERY_RIGHT,
    GROUP_RIGHTS,
    NO_RIGHTS,
    Grant,
    Permission,
    Rights,
    parse_rights,
    refuse_group_name,
)

VIEW, OPERATE, SUBMIT, ADMIN = Permission


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        ("", ()),
        ("view", (VIEW,)),
        ("operate", (VIEW, OPERATE)),
        ("submit", (VIEW, OPERATE, SUBMIT)),
        ("admin", (VIEW, OPERATE, SUBMIT, ADMIN)),
        ("admin:*", (VIEW, OPERATE, SUBMIT, ADMIN)),
    ],
)
def test_a_permission_includes_those_below_it(rights, allowed):
    found = parse_rights(rights)
    assert tuple(each for each in Permission if found.allow(each)) == allowed
    assert tuple(each for each in Permission if found.allow_for(each, "a.service")) == allowed
    assert tuple(each for each in Permission if found.allow_for(each, EVERY_NAME)) == allowed


@pytest.mark.parametrize(
    ("permission", "name", "is_allowed"),
    [
        (VIEW, "db.service", True),  # lists show everything
        (VIEW, EVERY_NAME, True),
        (OPERATE, "web-1.service", True),
        (OPERATE, "web-", True),
        (OPERATE, "db.service", False),
        (OPERATE, EVERY_NAME, False),
        (SUBMIT, "web-1.service", False),
        (SUBMIT, "log-1.service", True),
        (OPERATE, "log-1.service", True),
        (ADMIN, "web-1.service", False),
    ],
)
def test_patterns_narrow_a_permission_to_units_of_these_names(permission, name, is_allowed):
    rights = parse_rights("operate:web-*, submit:log-*,")
    assert rights.allow_for(permission, name) is is_allowed


def test_a_pattern_that_matches_everything_by_chance_is_for_units_alone():
    assert parse_rights("operate:**").allow_for(OPERATE, "a.service")
    assert not parse_rights("operate:**").allow_for(OPERATE, EVERY_NAME)


def test_rights_of_several_roles_add_up():
    both = parse_rights("operate:web-*") | parse_rights("submit:log-*")
    assert both == parse_rights("submit:log-*,operate:web-*")
    assert hash(both) == hash(parse_rights("submit:log-*,operate:web-*"))
    assert both != parse_rights("submit:log-*")
    assert repr(both) == "Rights(operate:web-*, submit:log-*)"
    assert both
    assert not NO_RIGHTS
    assert Rights([Grant(ADMIN), Grant(ADMIN)]) == EVERY_RIGHT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run", "'run' is no permission; write one of view, operate, submit, admin, and a pattern: operate:web-*"),
        ("operate:", "'operate:' has no valid pattern of unit names; write one like operate:web-*"),
        ("operate:[", "'operate:[' has no valid pattern"),
        ("admin:web-*", "'admin:web-*': admin is for everything; write admin alone"),
        ("view:web-*", "'view:web-*': view is for everything; write view alone"),
    ],
)
def test_what_is_wrong_with_rights_is_said(text, message):
    with pytest.raises(ValueError, match="^" + message.replace("*", r"\*").replace("[", r"\[")):
        parse_rights(text)


def test_a_role_is_for_a_group_whose_rights_are_not_fixed():
    assert refuse_group_name("web-team") == ""
    assert refuse_group_name("-x") == "'-x' is not the name of a group"
    for name in GROUP_RIGHTS:
        assert refuse_group_name(name) == f"the rights of the group {name} are fixed"


@pytest.mark.parametrize(
    ("own", "wanted", "excess"),
    [
        ("admin", "admin,view,submit:*", None),
        ("view", "view", None),
        ("operate:web-*", "view,operate:web-1*,operate:web-1.service", None),
        ("submit:*", "submit", None),
        ("submit", "operate:a*,submit:b?", None),
        ("view", "view,operate:a.service", "operate:a.service"),
        ("operate:web-*", "submit:web-1.service", "submit:web-1.service"),
        ("operate:web-*", "operate:w*", "operate:w*"),
        ("submit", "admin", "admin:*"),
        ("", "view", "view:*"),
    ],
)
def test_rights_that_somebody_wants_go_beyond_those_that_they_have(own, wanted, excess):
    found = parse_rights(own).find_excess(parse_rights(wanted))
    assert (str(found) if found else None) == excess


NAMES = ("a.service", "ab.service", "web-1.service", "web-2.service", "b")
PATTERNS = st.sampled_from(["*", "a*", "web-*", "web-?.service", "web-[12]*", "?*", "a.service", "b", "*.service"])
GRANTS = st.builds(
    lambda permission, pattern: Grant(permission, "*" if permission in ("view", "admin") else pattern),
    st.sampled_from(Permission),
    PATTERNS,
)
RIGHTS = st.lists(GRANTS, max_size=3).map(Rights)


@given(RIGHTS, RIGHTS)
def test_rights_without_excess_allow_nothing_that_the_others_do_not(own, wanted):
    if own.find_excess(wanted) is not None:
        return
    for permission in Permission:
        for name in (*NAMES, "*"):
            assert not wanted.allow_for(permission, name) or own.allow_for(permission, name), (permission, name)
