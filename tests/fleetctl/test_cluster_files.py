"""What fleetctl writes on servers: fleet.conf, etcd.yaml; and who votes in etcd."""

import pytest

from contrib.testbed.root import CHECKOUT
from fleetctl.cluster import layout
from fleetctl.cluster.etcd_members import Member, failures_allowed, should_vote, waiting_learner
from fleetd.config.file_edit import set_options

A, B, C = (
    Member(str(number), name * 32, (f"https://10.0.0.{number}:2380",), (f"https://10.0.0.{number}:2379",))
    for number, name in enumerate("abc", start=1)
)
LEARNER = Member("4", "d" * 32, ("https://10.0.0.4:2380",), ("https://10.0.0.4:2379",), is_learner=True)
NEW = Member("5", "", ("https://10.0.0.5:2380",), is_learner=True)


def test_the_options_of_a_server_go_into_the_file_that_the_package_brings() -> None:
    text = set_options((CHECKOUT / "contrib/fleet.conf").read_text(), {"etcd_servers": "https://127.0.0.1:2379"})
    lines = text.splitlines()
    at = lines.index("etcd_servers=https://127.0.0.1:2379")
    assert lines[at - 1].startswith("# etcd_servers=")


def test_a_server_uses_its_own_etcd_first_and_keeps_where_it_listens() -> None:
    options = layout.server_options([A, NEW, B], "/run/other.sock")
    assert options["etcd_servers"] == "https://127.0.0.1:2379,https://10.0.0.1:2379,https://10.0.0.2:2379"
    assert options["listen"] == "/run/other.sock,https://:7443"
    assert layout.server_options([], options["listen"])["listen"] == options["listen"]


def test_etcd_yaml_of_the_first_server_begins_a_cluster_and_of_a_further_one_joins_it() -> None:
    first = layout.render_etcd_yaml("a" * 32, "10.0.0.1", [])
    assert f"\ninitial-cluster: {'a' * 32}=https://10.0.0.1:2380\ninitial-cluster-state: new\n" in first
    assert first.count("client-cert-auth: true") == 2
    further = layout.render_etcd_yaml("b" * 32, "fd00::2", [A, NEW])
    cluster = f"{'a' * 32}=https://10.0.0.1:2380,{'b' * 32}=https://[fd00::2]:2380"
    assert f"\ninitial-cluster: {cluster}\ninitial-cluster-state: existing\n" in further
    assert [layout.read_address(text) for text in (first, further, "", "initial-advertise-peer-urls: x\n")] == [
        "10.0.0.1",
        "fd00::2",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("members", "further_votes", "may_fail"),
    [
        ([A], False, 0),
        ([A, LEARNER], False, 0),
        ([A, B], True, 0),
        ([A, B, LEARNER], True, 0),
        ([A, B, C], False, 1),
        ([A, B, C, LEARNER], False, 1),
        ([], True, 0),
    ],
)
def test_the_number_of_voters_stays_odd(members: list[Member], further_votes: bool, may_fail: int) -> None:
    assert (should_vote(members), failures_allowed(members)) == (further_votes, may_fail)


def test_a_learner_that_waits_is_another_one_than_the_newcomer() -> None:
    assert waiting_learner([A, LEARNER], "https://10.0.0.5:2380") == LEARNER
    assert waiting_learner([A, LEARNER], LEARNER.peer_urls[0]) is None
    assert waiting_learner([A, B], "https://10.0.0.5:2380") is None


def test_a_machine_id_of_digits_alone_is_text_for_yaml() -> None:
    assert f'\nname: "{"1" * 32}"\n' in layout.render_etcd_yaml("1" * 32, "10.0.0.1", [])
