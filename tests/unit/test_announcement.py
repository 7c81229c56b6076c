"""What units announce: the options, and the records that they become."""

import pytest

from fleetd.model.announce_options import (
    NOTHING,
    AnnounceOptions,
    Check,
    announce_options_of,
    has_unknown_health,
    parse_announce_options,
    validate_announcing,
)
from fleetd.model.announcement import Announcement, ServicePort, ServiceRecord, refuse_service_name
from fleetd.model.constraints import InvalidRequirements
from fleetd.model.content import Content, DropIn
from fleetd.model.names import parse_name
from fleetd.model.unitfile import parse_unit_file
from fleetd.registry.records import SERVICES, encode
from fleetd.store.protocol import KeyValue


def parse(lines: str, name: str = "web@1.service") -> AnnounceOptions:
    return parse_announce_options(parse_unit_file(f"[X-Fleet]\n{lines}\n"), parse_name(name))


@pytest.mark.parametrize(
    ("lines", "services"),
    [
        ("", ()),
        ("Announce=web 8080", (("web", (ServicePort(8080),)),)),
        ("Announce=8080", (("web", (ServicePort(8080),)),)),
        ("Announce=%p-%i 80", (("web-1", (ServicePort(80),)),)),
        ("Announce=web 808%i", (("web", (ServicePort(8081),)),)),
        ("Announce=dns 53\nAnnounce=dns 53/udp", (("dns", (ServicePort(53), ServicePort(53, "udp"))),)),
        ("Announce=b 2\nAnnounce=a 1/tcp\nAnnounce=b 2", (("b", (ServicePort(2),)), ("a", (ServicePort(1),)))),
        ("Announce=a 1\nAnnounce=\nAnnounce=b 2", (("b", (ServicePort(2),)),)),
        ("Announce=a 1\nAnnounce=", ()),
    ],
)
def test_names_and_ports_are_read(lines: str, services: tuple[tuple[str, tuple[ServicePort, ...]], ...]) -> None:
    assert parse(lines) == AnnounceOptions(services)


@pytest.mark.parametrize(
    ("value", "check"),
    [
        ("http:8080/healthz", Check("http", 8080, "/healthz")),
        ("http:8080", Check("http", 8080, "/")),
        ("tcp:22", Check("tcp", 22)),
        ("exec:/usr/bin/test -e /run/%p", Check("exec", command=("/usr/bin/test", "-e", "/run/web"))),
    ],
)
def test_checks_are_read(value: str, check: Check) -> None:
    found = parse(f"Announce=80\nCheck={value}\nCheckInterval=20s\nCheckFailures=3")
    assert (found.check, found.interval_s, found.failures, found.timeout_s) == (check, 20.0, 3, 10.0)
    assert parse(f"Announce=80\nCheck={value}").timeout_s == 5.0
    assert parse(f"Announce=80\nCheck={value}\nCheck=").check is None


def test_a_container_is_checked_by_podman_as_often_as_that_says() -> None:
    found = parse("Announce=80\nCheck=container")
    assert (found.check, found.failures, str(found.check)) == (Check("container"), 1, "container")


@pytest.mark.parametrize("line", ["podman run x", "/usr/bin/podman run --health-cmd=true x"])
def test_a_check_of_a_container_needs_one(line: str) -> None:
    options = parse_unit_file(f"[Service]\nExecStart={line}\n[X-Fleet]\nAnnounce=80\nCheck=container\n")
    validate_announcing(options, "web.service")
    assert has_unknown_health(options) == ("health" not in line)
    plain = parse_unit_file("[Service]\nExecStart=/bin/x\n[X-Fleet]\nAnnounce=80\nCheck=container\n")
    with pytest.raises(InvalidRequirements, match=r"write the unit as NAME.container, or Check=tcp:PORT"):
        validate_announcing(plain, "web.service")
    reset = parse_unit_file("[Service]\nExecStart=/bin/x\n[X-Fleet]\nAnnounce=80\nCheck=container\nCheck=\n")
    validate_announcing(reset, "web.service")
    assert not has_unknown_health(reset)


def test_the_delay_before_a_stop_is_read() -> None:
    assert [parse(f"Announce=80\n{each}").delay_s for each in ("", "AnnounceDelay=0", "AnnounceDelay=10s")] == [
        3,
        0,
        10,
    ]


