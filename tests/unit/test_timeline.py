"""When each unit ran where: runs from sightings of processes."""

from fleetd.simulation.timeline import Run, Sighting, changed_since, find_runs


def began(at_s: float, machine: str, unit: str = "web.service") -> Sighting:
    return Sighting(at_s, machine, unit)


def ended(at_s: float, machine: str, unit: str = "web.service") -> Sighting:
    return Sighting(at_s, machine, unit, has_ended=True)


def test_a_unit_that_moves_was_away_from_its_end_to_its_next_beginning() -> None:
    assert find_runs([began(1.0, "m1"), ended(5.0, "m1"), began(16.0, "m2")]) == (
        Run("web.service", "m1", 1.0, 5.0),
        Run("web.service", "m2", 16.0, None, 11.0),
    )


def test_a_unit_that_starts_elsewhere_first_was_never_away() -> None:
    runs = find_runs([began(1.0, "m1"), began(4.0, "m2"), ended(5.0, "m1")])
    assert [run.away_s for run in runs] == [0.0, 0.0]


def test_a_new_process_on_the_same_machine_is_another_run() -> None:
    runs = find_runs([began(1.0, "m1"), began(7.0, "m1")])
    assert runs == (Run("web.service", "m1", 1.0, 7.0), Run("web.service", "m1", 7.0, None, 0.0))


def test_an_end_without_a_beginning_is_no_run() -> None:
    assert find_runs([ended(1.0, "m1")]) == ()


def test_only_units_with_a_change_since_then_are_listed_without_their_earlier_runs() -> None:
    runs = find_runs(
        [
            began(1.0, "m1"),
            began(1.0, "m1", "db.service"),
            ended(2.0, "m1"),
            began(3.0, "m2"),
            ended(9.0, "m2"),
            began(9.5, "m1"),
        ]
    )
    assert [(run.unit, run.began_s) for run in changed_since(runs, 8.0)] == [("web.service", 3.0), ("web.service", 9.5)]
