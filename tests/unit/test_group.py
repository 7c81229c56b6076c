"""Which units are a group, what its options mean, and what is refused in them."""

import math

import pytest

from fleetd.model.admission import refuse_content
from fleetd.model.constraints import InvalidRequirements
from fleetd.model.content import Content
from fleetd.model.fleet_options import OPTIONS
from fleetd.model.group import (
    MAX_INSTANCES,
    GroupOptions,
    Handover,
    Share,
    UpdateAction,
    UpdateFailure,
    group_of,
    mentions_joining,
    needed_peers,
    parse_group_options,
    refuse_instance_options,
    refuse_joined,
    validate_group_options,
)
from fleetd.model.unit import TargetState
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import parse_unit_file


def fleet_options(text, service=""):
    return parse_unit_file(f"[Service]\nExecStart=/bin/true\n{service}\n[X-Fleet]\n{text}\n")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("web@1.service", "web@.service"),
        ("web@eu.1.service", "web@.service"),
        ("web@.service", "web@.service"),
        ("db.service", "db.service"),
        ("web@1.socket", "web@.socket"),
    ],
)
def test_instances_and_their_template_are_a_group_and_another_unit_is_one_alone(name, group):
    assert group_of(name) == group


PARSED = [
    ("nothing", "", GroupOptions()),
    ("a number of instances", "Instances=3", GroupOptions(instances=("1", "2", "3"))),
    ("no instance", "Instances=0", GroupOptions(instances=())),
    ("names of instances", "Instances=eu us", GroupOptions(instances=("eu", "us"))),
    ("quoted names of instances", 'Instances="eu" "us"', GroupOptions(instances=("eu", "us"))),
    ("names that are numbers", "Instances=3 7", GroupOptions(instances=("3", "7"))),
    ("a number", "MaxUnavailable=2", GroupOptions(max_unavailable=Share(2))),
    ("a percentage", "MaxUnavailable=25%", GroupOptions(max_unavailable=Share(25, is_percentage=True))),
    ("times", "UpdateSettleSec=1min\nUpdateDeadlineSec=1h", GroupOptions(settle_s=60, deadline_s=3600)),
    ("a reaction", "UpdateFailure=pause", GroupOptions(on_failure=UpdateFailure.PAUSE)),
    ("failures to put up with", "UpdateTolerate=10%", GroupOptions(tolerate=Share(10, is_percentage=True))),
    ("canaries", "UpdateCanary=1\nUpdateCanarySec=1h", GroupOptions(canary=1, canary_s=3600)),
    ("canaries without end", "UpdateCanarySec=infinity", GroupOptions(canary_s=math.inf)),
    ("an action", "UpdateAction=reload", GroupOptions(action=UpdateAction.RELOAD)),
    ("a target state", "DesiredState=loaded", GroupOptions(desired_state=TargetState.LOADED)),
    ("a handover", "Handover=start-first", GroupOptions(handover=Handover.START_FIRST)),
    ("a unit that stays", "Movable=no", GroupOptions(movable=False)),
    ("the last value of several", "MaxUnavailable=2\nMaxUnavailable=3", GroupOptions(max_unavailable=Share(3))),
    ("the last list of several", "Instances=eu\nInstances=us", GroupOptions(instances=("us",))),
    ("a value that is reset", "MaxUnavailable=2\nMaxUnavailable=", GroupOptions()),
]


@pytest.mark.parametrize(("text", "options"), [row[1:] for row in PARSED], ids=[row[0] for row in PARSED])
def test_options_of_a_group_are_read_and_accepted(text, options):
    assert parse_group_options(fleet_options(text)) == options
    assert refuse_content(fleet_options(text)) == ""


def test_options_in_another_section_are_not_the_groups():
    assert parse_group_options(fleet_options("", service="MaxUnavailable=2")) == GroupOptions()


