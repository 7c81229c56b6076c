"""When each unit ran where, and for how long it ran nowhere. Pure."""

from collections.abc import Iterable

import msgspec


class Sighting(msgspec.Struct, frozen=True):
    """A process of a unit began (or, with `has_ended`, ended) on a machine, `at_s` seconds after the beginning."""

    at_s: float
    machine: str
    unit: str
    has_ended: bool = False


class Run(msgspec.Struct, frozen=True):
    """A unit runs on a machine from `began_s` until `ended_s` (None: to the end). `away_s` is for how long it ran
    nowhere before; 0 if it ran elsewhere, or had not run before."""

    unit: str
    machine: str
    began_s: float
    ended_s: float | None = None
    away_s: float = 0.0


def find_runs(sightings: Iterable[Sighting]) -> tuple[Run, ...]:
    """The runs, by unit and in the order in which they began. The sightings are in order of time."""
    finished: list[Run] = []
    open_: dict[str, dict[str, Run]] = {}  # unit → machine → its run
    ended_s: dict[str, float] = {}
    for seen in sightings:
        there = open_.setdefault(seen.unit, {})
        if (run := there.pop(seen.machine, None)) is not None:
            finished.append(msgspec.structs.replace(run, ended_s=seen.at_s))
            ended_s[seen.unit] = seen.at_s
        if not seen.has_ended:
            away_s = 0.0 if there else seen.at_s - ended_s.get(seen.unit, seen.at_s)
            there[seen.machine] = Run(seen.unit, seen.machine, seen.at_s, None, away_s)
    left = [run for there in open_.values() for run in there.values()]
    return tuple(sorted((*finished, *left), key=lambda run: (run.unit, run.began_s, run.machine)))


def changed_since(runs: Iterable[Run], at_s: float) -> tuple[Run, ...]:
    """The runs of those units of which a process began or ended at this time or later."""
    listed = tuple(runs)
    changed = {run.unit for run in listed if run.began_s >= at_s or (run.ended_s is not None and run.ended_s >= at_s)}
    return tuple(run for run in listed if run.unit in changed and (run.ended_s is None or run.ended_s >= at_s))
