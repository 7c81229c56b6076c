"""cluster rotate-ca, as a user types it."""

import re

from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster


def test_the_new_authority_is_shown_and_what_becomes_of_the_former_one(fleetctl: Fleetctl) -> None:
    result = fleetctl("cluster", "rotate-ca")
    assert result.status == 0
    assert re.fullmatch(r"Authority 2 signs from now on \(SHA-256 [0-9a-f]{64}\)\n", result.stdout)
    assert result.stderr.startswith("Certificates of the former one count until 20")
    assert len(result.stderr.splitlines()) == 1


def test_where_the_key_is_in_a_file_its_place_is_said(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.trust.keys_are_in = "/var/lib/fleet/trust/authority-2.key"
    result = fleetctl("cluster", "rotate-ca")
    assert (
        "The other servers fetch the private key from this one, where it is /var/lib/fleet/trust/authority-2.key"
        in (result.stderr)
    )


def test_arguments_and_options_of_other_actions_are_refused(fleetctl: Fleetctl) -> None:
    result = fleetctl("cluster", "rotate-ca", "now")
    assert (result.status, result.stderr) == (2, "cluster rotate-ca takes no arguments\n")
    result = fleetctl("cluster", "rotate-ca", "--address=10.0.0.1")
    assert (result.status, result.stderr) == (2, "--address is for cluster init, not for cluster rotate-ca\n")