REFUSED = [
    ("MaxUnavailable=0", "MaxUnavailable: with 0 no unit of the group could ever be changed; write 1 or more"),
    ("MaxUnavailable=0%", "MaxUnavailable: with 0% no unit of the group could ever be changed; write 1 or more"),
    ("MaxUnavailable=101%", "MaxUnavailable: 101% is more than all of the group; write at most 100%"),
    ("MaxUnavailable=-1", "MaxUnavailable: '-1' is neither a number nor a percentage; write one such as 2 or 25%"),
    ("UpdateTolerate=some", "UpdateTolerate: 'some' is neither a number nor a percentage; write one such as 2 or 25%"),
    ("UpdateCanary=10%", "UpdateCanary: '10%' is not a number; write one such as 2"),
    ("UpdateSettleSec=soon", "UpdateSettleSec: 'soon' is no time span; write one like 90s, 5min or 1h 30min"),
    ("UpdateSettleSec=infinity", "UpdateSettleSec: infinity would let no change ever end; write a time span like 90s"),
    ("UpdateFailure=abort", "UpdateFailure: 'abort' is none of revert, pause, continue; write one of them"),
    ("UpdateAction=kill", "UpdateAction: 'kill' is none of auto, restart, reload, none; write one of them"),
    ("DesiredState=up", "DesiredState: 'up' is none of inactive, loaded, launched; write one of them"),
    ("Handover=both", "Handover: 'both' is none of stop-first, start-first; write one of them"),
    ("Movable=maybe", "Movable: 'maybe' is neither true nor false; write one of them"),
    ("Instances=eu us eu", "Instances: 'eu' is named twice; name each instance once"),
    ("Instances=a/b c", "Instances: 'a/b' cannot name an instance: invalid character '/' in unit name"),
    (f"Instances={MAX_INSTANCES + 1}", "Instances: 1001 instances are too many; at most 1000 are allowed"),
    (
        "UpdateSettleSec=5min",
        "UpdateSettleSec (300s) is not below UpdateDeadlineSec (300s), so no unit would be found healthy in time: "
        "raise UpdateDeadlineSec",
    ),
    ("Handover=start-first\nGlobal=true", "Handover=start-first cannot be used with Global: write stop-first"),
    (
        "Handover=start-first\nMachineOf=a.service",
        "Handover=start-first cannot be used with MachineOf: write stop-first",
    ),
]


@pytest.mark.covers("B.2", "B.3")
@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_meant_is_refused_with_the_remedy(text, message):
    with pytest.raises(InvalidRequirements) as refused:
        validate_group_options(fleet_options(text))
    assert str(refused.value) == message


def test_an_oneshot_cannot_run_twice_for_a_moment():
    assert refuse_content(fleet_options("Handover=start-first", service="Type=oneshot")) == (
        "Handover=start-first cannot be used with Type=oneshot: write stop-first"
    )
    assert refuse_content(fleet_options("Handover=start-first", service="Type=oneshot\nType=simple")) == ""


@pytest.mark.parametrize("text", [row[0] for row in REFUSED if ":" in row[1].split()[0]])
def test_an_invalid_value_in_a_stored_unit_counts_as_not_given(text):
    assert parse_group_options(fleet_options(text)) == GroupOptions()


@pytest.mark.parametrize(
    ("share", "size", "count"),
    [
        (Share(2), 5, 2),
        (Share(9), 5, 5),
        (Share(25, is_percentage=True), 7, 1),
        (Share(25, is_percentage=True), 3, 0),
        (Share(100, is_percentage=True), 3, 3),
    ],
)
def test_a_share_of_a_group_is_rounded_down_and_at_most_all(share, size, count):
    assert share.of(size) == count
    assert GroupOptions(max_unavailable=share).unavailable_limit(size) == max(1, count)


@pytest.mark.covers("B.4")
def test_more_canaries_than_members_are_all_of_them_with_a_note():
    assert GroupOptions(canary=2).count_canaries(2) == (2, "")
    assert GroupOptions(canary=5).count_canaries(3) == (
        3,
        "UpdateCanary=5 is more than there are in the group (3): all of it goes first",
    )


def test_a_drop_in_of_an_instance_may_not_set_what_is_the_templates():
    options = fleet_options("MachineMetadata=disk=ssd\nMaxUnavailable=2")
    assert refuse_instance_options("web@1.service", options) == (
        "MaxUnavailable= is for all instances of web@.service: set it in a drop-in of web@.service, "
        "not of web@1.service"
    )
    assert refuse_instance_options("web@.service", options) == ""
    assert refuse_instance_options("db.service", options) == ""
    assert refuse_instance_options("web@1.service", fleet_options("MachineMetadata=disk=ssd")) == ""


