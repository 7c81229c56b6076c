"""machine: token and remove, as a user types them."""

import pytest
from msgspec.structs import replace

from fleetd.model.join_token import hash_text, parse_token
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.unit import UnitState
from fleetd.registry.records import JOIN_TOKENS, MACHINE_IDENTITIES, REVOCATIONS
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

M3 = "3" * 32


@pytest.fixture
def server(cluster: ScriptedCluster) -> ScriptedCluster:
    """A cluster whose machine 1 serves https."""
    cluster.put(replace(M1, https=":7443"), M1.id)
    return cluster


@pytest.mark.parametrize(
    ("options", "machine", "note"),
    [
        ([], "", "For one new machine, until "),
        (["--machine-id", M3], M3, "For machine 33333333..., until "),
    ],
)
def test_a_token_stands_alone_on_standard_output(
    fleetctl: Fleetctl, server: ScriptedCluster, options: list[str], machine: str, note: str
) -> None:
    result = fleetctl("machine", "token", *options)
    token = parse_token(result.stdout.removesuffix("\n"))
    stored = server.read(JOIN_TOKENS)[hash_text(token.secret),]
    assert (result.status, stored.machine) == (0, machine)
    assert result.stderr.startswith(note)
    assert result.stderr.endswith(" UTC. There, as root: fleetd join https://10.0.0.1:7443 TOKEN\n")


def test_no_token_is_made_where_no_server_serves_https(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("machine", "token")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("Error making a join token: Error 409: no machine of the cluster says where it ")


def test_a_machine_is_removed_by_a_prefix_of_its_id_and_one_that_is_absent_by_all_of_it(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    cluster.put(MachineIdentity("worker"), M2.id)
    cluster.put(MachineIdentity("worker"), M3)
    result = fleetctl("machine", "remove", "2222", M3)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == "Removed machine 22222222...\nRemoved machine 33333333...\n"
    assert [machine.id for machine in cluster.machines] == [M1.id]
    assert cluster.read(MACHINE_IDENTITIES) == {}
    assert {each.subject for each in cluster.read(REVOCATIONS).values()} == {f"machine/{M2.id}", f"machine/{M3}"}


def test_one_that_is_in_use_is_removed_by_force_alone(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.put(MachineIdentity("worker"), M2.id)
    cluster.put(UnitState(active="active"), M2.id, "a.service")
    result = fleetctl("machine", "remove", "2222")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        "Error removing machine 22222222...: Error 409: units run there: a.service; fleetctl drain --globals takes "
        "them off it, and --force removes it as it is: they start elsewhere, whether or not it stops them\n"
    )
    assert fleetctl("machine", "remove", "--force", "2222").status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "fleetctl machine needs one of: "),
        (["tokn"], 2, "tokn is none of: "),
        (["token", "m1"], 2, "machine token takes no arguments; --machine-id names the machine"),
        (["token", "--machine-id=m1"], 2, "--machine-id: 'm1' is no machine id, which has 32 hexadecimal digits; "),
        (["token", "--force"], 2, "--force is for machine remove, not for machine token"),
        (["remove", "--machine-id=1", "2222"], 2, "--machine-id is for machine token, not for machine remove"),
        (["remove"], 1, "No machines given"),
        (["remove", "4444"], 1, "4444 is not a machine of the cluster"),
        (["remove", "4" * 32], 1, "Error removing machine 44444444...: Error 404: unknown machine: "),
    ],
)
def test_a_wrong_command_line_is_refused_in_words(
    fleetctl: Fleetctl, server: ScriptedCluster, words: list[str], status: int, said: str
) -> None:
    result = fleetctl("machine", *words)
    assert (result.status, result.stdout) == (status, "")
    assert result.stderr.startswith(said)
