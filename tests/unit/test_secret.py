"""Secrets as the store keeps them, what a unit may say of them, and where the leader places units that name some."""

import pytest

from fleetd.model.actor import Actor
from fleetd.model.admission import refuse_unit
from fleetd.model.permission import parse_rights
from fleetd.model.reason import MissingSecrets, render
from fleetd.model.secret import (
    MAX_SECRET_BYTES,
    SealedSecret,
    SealedVersion,
    Secret,
    SecretRef,
    SecretVersion,
    next_version,
    refuse_secret_name,
    refuse_secret_value,
    with_previous,
    with_sealed,
    with_version,
)
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import parse_unit_file
from fleetd.registry.records import SEALED_SECRETS, SECRETS
from fleetd.scheduler.unit_plan import UnitPlanBuilder
from tests.unit.cluster_builder import A, Cluster

SOCKET = "/run/fleet/credentials.sock"
NAMED = "Secret=db.pw"


def options(text: str):
    return parse_unit_file(text)


def unit(fleet: str = NAMED, service: str = f"LoadCredential=db.pw:{SOCKET}"):
    return options(f"[Service]\nExecStart=/bin/true\n{service}\n[X-Fleet]\n{fleet}\n")


@pytest.mark.parametrize("name", ["db.pw", "a", "_x", "web@1", "A-b_c.9", "x" * 128])
def test_names_that_systemd_takes_are_names_of_secrets(name):
    assert refuse_secret_name(name) == ""


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "a\n", "ä", "x" * 129, "a\0"])
def test_other_names_are_refused_in_words(name):
    assert "is no name of a secret: it has to hold letters" in refuse_secret_name(name)


def test_values_are_any_bytes_up_to_a_size():
    assert refuse_secret_value(b"\0\0") == ""
    assert refuse_secret_value(bytes(MAX_SECRET_BYTES)) == ""
    assert "is empty" in refuse_secret_value(b"")
    assert refuse_secret_value(bytes(2**20)) == "the value has 1048576 bytes, and at most 65536 are allowed"
    assert "has 99999 bytes" in refuse_secret_value(b"begin", 99_999)


def test_two_versions_are_kept_and_can_be_exchanged():
    first = with_version(None, SecretVersion(next_version(None, 7)))
    second = with_version(first, SecretVersion(next_version(first, 7)))
    third = with_version(second, SecretVersion(next_version(second, 20)))
    assert [[each.number for each in secret.versions] for secret in (first, second, third)] == [[7], [7, 8], [8, 20]]
    assert third.present.number == 20
    assert (third.has(8), third.has(7)) == (True, False)
    back = with_previous(third)
    assert back.present.number == 8
    assert next_version(back, 3) == 21, "a number is never used twice"


def test_a_machine_keeps_two_versions_sealed_to_its_present_key():
    def sealed(number):
        return SealedVersion(number, b"k", b"b")

    record = with_sealed(None, "key", sealed(5))
    for number in (3, 9, 9):
        record = with_sealed(record, "key", sealed(number))
    assert [each.number for each in record.versions] == [5, 9]
    assert record.find(9) == sealed(9)
    assert record.find(3) is None
    assert with_sealed(record, "another", sealed(5)) == SealedSecret("another", (sealed(5),))


def test_a_unit_that_names_a_secret_and_loads_it_is_accepted_without_a_warning():
    assert refuse_unit(A, unit()) == ""
    assert advise(A, unit()) == ()
    several = unit("Secret=a b-%i\nSecret=a", f"LoadCredential=a:{SOCKET}\nLoadCredential=b-%i:{SOCKET}")
    assert refuse_unit("w@1.service", several) == ""
    assert advise("w@1.service", several) == ()


@pytest.mark.parametrize(
    ("fleet", "service", "refusal"),
    [
        ("Secret=a/b", "", '"a/b" is no name of a secret'),
        ("Secret=" + " ".join(f"s{number}" for number in range(33)), "", "Secret has 33 values, and at most 32"),
        ("", f"LoadCredential=x:{SOCKET}", "add Secret=x to [X-Fleet]"),
        (NAMED, f"LoadCredential=x:{SOCKET}", "add Secret=x to [X-Fleet]"),
    ],
)
def test_what_systemd_could_not_start_is_refused_in_words(fleet, service, refusal):
    assert refusal in refuse_unit(A, unit(fleet, service))


@pytest.mark.parametrize(
    "service", [f"LoadCredential=x:{SOCKET}\nLoadCredential=", "LoadCredential=x:/etc/x", "LoadCredential=x"]
)
def test_other_credentials_are_no_secrets(service):
    assert refuse_unit(A, unit("", service)) == ""


def test_a_secret_that_systemd_does_not_ask_for_is_warned_of():
    assert advise(A, unit(service="")) == (
        f"Secret=db.pw reaches no process: add LoadCredential=db.pw:{SOCKET} to [Service]",
    )


def test_who_may_submit_web_units_may_name_web_secrets_alone():
    actor = Actor("ann", rights=parse_rights("submit:web-*"))
    assert actor.refuse_content("web-a.service", unit("Secret=web-pw")) == ""
    assert actor.refuse_content("web-a.service", unit()).startswith("Secret=db.pw: ann may not do this")


# Where units with secrets are placed.