def test_each_option_of_a_group_that_nothing_acts_on_yet_is_warned_of():
    for option in (option for option in OPTIONS if not option.has_effect):
        said = advise("web@.service", fleet_options(f"{option.name}=1"))
        assert said == (f"{option.name}= in [X-Fleet] has no effect in this version",)


def test_instances_of_a_unit_that_is_no_template_are_warned_of():
    sentence = "Instances= has no effect: db.service is not a template, and has no instances"
    assert sentence in advise("db.service", fleet_options("Instances=3"))
    assert sentence not in advise("web@1.service", fleet_options("Instances=3"))


@pytest.mark.parametrize(
    ("name", "section", "is_warned_of"),
    [
        ("db.service", "[Service]\nType=simple\n", True),
        ("db.service", "", True),
        ("db.service", "[Service]\nExecReload=/bin/kill -HUP $MAINPID\n", False),
        ("db.service", "[Service]\nType=notify-reload\n", False),
        ("db.slice", "[Slice]\n", False),
    ],
)
def test_an_update_by_reload_of_a_service_that_cannot_reload_is_warned_of(name, section, is_warned_of):
    sentence = "UpdateAction=reload runs a daemon-reload alone: db.service has no ExecReload=, nor Type=notify-reload"
    said = advise(name, parse_unit_file(f"[X-Fleet]\nUpdateAction=reload\n{section}"))
    assert said == ((sentence,) if is_warned_of else ())
    assert advise(name, parse_unit_file(f"[X-Fleet]\nUpdateAction=none\n{section}")) == ()


def joined(text: str) -> Content:
    return Content(f"[Service]\nExecStart=/bin/true\n[X-Fleet]\n{text}\n")


FIRST, PEER_1 = "Handover=start-first", "MachineOf=w@1.service"


@pytest.mark.parametrize(
    ("name", "texts", "refusal"),
    [
        ("a.service", {"a.service": FIRST, "b.service": ""}, ""),
        ("a.service", {"a.service": "Handover=stop-first", "b.service": "MachineOf=a.service"}, ""),
        (
            "b.service",
            {"a.service": FIRST, "b.service": "MachineOf=a.service"},
            "MachineOf=a.service cannot be used: a.service has Handover=start-first; write stop-first there",
        ),
        (
            "a.service",
            {"a.service": FIRST, "b.service": "MachineOf=a.service"},
            "Handover=start-first cannot be used: b.service has MachineOf=a.service; write stop-first",
        ),
        (
            "b.service",
            {"w@.service": FIRST, "b.service": PEER_1},
            "MachineOf=w@1.service cannot be used: w@.service has Handover=start-first; write stop-first there",
        ),
        (
            "w@.service",
            {"w@.service": FIRST, "b.service": PEER_1},
            "Handover=start-first cannot be used: b.service has MachineOf=w@1.service; write stop-first",
        ),
        ("b.service", {"w@.service": "", "w@1.service": FIRST, "b.service": PEER_1}, ""),
        ("b.service", {"b.service": PEER_1}, ""),
        ("a.service", {"a.service": f"{FIRST}\nMachineOf=a.service"}, ""),
    ],
)
def test_what_machine_of_joins_does_not_start_first(name: str, texts: dict[str, str], refusal: str) -> None:
    found = refuse_joined(name, {each: joined(text) for each, text in texts.items()})
    is_own = "MachineOf=a.service" in texts.get("a.service", "")  # refused by itself
    assert is_own or found == refusal


def test_what_cannot_be_parsed_is_joined_to_nothing() -> None:
    broken = Content("[Service]\nno option MachineOf start-first\n")
    assert refuse_joined("b.service", {"b.service": broken, "a.service": joined(FIRST)}) == ""
    assert mentions_joining(broken)
    assert not mentions_joining(joined(""))
    assert needed_peers("b.service", broken) == []
    assert refuse_joined("a.service", {"a.service": broken, "b.service": joined("MachineOf=a.service")}) == ""
    assert needed_peers("b.service", joined(PEER_1)) == ["w@1.service", "w@.service"]
