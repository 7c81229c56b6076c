"""Which units are admitted, by one rule for the API, machines and fleetctl, and the warnings about admitted ones."""

import pytest

from fleetd.model.admission import refuse_content, refuse_name, refuse_names, refuse_unit
from fleetd.model.unit_option import UnitOption
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import parse_unit_file

SYSTEM = {"ssh.service": "/lib/systemd/system/ssh.service", "tmp.mount": "the mount of /tmp"}
GOOD = "[Service]\nExecStart=/bin/true\n"


def shadows(name):
    return SYSTEM.get(name, "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("web.service", ""),
        ("no-suffix", 'must contain "."'),
        ("-x.service", 'begins with "-", which commands take for an option'),
        ("-.mount", 'begins with "-"'),
        ("fleet.service", "is reserved for what runs the machine itself"),
        ("session-1.scope", "is reserved for what runs the machine itself"),
        ("user-1000.slice", "is reserved for what runs the machine itself"),
        ("ssh.service", "would hide /lib/systemd/system/ssh.service, a unit of the system"),
        ("tmp.mount", "would hide the mount of /tmp, a unit of the system"),
    ],
)
def test_a_reserved_or_invalid_name_is_refused(name, words):
    refusal = refuse_name(name, shadows)
    assert words in refusal
    assert bool(words) == bool(refusal)


@pytest.mark.parametrize(
    ("install", "words"),
    [
        ("Alias=web.service", ""),
        ("Alias=ssh.service", '[Install] Alias=ssh.service: unit "ssh.service" would hide'),
        ("Alias=fleet.service", "reserved for what runs the machine itself"),
        ("Alias=dbus.service", "reserved"),
        ("Alias=-x.service", 'begins with "-"'),
        ("Alias=poweroff.target", "systemd cannot alias"),
        ("Alias=%p.service ssh.service", "would hide"),
        ("WantedBy=no unit", "names no unit"),
    ],
)
def test_names_in_install_follow_the_same_rules(install, words):
    options = parse_unit_file(f"{GOOD}[Install]\n{install}\n")
    refusal = refuse_names("a.service", options, shadows)
    assert words in refusal
    assert bool(words) == bool(refusal)
    assert refuse_unit("a.service", options, shadows) == refusal


def test_the_units_own_name_is_checked_first():
    options = parse_unit_file(f"{GOOD}[Install]\nAlias=ssh.service\n")
    assert refuse_names("fleet.service", options, shadows) == refuse_name("fleet.service", shadows)


def test_an_alias_with_machine_specifiers_is_checked_on_the_machine():
    options = parse_unit_file(f"{GOOD}[Install]\nAlias=%H.service\n")
    assert refuse_names("a.service", options, shadows) == ""
    assert "would hide" in refuse_names("a.service", options, shadows, {"H": "ssh"})


def test_invalid_content_is_refused_whatever_the_name():
    assert refuse_content(parse_unit_file(GOOD)) == ""
    assert "cannot be written" in refuse_content([UnitOption("S", "A", "x ")])
    assert refuse_content(parse_unit_file("[X-Fleet]\nGlobal=true\nMachineOf=a.service\n")) == (
        "Global cannot be used with Peers"
    )
    assert refuse_unit("a.service", [UnitOption("S", "A", "x ")]) == refuse_content([UnitOption("S", "A", "x ")])


def advice(text, name="a.service"):
    return advise(name, parse_unit_file(GOOD + text))


@pytest.mark.parametrize(
    "section", ["X-fleet", "x-fleet", "X-FLEET", "XFleet", "X_Fleet", "Fleet", "X-Flete", "X-Fleet\u2060"]
)
def test_a_misspelled_x_fleet_section_is_warned_about_visibly(section):
    shown = section.replace("\u2060", r"\u2060")
    assert advice(f"[{section}]\nGlobal=true\n") == (f"[{shown}] is not [X-Fleet], and is not read by fleet",)


@pytest.mark.parametrize("section", ["X-Fleet", "X-Backup", "X-Systemd", "Socket", "Foo"])
def test_other_sections_cause_no_warning(section):
    assert advice(f"[{section}]\n") == ()


@pytest.mark.parametrize(
    ("install", "sentence"),
    [
        ("Also=b.socket", "[Install] Also=b.socket has no effect in fleet: "),
        ("DefaultInstance=1", "[Install] DefaultInstance=1 has no effect in fleet: "),
        (
            "RequiredBy=ssh.service",
            "[Install] RequiredBy=ssh.service has an effect on machines alone where ssh.service is a",
        ),
        ("WantedBy=fleet.service", "[Install] WantedBy=fleet.service has no effect in fleet: "),
    ],
)
def test_an_install_option_without_effect_is_warned_about(install, sentence):
    [said] = advice(f"[Install]\n{install}\n")
    assert said.startswith(sentence)


def test_usual_install_options_cause_no_warning_and_refusals_no_second():
    assert advice("[Install]\nWantedBy=multi-user.target\nAlias=b.service\n") == ()
    assert advice("[Install]\nAlias=b.socket\n") == ()


def test_a_check_of_a_container_that_may_have_none_is_warned_about():
    text = "[Service]\nExecStart=podman run {}x\n[X-Fleet]\nAnnounce=a 1\nCheck=container\n"
    assert advise("a.service", parse_unit_file(text.format("--health-cmd=/bin/x "))) == ()
    [said] = advise("a.service", parse_unit_file(text.format("")))
    assert said.endswith("if not, add HealthCmd= to [Container]")


def test_an_unknown_x_fleet_option_is_warned_about_visibly():
    assert advice("[X-Fleet]\nGlobal\ufeff=true\nMachineMetadata=ssd\u200b\n") == (
        r'unrecognized requirement in [X-Fleet] section: "Global\ufeff"',
        r'MachineMetadata "ssd\u200b" is not of the form key=value, and restricts nothing',
    )
