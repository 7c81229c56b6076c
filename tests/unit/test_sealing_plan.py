"""Which secrets the leader has sealed, and for whom."""

from fleetd.model.certificate import WORKER
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.placement import Placement
from fleetd.model.secret import SealedSecret, SealedVersion, SecretRef
from fleetd.model.unit import TargetState
from fleetd.registry.records import MACHINE_IDENTITIES, PLACEMENTS, SEALED_SECRETS, SECRETS
from fleetd.scheduler.sealing import SealingPlan, may_lead, plan_sealing
from tests.unit.cluster_builder import A, Cluster
from tests.unit.test_secret import NAMED, plan_and_apply, secret, with_machines


def placement(machine: str, *refs: tuple[str, int], target: TargetState = TargetState.LAUNCHED) -> Placement:
    return Placement(machine, A, "", target, 1, secrets=tuple(SecretRef(*ref) for ref in refs))


def sealed(machine: str, *numbers: int) -> SealedSecret:
    return SealedSecret(f"k{machine}", tuple(SealedVersion(number, b"k", b"b") for number in numbers))


def placed(cluster: Cluster) -> Cluster:
    cluster.write(SECRETS, ("db.pw",), secret(5, keys=("km1", "km2")))
    cluster.unit(A, NAMED)
    plan_and_apply(cluster)
    return cluster


def test_nothing_is_done_in_a_cluster_without_secrets():
    cluster = with_machines("m1", "m2")
    cluster.unit(A)
    plan_and_apply(cluster)
    assert not plan_sealing(cluster.snapshot)
    assert plan_sealing(cluster.snapshot) == SealingPlan()


def test_what_a_placement_names_is_sealed_before_it_is_written_and_after_it_was():
    cluster = with_machines("m1", "m2")
    cluster.write(SECRETS, ("db.pw",), secret(5, keys=("km1", "km2")))
    coming = [placement("m1", ("db.pw", 5))]
    assert plan_sealing(cluster.snapshot, coming) == SealingPlan({("m1", "db.pw"): (5,)})
    cluster = placed(cluster)
    assert cluster.snapshot.sealing_is_due
    assert plan_sealing(cluster.snapshot).seal == {("m1", "db.pw"): (5,)}
    assert plan_sealing(cluster.snapshot).secrets == ("db.pw",)
    cluster.write(SEALED_SECRETS, ("m1", "db.pw"), sealed("m1", 5))
    assert plan_sealing(cluster.snapshot, coming) == SealingPlan()


def test_nothing_is_sealed_for_who_is_not_there_or_has_no_key_and_of_what_there_is_not():
    cluster = with_machines("m1")
    cluster.machine("m2")
    cluster.write(SECRETS, ("db.pw",), secret(5, keys=("km1",)))
    coming = [
        placement("m1", ("db.pw", 4), ("other", 1)),
        placement("m2", ("db.pw", 5)),
        placement("gone", ("db.pw", 5)),
        placement("m1", ("db.pw", 5), target=TargetState.INACTIVE),
    ]
    assert plan_sealing(cluster.snapshot, coming) == SealingPlan()


def test_a_machine_with_another_key_is_given_its_secrets_anew():
    cluster = placed(with_machines("m1"))
    cluster.write(SEALED_SECRETS, ("m1", "db.pw"), sealed("m1", 5))
    cluster.machine("m1", facts={"seal_key": "another"})
    assert cluster.snapshot.sealing_is_due
    plan = plan_sealing(cluster.snapshot)
    assert plan.seal == {("m1", "db.pw"): (5,)}
    assert plan.share == {("db.pw", 5): ("another",)}


def test_what_nothing_names_any_more_on_a_machine_is_deleted_there():
    cluster = placed(with_machines("m1", "m2"))
    cluster.write(SEALED_SECRETS, ("m1", "db.pw"), sealed("m1", 5))
    cluster.write(SEALED_SECRETS, ("m2", "db.pw"), sealed("m2", 5))
    assert plan_sealing(cluster.snapshot).delete == (("m2", "db.pw"),)
    cluster.snapshot.sealing_is_due = False
    cluster.write(PLACEMENTS, ("m1", A), None)
    assert cluster.snapshot.sealing_is_due
    assert plan_sealing(cluster.snapshot).delete == (("m1", "db.pw"), ("m2", "db.pw"))


def test_servers_that_cannot_open_a_secret_are_given_it_and_workers_are_not():
    cluster = with_machines("m1", "m2", "m3", "m4")
    cluster.machine("m4", facts={"seal_key": ""})
    cluster.write(SECRETS, ("db.pw",), secret(5, 6, keys=("km1",)))
    cluster.write(MACHINE_IDENTITIES, ("m3",), MachineIdentity(WORKER))
    assert plan_sealing(cluster.snapshot).share == {("db.pw", 5): ("km2",), ("db.pw", 6): ("km2",)}
    cluster.write(MACHINE_IDENTITIES, ("m3",), None)
    assert plan_sealing(cluster.snapshot).share == {("db.pw", 5): ("km2", "km3"), ("db.pw", 6): ("km2", "km3")}


def test_no_secret_is_sealed_to_a_worker_whose_joining_a_restored_store_has_lost():
    cluster = with_machines("m1", "m2")
    cluster.machine("m2", facts={"is_worker": True})
    cluster.write(SECRETS, ("db.pw",), secret(5, keys=("km1",)))
    assert plan_sealing(cluster.snapshot).share == {}


def test_a_machine_that_leaves_or_does_not_lead_is_not_waited_for():
    assert may_lead(Machine("m1"))
    assert not may_lead(Machine("m1", mode=MachineMode.LEAVING))
    assert not may_lead(Machine("m1", capabilities={"DISABLE_ENGINE": True}))
