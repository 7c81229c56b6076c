"""plan_import: what an import changes, given what the file holds and what the cluster has. Pure."""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from fleetctl.exports.file import Exported, ExportedMachine, ExportedSetting, ExportedUnit
from fleetd.model.content import is_same_content
from fleetd.model.secret_options import secret_names


class Change(StrEnum):
    """What becomes of something that the file holds. KEPT: the cluster has it otherwise, and keeps it so."""

    NEW = "new"
    CHANGED = "changed"
    KEPT = "kept"


class ImportedUnit(msgspec.Struct, frozen=True):
    """A unit whose counterpart in the cluster (`before`, None: there is none) is not as the file says."""

    change: Change
    after: ExportedUnit
    before: ExportedUnit | None = None

    @property
    def has_new_content(self) -> bool:
        """Whether the cluster has another unit file or other drop-ins, or does not have the unit."""
        return self.before is None or not is_same_content(self.before, self.after)

    @property
    def has_new_target(self) -> bool:
        """Whether the target state is another one than that of the cluster's unit."""
        return self.before is not None and self.before.target is not self.after.target

    @property
    def has_new_set(self) -> bool:
        """Whether the unit is to join a set. No import takes a unit out of its set, but into another one."""
        return self.after.set not in ("", self.before.set if self.before else "")

    def describe(self) -> str:
        """What is different, in words."""
        before, after = self.before, self.after
        if before is None:
            return ", ".join([after.target, *([f'set "{after.set}"'] if after.set else [])])
        words = []
        if before.text != after.text:
            words.append("unit file")
        if before.dropins != after.dropins:
            words.append("drop-ins")
        if self.has_new_target:
            words.append(f"{before.target} → {after.target}")
        if self.has_new_set:
            words.append(f'set "{before.set}" → "{after.set}"' if before.set else f'set "{after.set}"')
        return ", ".join(words)


class ImportedSetting(msgspec.Struct, frozen=True):
    """A setting that is not as the file says; `before` is its value, None where it is not set."""

    change: Change
    after: ExportedSetting
    before: str | None = None

    def describe(self) -> str:
        """What is different, in words."""
        return self.after.value if self.before is None else f"{self.before} → {self.after.value}"


class ImportedCordon(msgspec.Struct, frozen=True):
    """A machine of the cluster that is to be cordoned, as it is in the file."""

    after: ExportedMachine
    change: Change = Change.NEW

    def describe(self) -> str:
        """What is different, in words."""
        return f"cordoned ({self.after.cordon})" if self.after.cordon else "cordoned"


class ImportPlan(msgspec.Struct, frozen=True):
    """What is not as the file says, by name, and how many settings and units are."""

    settings: tuple[ImportedSetting, ...] = ()
    units: tuple[ImportedUnit, ...] = ()
    cordons: tuple[ImportedCordon, ...] = ()
    unchanged: int = 0

    def count(self, change: Change) -> int:
        """How many there are of this kind."""
        parts: tuple[ImportedSetting | ImportedUnit | ImportedCordon, ...] = (
            *self.settings,
            *self.units,
            *self.cordons,
        )
        return sum(each.change is change for each in parts)


def plan_import(file: Exported, cluster: Exported, *, replace: bool = False) -> ImportPlan:
    """What the import does. What the cluster has otherwise than the file is changed only if `replace`; what the file
    does not hold stays in any case."""
    settings = tuple(_plan_settings(file, cluster, replace=replace))
    units = tuple(_plan_units(file, cluster, replace=replace))
    cordons = tuple(_plan_cordons(file, cluster))
    unchanged = len(file.settings) + len(file.units) - len(settings) - len(units)
    return ImportPlan(settings, units, cordons, unchanged)


def _plan_settings(file: Exported, cluster: Exported, *, replace: bool) -> Iterator[ImportedSetting]:
    for name in sorted(file.settings):
        after, before = file.settings[name], cluster.settings.get(name)
        if before is None:
            yield ImportedSetting(Change.NEW, after)
        elif before.value != after.value:
            yield ImportedSetting(Change.CHANGED if replace else Change.KEPT, after, before.value)


def _plan_units(file: Exported, cluster: Exported, *, replace: bool) -> Iterator[ImportedUnit]:
    for name in sorted(file.units):
        after, before = file.units[name], cluster.units.get(name)
        if before is None:
            yield ImportedUnit(Change.NEW, after)
            continue
        unit = ImportedUnit(Change.CHANGED, after, before)
        differs = unit.has_new_content or unit.has_new_target
        if not differs and not unit.has_new_set:
            continue
        # A unit that only joins a set changes nothing of what runs; one that leaves another set is that set's.
        is_kept = not replace and (differs or before.set != "")
        yield msgspec.structs.replace(unit, change=Change.KEPT if is_kept else Change.CHANGED)


def _plan_cordons(file: Exported, cluster: Exported) -> Iterator[ImportedCordon]:
    for id_ in sorted(file.machines.keys() & cluster.machines.keys()):
        if file.machines[id_].cordon is not None and cluster.machines[id_].cordon is None:
            yield ImportedCordon(file.machines[id_])


def needed_secrets(plan: ImportPlan) -> dict[str, list[str]]:
    """The secrets that new and changed units name: secret → units. A name with a specifier is not expanded, and left
    out."""
    needed: dict[str, list[str]] = {}
    for unit in plan.units:
        if unit.change is not Change.KEPT:
            for secret in secret_names(unit.after.content.options()):
                if "%" not in secret:
                    needed.setdefault(secret, []).append(unit.after.name)
    return needed
