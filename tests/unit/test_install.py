"""[Install]: how a section is read, and which links a machine's units get together."""

import pytest

from fleetd.model.install import Install, InvalidInstall, install_values, parse_install, plan_links
from fleetd.model.names import parse_name
from fleetd.model.unitfile import parse_unit_file

HOST = {"H": "n1.example.org", "l": "n1"}


def installed(name, text, host=None):
    return parse_install(parse_unit_file("[Install]\n" + text), parse_name(name), host)


READ = [
    ("nothing", "a.service", "", Install()),
    ("an alias", "a.service", "Alias=b.service", Install(("b.service",))),
    (
        "several, each once",
        "a.service",
        "Alias=b.service c.service\nAlias=b.service",
        Install(("b.service", "c.service")),
    ),
    ("its own name is no alias", "a.service", "Alias=a.service b.service", Install(("b.service",))),
    ("an empty value takes back", "a.service", "Alias=b.service\nAlias=\nAlias=c.service", Install(("c.service",))),
    ("quoted and continued", "a.service", "Alias=\"b.service\" \\\n  'c.service'", Install(("b.service", "c.service"))),
    (
        "dependents",
        "a.service",
        "WantedBy=x.target\nRequiredBy=y.service\nUpheldBy=z.service",
        Install((), (("WantedBy", "x.target"), ("RequiredBy", "y.service"), ("UpheldBy", "z.service"))),
    ),
    (
        "an instance's specifiers",
        "my-a@1.service",
        "WantedBy=%p-%i-%j-%N.target %n",
        Install((), (("WantedBy", "my-a-1-a-my-a@1.target"), ("WantedBy", "my-a@1.service"))),
    ),
    ("the template of an alias is filled in", "a@1.service", "Alias=b@.service", Install(("b@1.service",))),
    ("an alias of the same instance", "a@1.service", "Alias=b@1.service", Install(("b@1.service",))),
    ("a template asks for nothing", "a@.service", "Alias=ssh.service\nWantedBy=x.target", Install()),
    ("constants", "a.service", "WantedBy=%u-%U-%g-%G.target", Install((), (("WantedBy", "root-0-root-0.target"),))),
    ("of a host that is not known nothing is said", "a.service", "Alias=%H.service\nWantedBy=%m.target", Install()),
]


@pytest.mark.parametrize(("name", "text", "install"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_a_section_is_read(name, text, install):
    assert installed(name, text) == install


def test_the_hosts_name_is_filled_in():
    assert installed("a.service", "Alias=%l.service", HOST).aliases == ("n1.service",)
    with pytest.raises(InvalidInstall, match=r"has %m in '%m.service', which is no specifier here; write %% for %"):
        installed("a.service", "Alias=%m.service", HOST)


NO_ALIAS = "systemd cannot alias "


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.service", "Alias=b.socket", NO_ALIAS + "a.service as b.socket"),
        ("a.mount", "Alias=b.mount", NO_ALIAS + "a.mount as b.mount"),
        ("a.service", "Alias=b@1.service", NO_ALIAS + "a.service as b@1.service"),
        ("a.service", "Alias=b@.service", NO_ALIAS + "a.service as b@.service"),
        ("a@1.service", "Alias=b.service", NO_ALIAS + "a@1.service as b.service"),
        ("a@1.service", "Alias=b@2.service", NO_ALIAS + "a@1.service as b@2.service"),
        ("a.service", "Alias=x.target.wants/a.service", "names no unit: invalid character '/'"),
        ("a.service", "Alias=../../etc.service", "names no unit"),
        ("a.service", "Alias=b", "names no unit"),
        ("a.service", "WantedBy=no unit", "WantedBy='no' names no unit"),
        ("a.service", "RequiredBy=%z.service", "has %z"),
        ("a.service", "Alias=b.service%", "has %"),
    ],
)
def test_what_systemd_would_not_enable_is_refused(name, text, words):
    with pytest.raises(InvalidInstall) as refusal:
        installed(name, text)
    assert words in str(refusal.value)


