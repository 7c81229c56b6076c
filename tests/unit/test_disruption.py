"""The disruption budget: who is a member of a group, who is unavailable, and whom that protects."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.announcement import NOT_SETTLED
from fleetd.model.content import Content
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.model.reason import BudgetWait, Unavailability, UnavailableMember, is_waiting, render
from fleetd.model.unit import Proof, UnitState
from fleetd.registry.records import DECISIONS, PLACEMENTS, STATES
from fleetd.scheduler.actions import Place, Withdraw
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.proposal import Proposal
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, Cluster

CONTENT = Content("[X-Fleet]\n")
HASH = CONTENT.hash
PLACED = Placement("m1", "a.service", CONTENT.text, LAUNCHED, 7)
ASKED = msgspec.structs.replace(PLACED, prove_after_s=10.0)
RUNS = UnitState("loaded", "active", "running", HASH, LAUNCHED, 7)


def running(**changes):
    return msgspec.structs.replace(RUNS, **changes)


JUDGED = [
    ("one that runs as placed", PLACED, RUNS, None),
    ("one that reads its configuration again", PLACED, running(active="reloading"), None),
    ("a oneshot that has completed", PLACED, running(active="inactive", completed=True), None),
    ("one that runs a later placement", PLACED, running(generation=8, hash="other"), None),
    ("one whose file was deleted from the disk", PLACED, running(hash=""), None),
    ("one without a report", PLACED, None, Unavailability.UNREPORTED),
    ("one with a report from before a restore", PLACED, running(outdated=True), Unavailability.UNREPORTED),
    ("one that runs an earlier placement", PLACED, running(generation=6), Unavailability.UNREPORTED),
    ("one with other content of this generation", PLACED, running(hash="other"), Unavailability.UNREPORTED),
    ("one that is only loaded", PLACED, running(target=LOADED), Unavailability.UNREPORTED),
    ("one that starts", PLACED, running(active="activating"), Unavailability.INACTIVE),
    ("one that failed", PLACED, running(active="failed"), Unavailability.INACTIVE),
    ("one that is proven", ASKED, running(proof=Proof(7, HASH, "i")), None),
    ("one without a proof", ASKED, RUNS, Unavailability.UNPROVEN),
    ("one with a proof of an earlier placement", ASKED, running(proof=Proof(6, HASH)), Unavailability.UNPROVEN),
    ("one with a proof of other content", ASKED, running(proof=Proof(7, "other")), Unavailability.UNPROVEN),
    ("one that was found unhealthy", ASKED, running(proof=Proof(7, HASH, "", "port 80")), Unavailability.UNHEALTHY),
    ("one that is not announced", PLACED, running(unannounced="refused"), Unavailability.UNANNOUNCED),
    ("one that was announced just now", PLACED, running(unannounced=NOT_SETTLED), Unavailability.SETTLING),
    (
        "one that is no more announced",
        ASKED,
        running(proof=Proof(7, HASH), unannounced="x"),
        Unavailability.UNANNOUNCED,
    ),
    ("one that is neither announced nor proven", ASKED, running(unannounced="x"), Unavailability.UNPROVEN),
    ("one that has stopped, and is not announced", PLACED, running(active="failed"), Unavailability.INACTIVE),
    ("one that waits for its lock", ASKED, running(active="inactive", generation=6, result=WAITS_FOR_LOCK), None),
    (
        "one that waits for it with other content",
        PLACED,
        running(active="inactive", generation=6, hash="other", result=WAITS_FOR_LOCK),
        Unavailability.UNREPORTED,
    ),
    ("one with a proof that was not requested", PLACED, running(proof=Proof(6, "other")), None),
]


@pytest.mark.parametrize(("placement", "state", "why"), [row[1:] for row in JUDGED], ids=[row[0] for row in JUDGED])
def test_an_allocation_is_available_by_what_its_machine_reports(placement, state, why):
    assert judge_member(placement, state) is why


def web_cluster(size=3, options="", down=()):
    """Instances web@1 … of web@.service, each active on a machine of its own; those in `down` have failed."""
    cluster = Cluster()
    cluster.unit("web@.service", options, INACTIVE)
    for number in range(1, size + 1):
        cluster.machine(f"m{number}")
        cluster.unit(f"web@{number}.service")
        cluster.place(f"web@{number}.service", f"m{number}", "failed" if number in down else "active")
    return cluster


def find_unhealthy(cluster, number, **state):
    """The machine of this instance has answered that it is not healthy."""
    name, machine = f"web@{number}.service", f"m{number}"
    order = msgspec.structs.replace(cluster.snapshot.placements[name][machine], prove_after_s=10.0)
    proof = Proof(order.generation, order.content.hash, failed="it was not proven in time")
    cluster.write(PLACEMENTS, (machine, name), order)
    cluster.write(STATES, (machine, name), running(generation=order.generation + 1, proof=proof, **state))


def forget_since_restore(cluster, number):
    """The machine of this instance has not reported since the store was restored."""
    name, machine = f"web@{number}.service", f"m{number}"
    state = cluster.snapshot.states[name][machine]
    cluster.write(STATES, (machine, name), msgspec.structs.replace(state, outdated=True))


def budget_of(cluster):
    return Proposal(cluster.snapshot).budget


def test_what_members_wait_for_is_found_once_until_one_of_them_changes():
    cluster = web_cluster(5, "MaxUnavailable=2")
    budget = budget_of(cluster)
    budget.spend("web@1.service", "m1")
    budget.spend("web@2.service", "m2")
    wait = budget.may_disturb("web@3.service", "m3")
    assert wait is not None
    assert budget.may_disturb("web@4.service", "m4") is wait
    budget.excuse("web@2.service", "m2")
    assert budget.may_disturb("web@3.service", "m3") is None
    budget.spend("web@3.service", "m3")
    wait = budget.may_disturb("web@4.service", "m4")
    assert [member.unit for member in wait.members] == ["web@1.service", "web@3.service"]
    budget.spend("web@5.service", "m5")
    assert budget.may_disturb("web@4.service", "m4").unavailable == 3
    assert budget.may_disturb("web@3.service", "m3") is None  # it is disturbed already


def test_a_member_that_is_excused_stays_so_when_it_is_counted_again():
    budget = budget_of(web_cluster(3, down={1}))
    budget.excuse("web@1.service", "m1")
    budget.note_change("web@1.service")
    assert budget.unavailability("web@1.service", "m1") is None
    assert budget.may_disturb("web@2.service", "m2") is None


def test_one_member_may_be_disturbed_and_then_no_other():
    budget = budget_of(web_cluster())
    assert budget.may_disturb("web@2.service", "m2") is None
    budget.spend("web@2.service", "m2")
    wait = budget.may_disturb("web@1.service", "m1")
    assert wait == BudgetWait(1, 1, (UnavailableMember("web@2.service", "m2", Unavailability.DISTURBED),))
    assert render(wait) == "waits: web@2.service is about to be changed on m2 (MaxUnavailable=1)"
    assert is_waiting(wait)
    assert budget.may_disturb("web@2.service", "m2") is None


def test_a_member_that_is_unavailable_anyway_costs_nothing():
    budget = budget_of(web_cluster(down={1}))
    assert budget.may_disturb("web@1.service", "m1") is None
    budget.spend("web@1.service", "m1")
    assert budget.unavailability("web@1.service", "m1") is Unavailability.DISTURBED
    assert budget.may_disturb("web@2.service", "m2") is not None


def announce_just_now(cluster, numbers):
    for number in numbers:
        name, machine = f"web@{number}.service", f"m{number}"
        state = cluster.snapshot.states[name][machine]
        cluster.write(STATES, (machine, name), msgspec.structs.replace(state, unannounced=NOT_SETTLED))


def test_a_member_that_was_announced_just_now_counts_as_unavailable_and_costs_as_much_as_an_available_one():
    cluster = web_cluster()
    announce_just_now(cluster, [1, 2])
    budget = budget_of(cluster)
    waited = UnavailableMember("web@1.service", "m1", Unavailability.SETTLING)
    assert budget.may_disturb("web@2.service", "m2") == BudgetWait(1, 1, (waited,))
    assert budget.spend_all([("web@1.service", "m1")]) is not None
    assert budget.may_disturb("web@3.service", "m3") is not None
    announced = web_cluster()
    announce_just_now(announced, [2])
    assert budget_of(announced).may_disturb("web@2.service", "m2") is None


@pytest.mark.parametrize(
    ("options", "may_fail"), [("MaxUnavailable=2", 1), ("MaxUnavailable=50%", 1), ("MaxUnavailable=25%", 0)]
)
def test_the_template_says_how_many_may_be_unavailable_and_percentages_are_rounded_down(options, may_fail):
    for down in range(5):
        budget = budget_of(web_cluster(5, options, down=range(1, down + 1)))
        assert (budget.may_disturb("web@5.service", "m5") is None) is (down <= may_fail)


def test_without_the_template_the_first_instance_says_it():
    cluster = web_cluster(3, down={3})
    assert budget_of(cluster).may_disturb("web@2.service", "m2") is not None
    cluster.destroy("web@.service")
    cluster.unit("web@1.service", "MaxUnavailable=2")
    assert budget_of(cluster).may_disturb("web@2.service", "m2") is None


def test_a_wait_names_the_first_of_those_who_block():
    wait = budget_of(web_cluster(6, "MaxUnavailable=4", down={1, 2, 3, 4})).may_disturb("web@5.service", "m5")
    assert (wait.limit, wait.unavailable, len(wait.members)) == (4, 4, 3)
    assert render(wait) == (
        "waits: web@1.service is not active on m1, web@2.service is not active on m2, web@3.service is not active on "
        "m3, and 1 more (MaxUnavailable=4)"
    )


def test_a_unit_alone_may_be_disturbed_at_once():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.unit("db.service")
    cluster.place("db.service", "m1")
    budget = budget_of(cluster)
    assert budget.may_disturb("db.service", "m1") is None
    assert budget.may_disturb("unknown.service", "m1") is None


def test_units_that_are_not_to_run_are_no_members_and_cost_nothing():
    cluster = web_cluster(3, down={1})
    cluster.unit("web@1.service", target=LOADED)
    cluster.unit("web@4.service", target=INACTIVE)
    budget = budget_of(cluster)
    assert budget.may_disturb("web@1.service", "m1") is None
    assert budget.may_disturb("web@2.service", "m2") is None


def test_what_runs_beside_the_assigned_allocation_is_no_member():
    cluster = web_cluster(2, down={1})
    order = cluster.snapshot.placements["web@2.service"]["m2"]
    cluster.write(PLACEMENTS, ("m1", "web@2.service"), msgspec.structs.replace(order, machine="m1", superseded=True))
    budget = budget_of(cluster)
    assert budget.may_disturb("web@2.service", "m1") is None
    assert budget.may_disturb("web@2.service", "m2") is not None


def test_a_member_whose_machine_is_absent_or_leaves_and_one_without_a_machine_are_unavailable():
    cluster = web_cluster(4)
    cluster.expire_lease("m1")
    cluster.machine("m2", MachineMode.LEAVING)
    cluster.write(PLACEMENTS, ("m3", "web@3.service"), None)
    budget = budget_of(cluster)
    assert budget.unavailability("web@1.service", "m1") is Unavailability.LOST
    assert budget.unavailability("web@2.service", "m2") is Unavailability.LEAVING
    assert budget.unavailability("web@3.service", "") is Unavailability.UNPLACED
    assert render(budget.may_disturb("web@4.service", "m4")) == (
        "waits: web@1.service is on m1, which is absent, web@2.service is on m2, which is leaving, web@3.service is on "
        "no machine (MaxUnavailable=1)"
    )


def test_a_completed_oneshot_is_available_on_no_machine_too():
    cluster = web_cluster(2)
    cluster.write(PLACEMENTS, ("m1", "web@1.service"), None)
    generation = cluster.snapshot.units["web@1.service"].generation
    cluster.write(DECISIONS, ("web@1.service",), None)
    assert budget_of(cluster).unavailability("web@1.service", "") is Unavailability.UNPLACED
    decision = msgspec.structs.replace(cluster.snapshot.decisions["web@2.service"], unit="web@1.service", machine="")
    cluster.write(DECISIONS, ("web@1.service",), msgspec.structs.replace(decision, completed=generation))
    assert budget_of(cluster).may_disturb("web@2.service", "m2") is None
    proposal = Proposal(cluster.snapshot, {"web@1.service": None})
    assert proposal.budget.unavailability("web@1.service", "") is None


def test_a_global_unit_has_a_member_on_each_registered_machine_that_holds_it():
    cluster = Cluster()
    cluster.unit("log.service", "Global=true")
    for machine in ("m1", "m2", "m3", "m4"):
        cluster.machine(machine)
        cluster.place("log.service", machine)
    cluster.die("m1")
    budget = budget_of(cluster)
    assert budget.may_disturb("log.service", "m1") is None
    assert budget.may_disturb("log.service", "m2") is None
    budget.spend("log.service", "m2")
    assert budget.may_disturb("log.service", "m3") == BudgetWait(
        1, 1, (UnavailableMember("log.service", "m2", Unavailability.DISTURBED),)
    )


def test_a_later_controller_sees_what_an_earlier_one_proposed():
    cluster = web_cluster(3)
    for asked_before in (False, True):
        proposal = Proposal(cluster.snapshot, {"web@1.service": None})
        if asked_before:
            assert proposal.budget.may_disturb("web@2.service", "m2") is None
        proposal.apply(proposal.units["web@1.service"], Withdraw("m1"))
        assert proposal.budget.unavailability("web@1.service", "") is Unavailability.UNPLACED
        assert proposal.budget.may_disturb("web@2.service", "m2") is not None
        proposal.apply(proposal.units["web@1.service"], Place("m2"))
        assert proposal.budget.unavailability("web@1.service", "m2") is Unavailability.UNREPORTED
        assert proposal.budget.may_disturb("web@2.service", "m2") is not None


# Whatever is asked, in whatever order.

HEALTHY, UNHEALTHY = (None, "reloading"), ("failed", "activating", "unplaced", "unreported", "absent", "unproven")
OPTIONS = st.sampled_from(["", "MaxUnavailable=2", "MaxUnavailable=34%", "MaxUnavailable=100%"])


def write_member(cluster, name, machine, health):
    """A unit on a machine of its own, in this state of health."""
    cluster.machine(machine)
    cluster.unit(name)
    cluster.place(name, machine, health if health in ("reloading", "failed", "activating") else "active")
    if health == "unplaced":
        cluster.write(PLACEMENTS, (machine, name), None)
    elif health == "unreported":
        cluster.write(STATES, (machine, name), None)
    elif health == "unproven":
        order = cluster.snapshot.placements[name][machine]
        cluster.write(PLACEMENTS, (machine, name), msgspec.structs.replace(order, prove_after_s=1.0))
    elif health == "absent":
        cluster.expire_lease(machine)


@pytest.mark.covers("C.1")
@given(
    groups=st.lists(
        st.tuples(OPTIONS, st.lists(st.sampled_from(HEALTHY + UNHEALTHY), min_size=1, max_size=6)), max_size=3
    ),
    asks=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["change", "move", "evict"])), max_size=30),
)
def test_no_available_member_is_disturbed_while_as_many_are_unavailable_as_may_be(groups, asks):
    cluster = Cluster()
    cluster.machine("other")
    home, down, limits = {}, {}, {}
    for index, (options, members) in enumerate(groups):
        cluster.unit(f"g{index}@.service", options, INACTIVE)
        limits[index] = max(
            1, {"": 1, "MaxUnavailable=2": 2, "MaxUnavailable=34%": len(members) * 34 // 100}.get(options, len(members))
        )
        for number, health in enumerate(members):
            name = f"g{index}@{number}.service"
            write_member(cluster, name, f"m{index}-{number}", health)
            home[name] = "" if health == "unplaced" else f"m{index}-{number}"
            down.setdefault(index, set()).update([name] if health in UNHEALTHY else [])
    proposal = Proposal(cluster.snapshot, dict.fromkeys(home))
    for asked, what in asks if home else ():
        name = sorted(home)[asked % len(home)]
        unavailable = down[int(name[1])]
        plan, machine = proposal.units[name], home[name]
        if what == "evict":  # a controller that does not ask: the unit may not stay there
            if plan.assigned:
                proposal.apply(plan, Withdraw(plan.assigned))
                home[name] = ""
                unavailable.add(name)
            continue
        wait = proposal.budget.may_disturb(name, machine)
        assert (wait is None) is (name in unavailable or len(unavailable) < limits[int(name[1])])
        if wait is not None:
            assert wait.unavailable == len(unavailable)
            assert {each.unit for each in wait.members} <= unavailable
            continue
        proposal.budget.spend(name, machine)
        unavailable.add(name)
        if what == "move":
            if plan.assigned:
                proposal.apply(plan, Withdraw(plan.assigned))
            proposal.apply(plan, Place("other"))
            home[name] = "other"


@pytest.mark.covers("C.1")
@given(
    machines=st.lists(st.sampled_from(["active", "failed", "absent", "leaving", "free"]), max_size=6),
    options=st.sampled_from([1, 2, 3]),
    asks=st.lists(st.integers(0, 5), max_size=12),
)
def test_the_same_holds_for_the_machines_of_a_global_unit(machines, options, asks):
    cluster = Cluster()
    cluster.unit("log.service", f"Global=true\nMaxUnavailable={options}")
    for index, health in enumerate(machines):
        cluster.machine(f"m{index}")
        if health != "free":
            cluster.place("log.service", f"m{index}", "failed" if health == "failed" else "active")
        if health == "absent":
            cluster.expire_lease(f"m{index}")
        elif health == "leaving":
            cluster.machine(f"m{index}", MachineMode.LEAVING)
    budget = budget_of(cluster)
    size = sum(health in ("active", "failed", "leaving") for health in machines)
    down = {index for index, health in enumerate(machines) if health in ("failed", "leaving")}
    for asked in asks:
        is_member = asked < len(machines) and machines[asked] in ("active", "failed", "leaving")
        allowed = budget.may_disturb("log.service", f"m{asked}") is None
        assert allowed is (not is_member or asked in down or len(down) < max(1, min(options, size)))
        if allowed:
            budget.spend("log.service", f"m{asked}")
            down |= {asked} if is_member else set()


def test_one_that_runs_what_it_ran_before_a_restore_costs_something_though_the_present_content_is_not_proven():
    cluster = web_cluster()
    find_unhealthy(cluster, 1, hash="other")
    assert budget_of(cluster).unavailability("web@1.service", "m1") is Unavailability.UNHEALTHY
    assert budget_of(cluster).may_stop("web@1.service", "m1") is None
    find_unhealthy(cluster, 2, hash="other")
    wait = budget_of(cluster).may_stop("web@1.service", "m1")
    assert wait == BudgetWait(1, 1, (UnavailableMember("web@2.service", "m2", Unavailability.UNHEALTHY),))


@pytest.mark.parametrize("ask", ["may_disturb", "may_stop"])
def test_one_of_which_nothing_is_known_since_a_restore_costs_as_much_as_an_available_one(ask):
    cluster = web_cluster()
    forget_since_restore(cluster, 1)
    assert getattr(budget_of(cluster), ask)("web@1.service", "m1") is None
    assert budget_of(cluster).may_disturb("web@2.service", "m2") is not None
    forget_since_restore(cluster, 2)
    wait = getattr(budget_of(cluster), ask)("web@1.service", "m1")
    assert wait == BudgetWait(1, 1, (UnavailableMember("web@2.service", "m2", Unavailability.UNREPORTED),))


def test_one_that_had_failed_before_a_restore_costs_nothing():
    cluster = web_cluster(down=[1, 2])
    forget_since_restore(cluster, 1)
    assert budget_of(cluster).may_disturb("web@1.service", "m1") is None


def test_one_that_was_found_unhealthy_leaves_at_no_cost():
    cluster = web_cluster(down=[2])
    find_unhealthy(cluster, 1, hash="")
    assert budget_of(cluster).may_stop("web@1.service", "m1") is None
