"""Reads what an export holds from a cluster."""

from fleetctl.client import Client
from fleetctl.exports.file import Exported, ExportedMachine, ExportedSetting, ExportedUnit
from fleetd.api import schema
from fleetd.model.content import Content, DropIn
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file, render_unit_file

Dropins = tuple[DropIn, ...]

CLUSTER = "cluster"  # the source of a setting that is set


def gather(client: Client) -> Exported:
    """What the cluster has. Each unit is as it was at one moment, which is not the same for all. Raises ClientError."""
    settings = {
        setting.name: ExportedSetting(setting.name, setting.value)
        for setting in client.settings()
        if setting.source == CLUSTER
    }
    machines = {machine.id: _describe_machine(machine) for machine in client.machines()}
    sets = {member: each.name for each in client.sets() for member in each.members}
    reports, known = client.every_report(), dict[str, Dropins]()
    units = {}
    for unit in client.units():
        found = _describe_unit(client, unit, reports.get(unit.name), sets.get(unit.name, ""), known)
        if found is not None:
            units[found.name] = found
    return Exported(settings, machines, units)


def _describe_machine(machine: schema.Machine) -> ExportedMachine:
    return ExportedMachine(
        machine.id, machine.primary_ip, machine.metadata, machine.cordon.why if machine.cordon else None
    )


def _describe_unit(
    client: Client, unit: schema.Unit, report: schema.UnitReport | None, set_: str, known: dict[str, Dropins]
) -> ExportedUnit | None:
    """The unit; None if it was destroyed meanwhile. A report and a list that agree need no further request, but for the
    first unit of each content with drop-ins: `known` are those found so far, by the content's hash."""
    text = render_unit_file(unit.options)
    on = _find_places(report) if report else ()
    if report is not None and report.hash_of_file == hash_unit_file(text):
        dropins = known.get(report.hash) if report.file_hash else ()
        if dropins is not None:
            return ExportedUnit(unit.name, text, _target(report.target), dropins, set_, on)
    content = client.content(unit.name)
    if content is None:
        return None
    text = render_unit_file(content.options)
    dropins = tuple(DropIn(dropin.name, dropin.text) for dropin in content.dropins)
    known[Content(text, dropins).hash] = dropins
    return ExportedUnit(content.name, text, _target(content.desired_state), dropins, set_, on)


def _find_places(report: schema.UnitReport) -> tuple[str, ...]:
    """The machines where the unit is to be."""
    if not report.is_global:
        return (report.machine,) if report.machine else ()
    return tuple(sorted(each.machine for each in report.allocations if each.target and not each.orphaned))


def _target(text: str) -> TargetState:
    return TargetState(text or TargetState.INACTIVE)