def test_options_of_other_sections_are_ignored():
    options = parse_unit_file("[Unit]\nAlso=a.service\n[Install]\nAlso=b.service c.service")
    assert install_values(options, "Also") == ["b.service", "c.service"]


def planned(units, held=None, refused=()):
    """The links of units given as name → section, and the warnings."""
    installs = {name: installed(name, text) for name, text in units.items() if text}
    plan = plan_links(installs, units, held or {}, lambda name: "it is refused" if name in refused else "")
    return dict(plan.links), dict(plan.complaints)


def test_aliases_and_dependencies_become_links():
    assert planned({"a.service": "Alias=b.service\nWantedBy=x.target"}) == (
        {"b.service": "a.service", "x.target.wants/a.service": "a.service"},
        {},
    )


def test_only_fleets_own_units_may_require_or_uphold_one():
    text = "RequiredBy=web.service ssh.service\nUpheldBy=web.service ssh.service"
    links, complaints = planned({"a.service": text, "web.service": ""})
    assert links == {"web.service.requires/a.service": "a.service", "web.service.upholds/a.service": "a.service"}
    assert complaints == {
        "a.service": (
            "[Install] RequiredBy=ssh.service has no effect: fleet has no ssh.service on this machine",
            "[Install] UpheldBy=ssh.service has no effect: fleet has no ssh.service on this machine",
        )
    }


def test_an_alias_and_a_template_of_ours_may_require():
    units = {"a.service": "RequiredBy=db.service web@.service", "pg.service": "Alias=db.service", "web@1.service": ""}
    links, complaints = planned(units)
    assert links == {
        "db.service": "pg.service",
        "db.service.requires/a.service": "a.service",
        "web@.service.requires/a.service": "a.service",
    }
    assert complaints == {}


def test_units_that_run_the_machine_never_depend_on_ours():
    links, complaints = planned({"a.service": "WantedBy=fleet.service systemd-networkd.service"})
    assert links == {}
    first, second = complaints["a.service"]
    assert first == "[Install] WantedBy=fleet.service has no effect: fleet.service is of what runs the machine itself"
    assert "systemd-networkd.service" in second


def test_a_units_own_name_comes_before_an_alias():
    units = {"a.service": "Alias=b.service", "b.service": "Alias=a.service"}
    assert planned(units) == (
        {},
        {
            "a.service": ("[Install] Alias=b.service has no effect: a unit of this name is here",),
            "b.service": ("[Install] Alias=a.service has no effect: a unit of this name is here",),
        },
    )


@pytest.mark.parametrize(("held", "owner"), [({}, "a.service"), ({"db.service": "b.service"}, "b.service")])
def test_an_alias_of_two_units_stays_with_its_owner_or_the_first(held, owner):
    links, complaints = planned({"a.service": "Alias=db.service", "b.service": "Alias=db.service"}, held)
    loser = "b.service" if owner == "a.service" else "a.service"
    assert links == {"db.service": owner}
    assert complaints == {loser: (f"[Install] Alias=db.service has no effect: {owner} has it",)}


def test_an_alias_whose_owner_is_gone_goes_to_the_next():
    assert planned({"b.service": "Alias=db.service"}, {"db.service": "gone.service"})[0] == {"db.service": "b.service"}


def test_a_refused_name_is_no_alias():
    links, complaints = planned({"a.service": "Alias=ssh.service"}, refused=["ssh.service"])
    assert (links, complaints) == ({}, {"a.service": ("[Install] Alias=ssh.service has no effect: it is refused",)})


def test_also_of_a_service_and_its_socket_keeps_their_links_apart():
    """The usual pair: each section counts by itself, so the end of one removes nothing of the other."""
    units = {"web.service": "Also=web.socket\nWantedBy=multi-user.target", "web.socket": "WantedBy=sockets.target"}
    both = planned(units)[0]
    assert both == {
        "multi-user.target.wants/web.service": "web.service",
        "sockets.target.wants/web.socket": "web.socket",
    }
    del units["web.service"]
    assert planned(units, both)[0] == {"sockets.target.wants/web.socket": "web.socket"}
