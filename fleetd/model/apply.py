"""plan_apply, plan_scale: what it does to the cluster to apply a set of units, or to scale a template. Pure.

A unit whose content is the same is not written, so that nothing of it starts again. A target state is what a person
wants: only a new unit is given one.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from fleetd.model.content import Content, merge_dropins, own_dropins
from fleetd.model.content_change import Impact, effect
from fleetd.model.group import GroupOptions, UpdateAction, group_of
from fleetd.model.names import is_template, parse_name, template_of
from fleetd.model.rollout import Member, MemberContents, Phase, Rollout
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_set import MAX_MEMBERS, MAX_RECORD_BYTES, UnitSet, group_options_of, instance_name, raw_instances

_NUMBER = re.compile("[1-9][0-9]*")
_JSON_BYTES = 3  # of a name in a record: quotes and comma
_REVERTED = (Phase.REVERTING, Phase.REVERTED)
_RUNS_ALREADY = "nothing restarts: this runs already"


class ChangeKind(StrEnum):
    """What becomes of a unit. GONE: it is in the set and no longer among what is applied, and stays all the same."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    GONE = "gone"
    DESTROYED = "destroyed"


class Stamp(msgspec.Struct, frozen=True):
    """What the written units say of who changed them. `rollout` is the id of the apply, or '' if what is written is
    carried out at once, unit by unit. `at` is Unix time."""

    rollout: str = ""
    by: str = ""
    note: str = ""
    at: float = 0.0


class ApplyRequest(msgspec.Struct, frozen=True):
    """What is to be applied: the contents of units, by name (unit_set.expand), as the set of this name ('': as none).

    `prune`: destroy the members of the set that are not among them; with `confirmed`, more than half of the set, too.
    `take_over`: take units out of other sets. `retry`: roll out again what was reverted. `edited`: change alone what
    exists, unless the unit has changed since this generation (0: no edit); instances follow their template, and keep
    what they have of their own.
    """

    set: str
    contents: Mapping[str, Content]
    prune: bool = False
    confirmed: bool = False
    take_over: bool = False
    retry: bool = False
    edited: int = 0


class Known(msgspec.Struct, frozen=True):
    """What the cluster has: the units in question (those that are applied, the members of the set, and all instances
    of the templates), all sets, the ids of those applies that were written to their end, and the rollouts by group."""

    units: Mapping[str, Unit] = {}
    sets: Mapping[str, UnitSet] = {}
    complete: Collection[str] = ()
    rollouts: Mapping[str, Rollout] = {}

    def is_reverted(self, unit: Unit) -> bool:
        """Whether the last change of this unit's group was reverted, or is being reverted, and nobody has asked for
        another one since."""
        rollout = self.rollouts.get(group_of(unit.name))
        return rollout is not None and rollout.phase in _REVERTED and rollout.id == unit.rollout


class PlannedUnit(msgspec.Struct, frozen=True):
    """What becomes of one unit. `impact` is what a change does where the unit runs; `because` is why that, or why the
    unit is new or destroyed, '' if that is plain. `owner` is another set that it is taken out of."""

    name: str
    change: ChangeKind
    before: Unit | None
    after: Unit | None
    impact: Impact = Impact.NONE
    because: str = ""
    owner: str = ""

    @property
    def is_written(self) -> bool:
        """Whether the record of the unit is written or deleted."""
        return self.after is not self.before

    @property
    def new_content(self) -> Content | None:
        """The content that the unit gets, None if it has that already or is destroyed."""
        if self.after is None or (self.before is not None and self.before.content == self.after.content):
            return None
        return self.after.content


