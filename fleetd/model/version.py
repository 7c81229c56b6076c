"""Versions: the last contents of a group, as applies have made them. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from fleetd.model.content import Content, DropIn, merge_dropins, own_dropins
from fleetd.model.decoding import FORMAT, Count
from fleetd.model.group import group_of
from fleetd.model.names import template_of
from fleetd.model.unit_set import SetUnit

KEPT = 10  # versions of a group
MAX_BYTES = 900 * 1024  # of one version: it has to fit into a transaction of the store

_EMPTY = Content("")


class GroupContent(msgspec.Struct, frozen=True, gc=False):
    """What the units of a group hold: the unit file and drop-ins of the template or of the unit alone (text '': there
    is no template), and what instances have of their own, by name."""

    text: str = ""
    dropins: tuple[DropIn, ...] = ()
    instances: tuple[SetUnit, ...] = ()

    @property
    def content(self) -> Content:
        """That of the template, or of the unit alone."""
        return Content(self.text, self.dropins)

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        parts = (self.content, *(Content(unit.text, unit.dropins) for unit in self.instances))
        return sum(part.size for part in parts) + sum(len(unit.name) for unit in self.instances)


class Version(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True, tag_field="format", tag=FORMAT):
    """One version of a group: what its units held since `at` (Unix time; 0: unknown), by whom and why, and the apply
    that wrote it. Stored under `versions/<group>/<number>` below the archive's prefix."""

    number: Count
    held: GroupContent
    at: float = 0.0
    by: str = ""
    note: str = ""
    apply: str = ""


def contents_by_group(contents: Mapping[str, Content], groups: Iterable[str]) -> dict[str, GroupContent]:
    """What each of these groups holds, of which some unit is among `contents`."""
    units: dict[str, list[str]] = {group: [] for group in groups}
    for name in sorted(contents):
        if group_of(name) in units:
            units[group_of(name)].append(name)
    return {group: _hold(group, names, contents) for group, names in units.items() if names}


def _hold(group: str, names: Iterable[str], contents: Mapping[str, Content]) -> GroupContent:
    whole = contents.get(group, _EMPTY)
    own = [_own(name, contents[name], whole) for name in names if contents[name] != whole]
    return GroupContent(whole.text, whole.dropins, tuple(own))


def _own(name: str, content: Content, whole: Content) -> SetUnit:
    text = "" if content.text == whole.text else content.text
    return SetUnit(name, text, own_dropins(content.dropins, whole.dropins))


def contents_of(version: Version, group: str, names: Iterable[str]) -> dict[str, Content]:
    """What the units with these names, of one group, held in a version, by name. An instance of which it has nothing
    held what its template did. Without a template it is left out."""
    held, own = version.held, {unit.name: unit for unit in version.held.instances}
    found = {}
    for name in names:
        unit = own.get(name)
        if unit is not None:
            found[name] = Content(unit.text or held.text, merge_dropins(held.dropins, unit.dropins))
        elif held.text and (name == group or template_of(name) == group):
            found[name] = held.content
    return found


def pick_version(versions: Mapping[int, Version], group: str, contents: Mapping[str, Content]) -> Version | None:
    """The last version that differs from these contents of the units of a group, by name; None if there is none."""
    for number in sorted(versions, reverse=True):
        found = contents_of(versions[number], group, contents)
        if any(contents[name] != content for name, content in found.items()):
            return versions[number]
    return None


def refuse_version(group: str, held: GroupContent) -> str:
    """Why a group may not hold so much, or ''."""
    if held.size <= MAX_BYTES:
        return ""
    return (
        f"the instances of {group} have unit files and drop-ins of their own of {held.size} bytes together, and "
        f"{MAX_BYTES} are allowed: move what they share into a drop-in of {group}"
    )


def plan_versions(
    stored: Mapping[int, Version], former: GroupContent | None, wanted: Version
) -> tuple[tuple[Version, ...], tuple[int, ...]]:
    """The versions to write, and the numbers of those to delete.

    `stored` are those that there are, by number, `former` is what the group holds now (None: it does not exist), and
    `wanted` the new version, whose number is not yet known. What was not written by an apply gets a version, too, so
    that it can be returned to.
    """
    number = max(stored, default=0)
    latest = stored[number].held if stored else None
    new = []
    if former is not None and former not in (latest, wanted.held):
        new.append(Version(number=number + 1, held=former, note="replaced without an apply"))
        latest = former
    if wanted.held != latest:
        new.append(msgspec.structs.replace(wanted, number=number + len(new) + 1))
    outdated = sorted(stored)[: max(0, len(stored) + len(new) - KEPT)]
    return tuple(new), tuple(outdated)
