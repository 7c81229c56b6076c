"""In which batches instances are restarted beside the rollout, on which machines, and when an apply is of use."""

import pytest

from contrib.bench import rollout
from contrib.bench.__main__ import LARGE, MEASURES, choose
from contrib.bench.floor import cut_into_batches, restart_in_batches, share_by_machine
from contrib.bench.rollout import BATCHES, GROUP_OPTIONS, check_unchanged
from contrib.testbed import Machine
from fleetd.model.group import parse_group_options


class RecordingMachine(Machine):
    """A machine that is not booted, and only notes what is run on it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self._notes = notes

    def run(self, argv, **_):  # type: ignore[no-untyped-def,override]
        self._notes.append(f"{self.name}: {' '.join(argv)}")


def test_all_units_are_in_one_batch_each_and_in_order() -> None:
    assert list(cut_into_batches(["a", "b", "c", "d", "e"], 2)) == [["a", "b"], ["c", "d"], ["e"]]


def test_a_batch_is_shared_by_the_machines_that_have_its_units() -> None:
    m1, m2 = RecordingMachine("m1", []), RecordingMachine("m2", [])
    where: dict[str, Machine] = {"a": m1, "b": m2, "c": m1, "d": m2}
    assert share_by_machine(["a", "b", "c"], where) == [(m1, ["a", "c"]), (m2, ["b"])]
    assert share_by_machine(["d"], where) == [(m2, ["d"])]


def test_one_batch_is_restarted_after_the_other() -> None:
    notes: list[str] = []
    m1, m2 = RecordingMachine("m1", notes), RecordingMachine("m2", notes)
    assert restart_in_batches([["a", "b", "c"], ["d"]], {"a": m1, "b": m2, "c": m1, "d": m2}) > 0
    assert sorted(notes[:2]) == ["m1: systemctl restart a c", "m2: systemctl restart b"]
    assert notes[2:] == ["m2: systemctl restart d"]


def test_the_group_is_rolled_out_in_the_same_batches_without_settling() -> None:
    options = parse_group_options(GROUP_OPTIONS)
    assert options.max_unavailable.of(100) == 100 // BATCHES
    assert options.settle_s == 0


def test_an_apply_that_changed_something_is_no_figure() -> None:
    check_unchanged("bench: nothing to do (500 unchanged)\n", 500)
    for said in ("bench: nothing to do (499 unchanged)\n", "bench: 1 changed, 499 unchanged\n", ""):
        with pytest.raises(RuntimeError, match="had changed"):
            check_unchanged(said, 500)


def test_only_a_large_run_restarts_instances() -> None:
    assert choose(LARGE) == list(MEASURES)
    assert [name for name in MEASURES if name not in choose(3)] == [rollout.RESTART]
