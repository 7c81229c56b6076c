"""Copy or move the units of a cluster to another through their APIs, usually from CoreOS fleet to fleetd.

    python contrib/migrate.py --from http://old:49153 --to unix:///run/fleet.sock [--dry-run] [--move]

Each unit that the new cluster does not have is created there with its content and its target state. With --move it is
created inactive first, then unloaded in the old cluster, and started in the new one once no old machine has it. Units
that cannot be migrated are listed with the reason and do not stop the others. The command can safely be run again.

Replace the old fleetctl, too: its `restart` hangs with a server that answers quickly.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client, put_operation
from fleetctl.errors import ClientError, CommandFailed
from fleetctl.settings import resolve_settings
from fleetctl.wait import observe
from fleetd.api import schema
from fleetd.model.admission import refuse_unit
from fleetd.model.unit import TargetState
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFile, without_comments

STOP_BOUND_S = 300.0
_VERBS = {TargetState.LOADED: "load", TargetState.LAUNCHED: "start"}
_RESULTS = {(True, False): "carried", (False, True): "as it is:", (False, False): "left:"}


class Migration(msgspec.Struct, frozen=True):
    """What is done with one unit: it is migrated unless there is a reason (`why`) not to.

    `exists`: the new cluster has it with the same content. `is_settled`: nothing is left to do.
    """

    unit: schema.Unit
    why: str = ""
    exists: bool = False
    is_settled: bool = False

    @property
    def is_carried(self) -> bool:
        return not self.why

    @property
    def is_wanted(self) -> bool:
        """True if the target state is loaded or launched."""
        return _target(self.unit) != TargetState.INACTIVE


def plan_migration(old: Iterable[schema.Unit], new: Iterable[schema.Unit], move: bool) -> list[Migration]:
    """What to do with each of the old units, by name. An interrupted move is continued."""
    present = {unit.name: unit for unit in new}
    return [_plan_unit(unit, present.get(unit.name), move) for unit in sorted(old, key=lambda unit: unit.name)]


def _plan_unit(unit: schema.Unit, present: schema.Unit | None, move: bool) -> Migration:
    if present is not None:
        return _plan_present(unit, present, move)
    return Migration(unit, refuse_unit(unit.name, _content(unit).options))


def _plan_present(unit: schema.Unit, present: schema.Unit, move: bool) -> Migration:
    if _content(present) != _content(unit):
        return Migration(unit, "the new cluster has another unit of this name")
    if _target(present) == _target(unit):
        return Migration(unit, "the new cluster has it already", exists=True, is_settled=True)
    if move and _target(present) == TargetState.INACTIVE:
        return Migration(unit, exists=True)
    return Migration(unit, f"the new cluster has it with target state {_target(present)}", exists=True)


def _target(unit: schema.Unit) -> str:
    return unit.desired_state or TargetState.INACTIVE


def _content(unit: schema.Unit) -> UnitFile:
    return UnitFile.from_options(
        UnitOption(option.section, option.name, without_comments(option.value)) for option in unit.options
    )


def apply_copies(new: Client, migrations: Iterable[Migration]) -> list[str]:
    """Create the units in the new cluster; the old one keeps running them. Returns errors, a line each."""
    return [
        failure
        for migration in migrations
        if migration.is_carried
        for failure in _create(new, migration.unit, _target(migration.unit))
    ]


def apply_moves(old: Client, new: Client, migrations: Iterable[Migration]) -> list[str]:
    """Create the units, and start each once the old cluster has stopped it. Returns errors, a line each."""
    failures = []
    leaving: dict[str, schema.Unit] = {}
    for migration in migrations:
        if not migration.is_carried:
            continue
        refused = [] if migration.exists else _create(new, migration.unit, TargetState.INACTIVE)
        if not refused and migration.is_wanted:
            refused = _try(migration.unit.name, partial(old.set_target, migration.unit.name, TargetState.INACTIVE))
            leaving.update({} if refused else {migration.unit.name: migration.unit})
        failures += refused
    try:
        for name in _wait_until_gone(old, list(leaving)):
            failures += _try(name, partial(new.set_target, name, _target(leaving[name])))
            del leaving[name]
    except (ClientError, KeyboardInterrupt) as error:  # report what is still to be started
        failures.append(f"interrupted: {error}" if str(error) else "interrupted")
    commands = [(name, f"fleetctl {_VERBS[TargetState(_target(unit))]} {name}") for name, unit in leaving.items()]
    return failures + [
        f"{name}: not yet started. When the old cluster has stopped it: {command}" for name, command in commands
    ]


def _wait_until_gone(old: Client, names: Collection[str]) -> Iterator[str]:
    """The units of which no machine of the old cluster reports a state any more, each as soon as that is so.

    By version 1 of the API, which is all that CoreOS fleet has.
    """
    left = list(names)
    for states in observe(old.states, STOP_BOUND_S) if left else ():
        reported = {state.name for state in states}
        yield from [name for name in left if name not in reported]
        left = [name for name in left if name in reported]
        if not left:
            return


def _create(new: Client, unit: schema.Unit, target: str) -> list[str]:
    return _try(unit.name, partial(new.put_unit, put_operation(unit.name, _content(unit).options, target)))


def _try(name: str, act: Callable[[], object]) -> list[str]:
    """Run an action on a unit; returns its error, if any."""
    try:
        act()
    except ClientError as error:
        return [f"{name}: {error}"]
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a unit was left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="old", required=True, metavar="ENDPOINT", help="the API of the old cluster")
    parser.add_argument("--to", dest="new", default="unix:///run/fleet.sock", metavar="ENDPOINT", help="the new one's")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--move", action="store_true", help="unload each unit in the old cluster before it starts here")
    asked = parser.parse_args(arguments)
    try:
        old, new = (open_client(resolve_settings({"endpoint": place}, os.environ)) for place in (asked.old, asked.new))
        migrations = plan_migration(old.units(), new.units(), asked.move)
        show_plan(migrations)
        failures = (
            [] if asked.dry_run else apply_moves(old, new, migrations) if asked.move else apply_copies(new, migrations)
        )
    except (ClientError, CommandFailed) as error:
        output.error(str(error))
        return 1
    for failure in failures:
        output.error(failure)
    return (
        1 if failures or any(not migration.is_carried and not migration.is_settled for migration in migrations) else 0
    )


def show_plan(migrations: Sequence[Migration]) -> None:
    """Print one line a unit: its name, its target state, and what is done with it."""
    rows = [
        [
            migration.unit.name,
            _target(migration.unit),
            f"{_RESULTS[migration.is_carried, migration.is_settled]} {migration.why}".strip(),
        ]
        for migration in migrations
    ]
    output.result(output.render_table([["UNIT", "TARGET", "MIGRATION"], *rows]))


if __name__ == "__main__":
    sys.exit(main())