def secret(*numbers: int, keys: tuple[str, ...] = ("k1",)) -> Secret:
    return Secret(tuple(SecretVersion(number, b"box", dict.fromkeys(keys, b"key")) for number in numbers))


def with_machines(*names: str) -> Cluster:
    cluster = Cluster()
    for name in names:
        cluster.machine(name, facts={"seal_key": f"k{name}"})
    return cluster


def plan_and_apply(cluster: Cluster):
    plan = cluster.plan()
    cluster.apply(plan)
    return plan


def decision(cluster: Cluster, name: str = A):
    return cluster.snapshot.decisions[name]


def refs(cluster: Cluster, name: str = A):
    return {machine: placement.secrets for machine, placement in cluster.snapshot.placements.get(name, {}).items()}


def test_a_unit_waits_for_its_secret_and_says_so():
    cluster = with_machines("m1")
    cluster.unit(A, "Secret=db.pw tls")
    plan_and_apply(cluster)
    assert decision(cluster).machine == ""
    assert render(decision(cluster).reason) == "its secrets db.pw and tls are missing (fleetctl secret set db.pw)"
    cluster.write(SECRETS, ("tls",), secret(3))
    plan_and_apply(cluster)
    assert decision(cluster).reason == MissingSecrets(("db.pw",))
    assert render(decision(cluster).reason) == "its secret db.pw is missing (fleetctl secret set db.pw)"
    cluster.write(SECRETS, ("db.pw",), secret(5))
    plan_and_apply(cluster)
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 5), SecretRef("tls", 3))}


def test_a_global_unit_waits_for_its_secret_too():
    cluster = with_machines("m1", "m2")
    cluster.unit(A, "Global=true\nSecret=db.pw")
    plan_and_apply(cluster)
    assert decision(cluster).reason == MissingSecrets(("db.pw",))
    cluster.write(SECRETS, ("db.pw",), secret(5))
    plan_and_apply(cluster)
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 5),), "m2": (SecretRef("db.pw", 5),)}


def test_a_machine_without_a_key_takes_no_unit_with_a_secret():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.write(SECRETS, ("db.pw",), secret(5))
    cluster.unit(A, NAMED)
    cluster.unit("b.service")
    plan_and_apply(cluster)
    assert refs(cluster) == {}
    assert [each.rejection.kind for each in decision(cluster).rejections] == ["no-seal-key"]
    assert decision(cluster, "b.service").machine == "m1"
    cluster.machine("m1", facts={"seal_key": "k1"})
    plan_and_apply(cluster)
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 5),)}


def test_a_running_unit_keeps_its_version_until_it_is_restarted():
    cluster = with_machines("m1")
    cluster.write(SECRETS, ("db.pw",), secret(5))
    cluster.unit(A, NAMED)
    plan_and_apply(cluster)
    cluster.write(SECRETS, ("db.pw",), secret(5, 8))
    assert cluster.plan().writes == ()
    cluster.elect()
    assert plan_and_apply(cluster).units == ()
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 5),)}
    cluster.unit(A, NAMED)  # a new generation: a restart, or another start
    plan_and_apply(cluster)
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 8),)}
    cluster.write(SECRETS, ("db.pw",), None)
    cluster.elect()
    assert plan_and_apply(cluster).units == ()
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 8),)}, "what runs is left alone when its secret is removed"


def test_a_version_that_is_not_kept_any_more_is_replaced_by_the_present_one():
    cluster = with_machines("m1")
    cluster.write(SECRETS, ("db.pw",), secret(5))
    cluster.unit(A, NAMED)
    plan_and_apply(cluster)
    cluster.write(SECRETS, ("db.pw",), secret(8, 9))
    cluster.elect()
    plan_and_apply(cluster)
    assert refs(cluster) == {"m1": (SecretRef("db.pw", 9),)}


def test_a_member_that_a_rollout_has_not_got_to_keeps_its_version_on_another_machine():
    cluster = with_machines("m1")
    cluster.write(SECRETS, ("db.pw",), secret(5))
    cluster.unit(A, NAMED)
    plan_and_apply(cluster)
    cluster.write(SECRETS, ("db.pw",), secret(5, 8))
    cluster.unit(A, NAMED)
    cluster.machine("m2", facts={"seal_key": "km2"})
    plan = UnitPlanBuilder.begin(cluster.snapshot, A)
    assert plan.placement_on("m2").secrets == (SecretRef("db.pw", 8),)
    plan.held = {"": cluster.snapshot.units[A].content}
    assert plan.placement_on("m2").secrets == (SecretRef("db.pw", 5),)
    plan.acts_at_once = True
    assert plan.placement_on("m2").secrets == (SecretRef("db.pw", 8),)


def test_the_snapshot_keeps_no_values():
    cluster = with_machines("m1")
    cluster.write(SECRETS, ("db.pw",), secret(5))
    cluster.write(SEALED_SECRETS, ("m1", "db.pw"), SealedSecret("km1", (SealedVersion(5, b"key", b"box"),)))
    assert cluster.snapshot.secrets["db.pw"] == Secret((SecretVersion(5, b"", {"k1": b""}),), revision=0)
    assert cluster.snapshot.sealed["m1", "db.pw"] == SealedSecret("km1", (SealedVersion(5, b"", b""),))
