"""simulate: play what happens to a cluster, in virtual time."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from fleetctl import output
from fleetctl.command_line import TimeSpan, new_command
from fleetctl.commands.apply import make_request, output_option
from fleetctl.commands.import_ import read_export
from fleetctl.errors import CommandFailed
from fleetctl.exports.file import Exported
from fleetctl.listing import JSON, render_json
from fleetctl.settings import Settings
from fleetd.api import schema

if TYPE_CHECKING:  # a whole fleetd, which no other command needs
    from fleetd.simulation.cluster import Beginning, SimulatedCluster
    from fleetd.simulation.timeline import Run


BEGIN, DRAIN, LOSE, APPLY = "begin", "drain", "lose", "apply"


class Play(msgspec.Struct, frozen=True):
    """What is done to the cluster, in this order: machines are drained, machines are lost, units are applied. Each step
    is played for `at_most_s` seconds."""

    drained: Sequence[str]
    lost: Sequence[str]
    request: schema.Apply | None
    at_most_s: float


class Row(msgspec.Struct, frozen=True):
    """One run of a unit on a machine, in a step of the play: since when and until when, in seconds of the step, and
    for how long nothing of the unit ran before."""

    step: str
    unit: str
    machine: str
    began_s: float | None
    ended_s: float | None
    away_s: float


VALUES: Mapping[str, Callable[[Row], Any]] = {
    "step": lambda row: row.step,
    "unit": lambda row: row.unit,
    "machine": lambda row: row.machine,
    "from": lambda row: row.began_s,
    "until": lambda row: row.ended_s,
    "away": lambda row: row.away_s,
}


class Step(msgspec.Struct, frozen=True):
    """One thing that is done to the cluster, and what became of it. `nowhere` are the units that are to run and that no
    machine runs at the end: unit → why. `is_over` is False if something still went on then; `refusal` is why it was not
    done; `left` says of each unit that has not left a drained machine why."""

    name: str
    rows: tuple[Row, ...]
    nowhere: Mapping[str, str]
    is_over: bool
    refusal: str = ""
    left: tuple[str, ...] = ()


@new_command(
    "simulate",
    usage="[--drain=MACHINE,...] [--lose=MACHINE,...] [--apply=DIR] [--set=NAME] [--for=TIME] [--output=json] FILE",
    completes=("files",),
)
@click.option("--drain", default="", help="drain these machines, all at once; ids may be shortened")
@click.option("--lose", default="", help="then cut the power of these machines, all at once")
@click.option("--apply", "folder", default="", help="then apply this folder")
@click.option("--set", "set_", default="", help="the set of the units (default: the folder's name)")
@click.option("--for", "at_most_s", type=TimeSpan(), default="1h", help="the longest that each step is played")
@output_option("an array of objects, one for each run of a unit")
@click.argument("file")
def command(
    settings: Settings, file: str, drain: str, lose: str, folder: str, set_: str, at_most_s: float, form: str
) -> int:
    """Plays a cluster in virtual time, and prints which units run where and when, and for how long each runs nowhere.
    It asks no cluster and changes none: the cluster is that of a FILE from export, or written by hand.

    Each machine of the file has a real fleetd, over a store in memory and a systemd that only pretends: processes
    start and stop at once, run on unless their command ends (`/bin/sleep 5`, Type=oneshot), and are always healthy. The
    fleetds elect a leader, notice what is lost, and roll changes out as those of a cluster do, in the same time, with
    the settings of the file, and all secrets that units name are there. An hour takes seconds.

    The units begin where the file has them (`on`), and others are placed first. Then the machines are drained; when the
    cluster is quiet again, machines are lost, and after that the folder is applied. Only units to which something
    happens are listed.

    Exits with 1 if a unit that is to run runs nowhere at the end, if one has not left a drained machine (global ones
    stay), if a drain or the folder is refused, or if something does not end.
    """
    exported = read_export(file)
    play = Play(
        _find_machines(exported, drain),
        _find_machines(exported, lose),
        make_request(folder, set_)[1] if folder else None,
        at_most_s,
    )
    if not exported.machines:
        raise CommandFailed(f"{output.printable(file)} has no machines: nothing could run anywhere")
    if len(play.lost) == len(exported.machines):
        raise CommandFailed("no machine would be left: lose fewer of them")
    _check_settings(file, exported)
    steps = _play(exported, play)
    if form == JSON:
        output.result(render_json([row for step in steps for row in step.rows], VALUES))
    else:
        _show(steps, exported)
    known: Mapping[str, str] = {}
    for step in steps:
        if step.refusal:
            output.error(f"{step.name}: {output.indented(step.refusal)}")
        for line in step.left:
            output.error(f"{step.name}: {output.indented(line)}")
        if not step.is_over:
            output.error(f"{step.name}: something still went on at the end; --for=TIME plays longer")
        for unit, why in step.nowhere.items():
            if known.get(unit) != why:
                output.error(f"{step.name}: {output.printable(unit)} runs nowhere: {output.indented(why)}")
        known = step.nowhere
    return 1 if known or any(step.refusal or step.left or not step.is_over for step in steps) else 0


def _check_settings(file: str, exported: Exported) -> None:
    """Raises CommandFailed for settings that no cluster has, as an import does."""
    from fleetd.simulation.cluster import refuse_settings

    refusals = refuse_settings({each.name: each.value for each in exported.settings.values()})
    for refusal in refusals:
        output.error(f"{output.printable(file)}: {output.indented(refusal)}")
    if refusals:
        raise CommandFailed(f"{output.printable(file)} has settings that no cluster takes: nothing is played")


def _find_machines(exported: Exported, words: str) -> list[str]:
    """The ids of the machines that are named, each once. Raises CommandFailed."""
    return list(dict.fromkeys(_find_machine(exported, word) for word in words.split(",") if word))


def _find_machine(exported: Exported, word: str) -> str:
    """The id of the machine that this is the beginning of. Raises CommandFailed."""
    found = [id_ for id_ in exported.machines if id_.startswith(word)]
    if word in found:
        return word
    if len(found) != 1:
        why = f"{len(found)} machines' ids begin with it" if found else "the file has no such machine"
        raise CommandFailed(f"{output.printable(word)}: {why}")
    return found[0]


def _play(exported: Exported, play: Play) -> list[Step]:
    import logging
    import tempfile

    from fleetd.simulation.cluster import SimulatedCluster, run_virtually

    async def run(directory: str) -> list[Step]:
        cluster = SimulatedCluster(Path(directory), make_beginning(exported))
        try:
            await cluster.start()
            return [step async for step in _take_steps(cluster, exported, play)]
        finally:
            await cluster.close()

    log = logging.getLogger("fleetd")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with tempfile.TemporaryDirectory(prefix="fleet-simulate-") as directory:
            return run_virtually(run(directory))
    finally:
        log.setLevel(level)


async def _take_steps(cluster: "SimulatedCluster", exported: Exported, play: Play) -> AsyncIterator[Step]:
    first = await _end_step(cluster, BEGIN, 0.0, play.at_most_s)
    yield msgspec.structs.replace(first, rows=tuple(row for row in first.rows if not _is_as_exported(row, exported)))
    if play.drained:
        began_s = cluster.now_s
        refusals = [await cluster.drain(id_) for id_ in play.drained]
        step = await _end_step(cluster, DRAIN, began_s, play.at_most_s, "; ".join(filter(None, refusals)))
        left = [
            f"{unit} has not left {_place(id_, exported)}: {why}"
            for id_ in play.drained
            for unit, why in (await cluster.find_left(id_)).items()
        ]
        yield msgspec.structs.replace(step, left=tuple(left))
    if play.lost:
        began_s = cluster.now_s
        for id_ in play.lost:
            await cluster.machines[id_].lose()
        yield await _end_step(cluster, LOSE, began_s, play.at_most_s)
    if play.request is not None:
        began_s = cluster.now_s
        refusal = await cluster.apply(play.request)
        yield await _end_step(cluster, APPLY, began_s, play.at_most_s, refusal)


async def _end_step(
    cluster: "SimulatedCluster", name: str, began_s: float, at_most_s: float, refusal: str = ""
) -> Step:
    from fleetd.simulation.timeline import changed_since, find_runs

    is_over = await cluster.settle(at_most_s)
    runs = find_runs(cluster.sightings)
    rows = tuple(_describe(run, name, began_s) for run in changed_since(runs, began_s))
    return Step(name, rows, await cluster.find_nowhere(), is_over, refusal)


def _is_as_exported(row: Row, exported: Exported) -> bool:
    """Whether the unit only runs on where it was."""
    return row.machine in exported.units[row.unit].on and row.ended_s is None


def _describe(run: "Run", step: str, step_began_s: float) -> Row:
    def in_step(at_s: float | None) -> float | None:
        return None if at_s is None or at_s < step_began_s else round(at_s - step_began_s, 3)

    began_s = in_step(run.began_s)
    away_s = 0.0 if began_s is None else round(run.away_s, 3)
    return Row(step, run.unit, run.machine, began_s, in_step(run.ended_s), away_s)


def make_beginning(exported: Exported) -> "Beginning":
    """The simulated cluster that this export describes."""
    from fleetd.model.machine import Cordon, Machine, MachineSettings
    from fleetd.model.unit import Unit
    from fleetd.model.unit_set import UnitSet
    from fleetd.simulation.cluster import Beginning

    machines = exported.machines.values()
    members: dict[str, list[str]] = {}
    for unit in exported.units.values():
        if unit.set:
            members.setdefault(unit.set, []).append(unit.name)
    return Beginning(
        [Machine(id=each.id, address=each.address, metadata=each.metadata) for each in machines],
        {each.id: MachineSettings(cordon=Cordon(each.cordon)) for each in machines if each.cordon is not None},
        [
            Unit(each.name, each.text, each.target, dropins=each.dropins, set=each.set)
            for each in exported.units.values()
        ],
        {each.name: each.on for each in exported.units.values()},
        {name: UnitSet(tuple(sorted(names))) for name, names in members.items()},
        {each.name: each.value for each in exported.settings.values()},
    )


def _show(steps: Sequence[Step], exported: Exported) -> None:
    rows = list(_cells(steps, exported))
    if rows:
        output.result(output.render_table([["STEP", "UNIT", "MACHINE", "FROM", "UNTIL", "NOTHING RAN FOR"], *rows]))
    for step in steps:
        away = max(step.rows, key=lambda row: row.away_s, default=None)
        units = len({row.unit for row in step.rows})
        longest = (
            f", the longest without a process {_seconds(away.away_s)} ({away.unit})" if away and away.away_s else ""
        )
        output.result(f"{step.name}: {units} unit{'s'[: units != 1]} started or stopped{longest}")


def _cells(steps: Sequence[Step], exported: Exported) -> Iterator[list[str]]:
    for step in steps:
        for row in step.rows:
            place = _place(row.machine, exported)
            began = "before" if row.began_s is None else _seconds(row.began_s)
            ended = "-" if row.ended_s is None else _seconds(row.ended_s)
            yield [
                step.name,
                output.printable(row.unit),
                place,
                began,
                ended,
                _seconds(row.away_s) if row.away_s else "-",
            ]


def _place(id_: str, exported: Exported) -> str:
    return output.place(id_, exported.machines[id_].address)


def _seconds(span_s: float) -> str:
    return f"{span_s:.1f} s"