class ApplyPlan(msgspec.Struct, frozen=True):
    """What to do: the units by name, unchanged ones among them, and the sets to write (one without members is
    deleted). Nothing may be written if there are `refusals`; `notes` are remarks for the user. `reverted` are the
    groups that have what is applied only on paper: its rollout was reverted."""

    units: tuple[PlannedUnit, ...] = ()
    sets: Mapping[str, UnitSet] = {}
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reverted: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[PlannedUnit, ...]:
        """The units that are written or destroyed."""
        return tuple(unit for unit in self.units if unit.is_written)

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to write."""
        return not self.sets and not self.written


def plan_apply(asked: ApplyRequest, known: Known, stamp: Stamp) -> ApplyPlan:
    """The plan of an apply. Instances of a template without Instances=, of which none is named, follow the template."""
    owners = _owners(known.sets, but=asked.set)
    members = _members(known, asked.set)
    followers = _edit_instances(asked, known) if asked.edited else _followers(asked, known, owners)
    contents = {**asked.contents, **followers}
    writer = _Writer(asked.set, contents, known, stamp, retry=asked.retry)
    planned = [writer.plan(name, owners.get(name, "") if asked.set else "") for name in contents]
    planned += [_plan_gone(asked, known, name) for name in members if name not in contents]
    planned.sort(key=lambda unit: unit.name)
    return ApplyPlan(
        tuple(planned),
        _write_sets(asked, known, planned),
        tuple(_refuse(asked, known, members, planned)),
        notes=(*_note_reverted(known, planned), *_note_canaries(writer, known, planned)),
        reverted=_find_reverted(known, planned),
    )


def _find_reverted(known: Known, planned: Sequence[PlannedUnit]) -> tuple[str, ...]:
    """The groups whose units stay as they were reverted."""
    written = {group_of(unit.name) for unit in planned if unit.is_written and unit.after}
    same = [unit.before for unit in planned if unit.change is ChangeKind.UNCHANGED and unit.before]
    reverted = dict.fromkeys(group_of(unit.name) for unit in same if known.is_reverted(unit))
    return tuple(group for group in reverted if group not in written)


def _note_reverted(known: Known, planned: Sequence[PlannedUnit]) -> Iterable[str]:
    """Remarks on new instances of groups that were reverted."""
    new = [unit for unit in planned if unit.change is ChangeKind.NEW and unit.after]
    for group in dict.fromkeys(group_of(unit.name) for unit in new if unit.after and known.is_reverted(unit.after)):
        yield f"the last change of {group} was reverted, so new instances run what the others were reverted to"


def _note_canaries(writer: "_Writer", known: Known, planned: Sequence[PlannedUnit]) -> Iterable[str]:
    """Remarks on groups of instances that have fewer of them than are to be changed first."""
    written = {group_of(unit.name) for unit in planned if unit.is_written and unit.after}
    gone = {unit.name for unit in planned if not unit.after}
    names = {*known.units, *(unit.name for unit in planned)} - gone
    sizes = Counter(group_of(name) for name in names if not is_template(name))
    for group in sorted(filter(is_template, written & sizes.keys())):
        _, note = writer.group_options(group).count_canaries(sizes[group])
        if note:
            yield f"{group}: {note}"


def _owners(sets: Mapping[str, UnitSet], *, but: str) -> dict[str, str]:
    """The set of each unit that is in another one than `but`."""
    return {member: name for name, found in sets.items() if name != but for member in found.members}


def _members(known: Known, set_: str) -> list[str]:
    """The members of the set that exist."""
    return [member for member in _stored_members(known, set_) if member in known.units]


def _followers(asked: ApplyRequest, known: Known, owners: Mapping[str, str]) -> dict[str, Content]:
    """The existing instances of templates that leave open which instances there are, with their new content: all but
    those of other sets."""
    closed = {template_of(name) for name in asked.contents if not is_template(name)}
    templates = {name for name in asked.contents if is_template(name) and name not in closed}
    templates = {name for name in templates if group_options_of(asked.contents[name]).instances is None}
    instances = [name for name in known.units if template_of(name) in templates and not is_template(name)]
    return {
        name: asked.contents[template_of(name)] for name in instances if not asked.set or owners.get(name, "") == ""
    }


def _edit_instances(asked: ApplyRequest, known: Known) -> dict[str, Content]:
    """The instances of edited templates, with their content, of which their own part stays."""
    found = {}
    for name, unit in known.units.items():
        template = known.units.get(template_of(name))
        if template is None or template.name == name or template.name not in asked.contents:
            continue
        new, own = asked.contents[template.name], own_dropins(unit.dropins, template.dropins)
        text = new.text if unit.text == template.text else unit.text
        found[name] = Content(text, merge_dropins(new.dropins, own))
    return found


class _Writer:
    """Plans the units of a set one by one."""

    def __init__(
        self, set_: str, contents: Mapping[str, Content], known: Known, stamp: Stamp, *, retry: bool = False
    ) -> None:
        self._set = set_
        self._retry = retry
        self._contents = contents
        self._known = known
        self._stamp = stamp
        self._effects: dict[tuple[Content, Content, UpdateAction], tuple[Impact, str]] = {}
        self._options: dict[str, GroupOptions] = {}  # by group
        self._held: dict[str, tuple[MemberContents, dict[str, Content | None]]] = {}  # by group

    def plan(self, name: str, owner: str) -> PlannedUnit:
        """The plan of one unit, which is to be taken out of the set `owner` ('': it is in no other)."""
        before, content = self._known.units.get(name), self._contents[name]
        if before is None:
            template = "" if is_template(name) else template_of(name)
            because = _describe_count(template, self._known.units, self._contents)
            return PlannedUnit(name, ChangeKind.NEW, None, self._create(name, content), because=because)
        if before.content != content:
            kind, because = self._effect(before, content)
            return PlannedUnit(name, ChangeKind.CHANGED, before, self._change(before, content), kind, because, owner)
        kind, because = Impact.NONE, ""
        if not self._is_complete(before):
            because = "an earlier apply was interrupted before its end"
        elif self._retry and self._known.is_reverted(before):
            kind, because = self._effect(before, content)
        if because:
            return PlannedUnit(name, ChangeKind.CHANGED, before, self._change(before, content), kind, because, owner)
        return PlannedUnit(name, ChangeKind.UNCHANGED, before, before, owner=owner)

    def _is_complete(self, unit: Unit) -> bool:
        return not unit.rollout or unit.rollout in self._known.complete

    def _create(self, name: str, content: Content) -> Unit:
        stamp = self._stamp
        return Unit(
            name,
            content.text,
            self._target(name),
            dropins=content.dropins,
            set=self._set,
            rollout=self._rollout_of_new(name, content),
            by=stamp.by,
            note=stamp.note,
            at=stamp.at,
        )

    def _rollout_of_new(self, name: str, content: Content) -> str:
        """The rollout that a new unit belongs to. One of a group that was reverted must not begin another: with the
        content of the template it runs what the others were reverted to; with its own it runs that at once."""
        rollout = self._known.rollouts.get(group_of(name))
        if rollout is None or rollout.phase not in _REVERTED:
            return self._stamp.rollout
        template = self._known.units.get(template_of(name))
        is_same = template is not None and template.content == content and self._known.is_reverted(template)
        return rollout.id if is_same else ""

    def _change(self, before: Unit, content: Content) -> Unit:
        stamp = self._stamp
        return msgspec.structs.replace(
            before,
            text=content.text,
            dropins=content.dropins,
            set=self._set or before.set,
            rollout=stamp.rollout,
            by=stamp.by,
            note=stamp.note,
            at=stamp.at,
        )

    def _target(self, name: str) -> TargetState:
        return TargetState.INACTIVE if is_template(name) else self.group_options(name).desired_state

    def group_options(self, name: str) -> GroupOptions:
        """Those of the template, if it is known."""
        group = group_of(name)
        if group not in self._options:
            known = self._known.units.get(group)
            whole = self._contents.get(group) or (known.content if known else self._contents[name])
            self._options[group] = group_options_of(whole)
        return self._options[group]

    def _effect(self, unit: Unit, after: Content) -> tuple[Impact, str]:
        """What this content does to the unit where it runs. Thousands of instances may change alike."""
        before, action = self._find_running(unit), self.group_options(unit.name).action
        if before == after:
            return Impact.NONE, _RUNS_ALREADY
        if (before, after, action) not in self._effects:
            self._effects[before, after, action] = effect(before, after, action)
        return self._effects[before, after, action]

    def _find_running(self, unit: Unit) -> Content:
        """The content that the unit runs: the one that its rollout has it keep, or that it was reverted to; of a unit
        on many machines, what most of them run."""
        group = group_of(unit.name)
        rollout = self._known.rollouts.get(group)
        if rollout is None or rollout.id != unit.rollout:
            return unit.content
        if group not in self._held:
            contents = MemberContents(rollout)
            held = {former.member.unit: contents.held(former.member) for former in reversed(rollout.former)}
            self._held[group] = contents, held
        contents, held = self._held[group]
        return held.get(unit.name) or contents.held(Member(unit.name)) or unit.content


def _describe_count(template: str, units: Mapping[str, Unit], contents: Mapping[str, Content]) -> str:
    """The Instances= that makes or removes instances of a template: `Instances=3 → 4`; '' if it has none."""
    after = raw_instances(contents[template]) if template in contents else ""
    before = raw_instances(units[template].content) if template in units else ""
    if before and after and before != after:
        return f"Instances={before} → {after}"
    return f"Instances={after}" if after else ""


def _plan_gone(asked: ApplyRequest, known: Known, name: str) -> PlannedUnit:
    """The plan of a member of the set that is not among what is applied."""
    before, template = known.units[name], template_of(name)
    is_counted = template in asked.contents and group_options_of(asked.contents[template]).instances is not None
    if is_counted:
        because = _describe_count(template, known.units, asked.contents)
        return PlannedUnit(name, ChangeKind.DESTROYED, before, None, because=because)
    if asked.prune:
        return PlannedUnit(name, ChangeKind.DESTROYED, before, None, because="--prune")
    return PlannedUnit(name, ChangeKind.GONE, before, before)


def _write_sets(asked: ApplyRequest, known: Known, planned: Sequence[PlannedUnit]) -> dict[str, UnitSet]:
    """The sets whose members change."""
    if not asked.set:
        return {}
    members = {asked.set: tuple(unit.name for unit in planned if unit.change is not ChangeKind.DESTROYED)}
    taken = {unit.name for unit in planned}
    for name, found in known.sets.items():
        if name != asked.set and not taken.isdisjoint(found.members):
            members[name] = tuple(member for member in found.members if member not in taken)
    return {name: UnitSet(left) for name, left in members.items() if left != _stored_members(known, name)}


def _stored_members(known: Known, set_: str) -> tuple[str, ...]:
    found = known.sets.get(set_)
    return found.members if found else ()


def _refuse(asked: ApplyRequest, known: Known, members: Sequence[str], planned: Sequence[PlannedUnit]) -> Iterable[str]:
    """Why the plan may not be carried out."""
    if asked.edited:
        now = [(name, known.units.get(name)) for name in asked.contents]
        changed = [name for name, unit in now if unit is None or unit.generation != asked.edited]
        yield from (
            f'unit "{name}" was changed meanwhile: look at it and repeat what you want of it' for name in changed
        )
    for unit in planned:
        if unit.owner and not asked.take_over:
            yield (f'unit "{unit.name}" belongs to the set "{unit.owner}": --take-over makes it one of "{asked.set}"')
    if asked.prune and not asked.contents:
        yield f'there are no units, and --prune would destroy the whole set "{asked.set}": destroy its units instead'
    pruned = [unit.name for unit in planned if unit.because == "--prune"]
    if asked.contents and 2 * len(pruned) > len(members) and not asked.confirmed:
        yield (
            f'--prune would destroy {len(pruned)} of the {len(members)} units of the set "{asked.set}" '
            f"({', '.join(pruned[:3])}{', …' if len(pruned) > 3 else ''}): add --yes if that is meant"
        )
    yield from _refuse_half_retries(known, planned)
    yield from _refuse_size([unit.name for unit in planned])


def _refuse_half_retries(known: Known, planned: Sequence[PlannedUnit]) -> Iterable[str]:
    """A new rollout of a group would give what was reverted to those of its units, too, that do not change."""
    rolled = {group_of(unit.name) for unit in planned if unit.change is ChangeKind.CHANGED}
    stay: dict[str, list[str]] = {}
    for unit in planned:
        if unit.change is ChangeKind.UNCHANGED and unit.before and known.is_reverted(unit.before):
            stay.setdefault(group_of(unit.name), []).append(unit.name)
    for group, names in stay.items():
        if group in rolled:
            yield (
                f"the last change of {group} was reverted, and {', '.join(names[:3])}{', …' if len(names) > 3 else ''} "
                "would have it again: change their content as well, or add --retry if that is meant"
            )


def _refuse_size(members: Sequence[str]) -> Iterable[str]:
    if len(members) > MAX_MEMBERS or sum(len(name) + _JSON_BYTES for name in members) > MAX_RECORD_BYTES:
        yield f"the set would have {len(members)} units, and it may have {MAX_MEMBERS}: make several sets of it"


def plan_scale(template: Unit, count: int, known: Known, stamp: Stamp) -> ApplyPlan:
    """The plan of scaling a template to `count` numbered instances: what is missing from 1 to `count` is created, and
    what has a higher number is destroyed. Instances with other names stay."""
    parsed = parse_name(template.name)
    set_ = next((name for name, found in known.sets.items() if template.name in found.members), "")
    wanted = [instance_name(parsed, str(number)) for number in range(1, count + 1)]
    writer = _Writer(set_, {template.name: template.content, **dict.fromkeys(wanted, template.content)}, known, stamp)
    instances = [name for name in known.units if template_of(name) == template.name and name != template.name]
    numbered = [name for name in instances if _NUMBER.fullmatch(parse_name(name).instance)]
    planned = [
        msgspec.structs.replace(writer.plan(name, ""), because=f"scaled to {count}")
        for name in wanted
        if name not in known.units
    ]
    planned += [
        PlannedUnit(name, ChangeKind.DESTROYED, known.units[name], None, because=f"scaled to {count}")
        for name in numbered
        if name not in wanted
    ]
    planned.sort(key=lambda unit: unit.name)
    notes = [*_note_reverted(known, planned), *_note_canaries(writer, known, planned)]
    if raw := raw_instances(template.content):
        notes.append(f"{template.name} says Instances={raw}: the next apply of its folder makes that of it again")
    members = set(_stored_members(known, set_))
    members |= {unit.name for unit in planned if unit.after}
    members -= {unit.name for unit in planned if not unit.after}
    sets = {set_: UnitSet(tuple(sorted(members)))} if set_ and planned else {}
    return ApplyPlan(tuple(planned), sets, tuple(_refuse_size(sorted(members))), tuple(notes))
