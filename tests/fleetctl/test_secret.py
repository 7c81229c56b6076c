"""secret: list, set, go back and remove; the value is shown nowhere."""

import json
from collections.abc import Callable

import pytest

from fleetd.registry.records import SECRETS
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

USER = "[Service]\nExecStart=/bin/true\nLoadCredential=db.pw:/run/fleet/credentials.sock\n[X-Fleet]\nSecret=db.pw\n"
VALUE = b"correct horse battery staple\n"
Say = Callable[[bytes], None]


def versions(cluster: ScriptedCluster, name: str = "db.pw") -> list[int]:
    found = cluster._loop.do(cluster.registry.get_many(SECRETS, [(name,)]))
    return [version.number for version in found[(name,)].versions] if found else []


def test_a_secret_is_set_listed_and_removed_and_its_value_never_shown(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say
) -> None:
    say(VALUE)
    result = fleetctl("--debug", "secret", "set", "db.pw")
    (number,) = versions(cluster)
    assert (result.status, result.stdout) == (0, f"Set the secret db.pw (version {number})\n")
    assert "horse" not in result.stderr
    rows = [line.split() for line in fleetctl("secret").stdout.splitlines()]
    assert rows[0] == ["SECRET", "VERSION", "SET", "BY", "UNITS"]
    assert (rows[1][:2], rows[1][-2:]) == (["db.pw", str(number)], ["root", "-"])
    (shown,) = json.loads(fleetctl("secret", "list", "--output=json").stdout)
    assert (shown["secret"], shown["version"], shown["previous"], shown["size"]) == ("db.pw", number, None, len(VALUE))
    assert fleetctl("secret", "rm", "db.pw").stdout == "Removed the secret db.pw\n"
    assert versions(cluster) == []
    result = fleetctl("secret", "rm", "db.pw")
    assert (result.status, result.stderr) == (
        1,
        "Error removing the secret db.pw: Error 404: there is no secret db.pw\n",
    )


def test_units_that_run_with_it_are_restarted_and_keep_it_from_being_removed(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say
) -> None:
    for number in "1234":
        cluster.add(f"web@{number}.service", USER, "launched")
    say(VALUE)
    result = fleetctl("secret", "set", "db.pw")
    assert "Restarting web@.service; fleetctl rollout status --wait web@.service follows it\n" in result.stdout
    assert "web@1.service,web@2.service,web@3.service and 1 more" in fleetctl("secret").stdout
    result = fleetctl("secret", "rm", "db.pw")
    assert result.status == 1
    assert "the secret db.pw is named by web@1.service, web@2.service" in result.stderr
    assert fleetctl("secret", "rm", "--force", "db.pw").status == 0
    assert versions(cluster) == []


def test_what_is_not_restarted_is_warned_of(fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say) -> None:
    cluster.add("a.service", USER, "launched")
    for _ in range(2):
        say(VALUE)
        result = fleetctl("secret", "set", "db.pw")
    assert result.status == 0
    words = "a.service is not restarted, and runs with the version that it has: "
    assert words in result.stderr
    assert "a rollout of a.service is not over" in result.stderr


def test_it_goes_back_to_the_version_before(fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say) -> None:
    for value in (VALUE, b"another"):
        say(value)
        fleetctl("secret", "set", "db.pw")
    first, second = versions(cluster)
    assert fleetctl("secret", "revert", "db.pw").stdout == f"Set the secret db.pw (version {first})\n"
    assert versions(cluster) == [second, first]
    result = fleetctl("secret", "revert", "x")
    assert (result.status, result.stderr) == (1, "Error setting the secret x: Error 409: there is no secret x\n")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "the value is empty: a service could not tell it from a secret that it was not given"),
        (bytes(2**20), "the value has 1048576 bytes, and at most 65536 are allowed"),
    ],
)
def test_a_value_that_is_none_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say, value: bytes, words: str
) -> None:
    say(value)
    result = fleetctl("secret", "set", "db.pw")
    assert (result.status, result.stderr) == (1, f"Error setting the secret db.pw: {words}\n")
    assert versions(cluster) == []


def test_nul_bytes_are_a_value(fleetctl: Fleetctl, cluster: ScriptedCluster, say: Say) -> None:
    say(b"\0\0")
    assert fleetctl("secret", "set", "db.pw").status == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["get", "db.pw"], "get is neither list, set, revert nor rm"),
        (["set"], "secret set takes the name of one secret"),
        (["rm", "a", "b"], "secret rm takes the name of one secret"),
        (["list", "a"], "secret list takes no name"),
        (["set", "--force", "a"], "--force is for secret rm alone"),
        (["set", "a:b"], '"a:b" is no name of a secret'),
    ],
)
def test_what_is_typed_wrong_is_refused_in_words(
    fleetctl: Fleetctl, cluster: ScriptedCluster, words: list[str], complaint: str
) -> None:
    result = fleetctl("secret", *words)
    assert result.status == 2
    assert complaint in result.stderr
    assert cluster.requests == []