def test_a_check_is_shown_as_it_is_written() -> None:
    assert [str(parse(f"Announce=80\nCheck={each}").check) for each in ("http:1/x?y", "tcp:2", "exec:/a b")] == [
        "http:1/x?y",
        "tcp:2",
        "exec:/a b",
    ]
    assert [str(ServicePort(1)), str(ServicePort(1, "udp"))] == ["1", "1/udp"]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("Announce=Web 80", '"Web" is no label of a DNS name'),
        ("Announce=-a 80", "neither to begin nor to end"),
        (f"Announce={'a' * 64} 80", "1 to 63 characters"),
        ("Announce=a.b 80", "is no label"),
        ("Announce=web", '"web" is no port; write a number from 1 to 65535'),
        ("Announce=web 0", '"0" is no port'),
        ("Announce=web 65536", '"65536" is no port'),
        ("Announce=web \uff18", "is no port"),
        ("Announce=web 80/sctp", '"sctp" is no protocol; write tcp or udp'),
        ("Announce=web 80/", '"" is no protocol'),
        ("Announce=web 80 tcp", "has 3 words: write Announce=NAME PORT"),
        ("\n".join(f"Announce=a{each} 80" for each in range(17)), "Announce has 17 values, and at most 16"),
        ("Check=tcp:80", "Check has no effect without Announce: add Announce=NAME PORT"),
        ("CheckInterval=5s", "CheckInterval has no effect without Announce"),
        ("Announce=80\nCheckInterval=5s", "CheckInterval has no effect without Check: add Check=tcp:PORT"),
        ("Announce=80\nCheckFailures=2", "CheckFailures has no effect without Check"),
        ("Announce=80\nCheck=udp:80", "Check=udp:80 is no check: write http:PORT/PATH"),
        (
            "Announce=80\nCheck=container:x",
            "is no check: write http:PORT/PATH, tcp:PORT, exec:/PROGRAM ARGUMENT… or con",
        ),
        ("Announce=80\nCheck=container\nCheckInterval=9s", "write HealthInterval= in [Container]"),
        ("Announce=80\nCheck=container\nCheckFailures=9", "write HealthRetries= in [Container]"),
        ("Announce=80\nCheck=tcp:http", '"http" is no port'),
        ("Announce=80\nCheck=http:80/a b", "printable ASCII characters without spaces"),
        ("Announce=80\nCheck=exec:true", "a program begins with /"),
        ("Announce=80\nCheck=exec:", "a program begins with /"),
        ("Announce=80\nCheck=tcp:1\nCheckInterval=100ms", "CheckInterval=100ms has to be from 1 to 3600 seconds"),
        ("Announce=80\nCheck=tcp:1\nCheckInterval=infinity", "has to be from 1 to"),
        ("Announce=80\nCheck=tcp:1\nCheckInterval=soon", "CheckInterval: 'soon' is no time span"),
        ("Announce=80\nAnnounceDelay=2min", "AnnounceDelay=2min has to be from 0 to 60 seconds"),
        ("AnnounceDelay=2s", "AnnounceDelay has no effect without Announce"),
        ("Announce=80\nCheck=tcp:1\nCheckFailures=0", "CheckFailures=0 has to be a number from 1 to 100"),
        ("Announce=80\nCheck=tcp:1\nCheckFailures=x", "CheckFailures=x has to be"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_the_remedy(lines: str, cause: str) -> None:
    with pytest.raises(InvalidRequirements) as found:
        parse(lines)
    assert cause in str(found.value)
    options = parse_unit_file(f"[X-Fleet]\n{lines}\n")
    for name in ("web@1.service", "web@.service", ""):
        with pytest.raises(InvalidRequirements):
            validate_announcing(options, name)
    assert announce_options_of(Content(f"[X-Fleet]\n{lines}\n"), "web@1.service") == NOTHING


def test_a_unit_whose_own_name_is_no_label_has_to_give_one() -> None:
    with pytest.raises(InvalidRequirements, match="the unit's own name is none, so write Announce=NAME 80"):
        parse("Announce=80", "Web_1.service")
    assert parse("Announce=web 80", "Web_1.service").services == (("web", (ServicePort(80),)),)


def test_what_depends_on_the_instance_is_well_in_a_template() -> None:
    validate_announcing(parse_unit_file("[X-Fleet]\nAnnounce=web-%i 80\n"), "web@.service")
    validate_announcing(parse_unit_file("[X-Fleet]\nAnnounce=80\n"))
    with pytest.raises(InvalidRequirements):
        validate_announcing(parse_unit_file("[X-Fleet]\nAnnounce=web-%i 80\n"), "web@A.service")


def test_the_options_of_a_content_come_from_its_dropins_too() -> None:
    assert announce_options_of(Content("[Service]\n"), "a.service") is NOTHING
    dropin = DropIn("10.conf", "[X-Fleet]\nAnnounce=80\n")
    assert announce_options_of(Content("[Service]\n", (dropin,)), "a.service").services == (("a", (ServicePort(80),)),)
    assert announce_options_of(Content("Announce=80\n"), "a.service") is NOTHING  # no unit file


def test_a_record_announces_each_port_while_the_check_passes() -> None:
    record = ServiceRecord("10.0.0.1", (ServicePort(53), ServicePort(53, "udp")), "eu", "", "dns", "m1", "a.service")
    stored = KeyValue("/fleet/services/dns/m1/a.service", encode(record), 1, 1)
    assert SERVICES.decode(stored) == record
    assert b"a.service" not in stored.value
    assert record.announcements() == tuple(
        Announcement("dns", "a.service", "m1", "10.0.0.1", 53, protocol, "eu") for protocol in ("tcp", "udp")
    )
    failing = ServiceRecord("10.0.0.1", (ServicePort(53),), failing="tcp:53: refused")
    bad = KeyValue("/fleet/services/dns/m1/a.service", encode(ServiceRecord("1;2", (ServicePort(53),))), 1, 1)
    assert failing.announcements() == SERVICES.decode(bad).announcements() == ()


def test_labels_of_dns_are_names_of_services() -> None:
    assert [refuse_service_name(each) for each in ("a", "a-1", "0", "a" * 63)] == [""] * 4
    assert refuse_service_name("a\n").startswith('"a" is no label')
