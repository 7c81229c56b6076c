"""What one machine holds by order of the leader, and who of it minds whom.

Only the units and their patterns: which unit belongs where is not decided here (planner.py), nor what the machine
itself is and offers (machine_index.py).
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from fleetd.model.constraints import Requirements
from fleetd.model.globs import Globs
from fleetd.model.names import template_of
from fleetd.model.ordered import Names

K = TypeVar("K")


class Occupancy:
    """What one machine holds by order of the leader, retiring copies apart: they hinder nobody."""

    __slots__ = ("_families", "_prefixes", "conflicts", "replaces", "staying", "templates", "units")

    def __init__(self) -> None:
        self.units: dict[str, Requirements] = {}  # all that may run here, also what is on its way out; as ordered
        self.staying: Names = {}  # those that are not withdrawn
        self.conflicts: dict[Globs, Names] = {}  # patterns → the units that bear them
        self.replaces: dict[Globs, Names] = {}
        self.templates: dict[str, int] = {}
        self._families: dict[str, Names] = {}  # what precedes the first "@" → the units of which that is so
        self._prefixes: tuple[str, ...] | None = ()  # how what the patterns in `conflicts` match begins; None: find out

    def copy(self) -> "Occupancy":
        """A room of its own with the same content."""
        twin = Occupancy()
        twin.units, twin.staying, twin.templates = dict(self.units), dict(self.staying), dict(self.templates)
        twin.conflicts = {globs: dict(owners) for globs, owners in self.conflicts.items()}
        twin.replaces = {globs: dict(owners) for globs, owners in self.replaces.items()}
        twin._families = {family: dict(members) for family, members in self._families.items()}
        twin._prefixes = self._prefixes
        return twin

    def add(self, name: str, requirements: Requirements, *, staying: bool) -> None:
        """Take in a unit that is not here."""
        self.units[name] = requirements
        family, at, _ = name.partition("@")
        if at:
            self._families.setdefault(family, {})[name] = None
        if requirements.conflicts:
            self.conflicts.setdefault(requirements.conflicts, {})[name] = None
            self._prefixes = None
        if requirements.replaces:
            self.replaces.setdefault(requirements.replaces, {})[name] = None
        if staying:
            self.staying[name] = None
            template = template_of(name)
            if template not in ("", name):
                self.templates[template] = self.templates.get(template, 0) + 1

    def discard(self, name: str) -> None:
        """Let go of a unit, if it is here."""
        requirements = self.units.pop(name, None)
        if requirements is None:
            return
        if requirements.conflicts:
            self._prefixes = None
        family, at, _ = name.partition("@")
        if at:
            _drop(self._families, family, name)
        for index, globs in ((self.conflicts, requirements.conflicts), (self.replaces, requirements.replaces)):
            if globs:
                _drop(index, globs, name)
        if name in self.staying:
            del self.staying[name]
            template = template_of(name)
            if template not in ("", name):
                self.templates[template] -= 1
                if not self.templates[template]:
                    del self.templates[template]

    def may_conflict(self, name: str, requirements: Requirements) -> bool:
        """Whether it is worth looking for conflicts: for most units it is not, and that is seen at once."""
        return bool(requirements.conflicts) or self._may_be_minded(name)

    def conflicting(self, name: str, requirements: Requirements) -> Iterator[str]:
        """The units here that this one may not share a machine with, by its patterns or by theirs."""
        mine = requirements.conflicts
        for prefix in mine.prefixes:
            yield from (other for other in self._beginning_as(prefix) if other != name and mine.match(other))
        if self._may_be_minded(name):
            for theirs, owners in self.conflicts.items():
                if theirs.match(name):
                    yield from (owner for owner in owners if owner != name)

    def _beginning_as(self, prefix: str) -> Iterable[str]:
        """The units here that begin so, perhaps others: to the instances of a template there is a short way."""
        family, at, _ = prefix.partition("@")
        if at:
            return self._families.get(family, ())
        return [other for other in self.units if other.startswith(prefix)]

    def _may_be_minded(self, name: str) -> bool:
        """Whether a pattern of a unit here may match the name, by how it begins."""
        if self._prefixes is None:
            self._prefixes = tuple({prefix: None for globs in self.conflicts for prefix in globs.prefixes})
        return name.startswith(self._prefixes)

    def replacing(self, name: str, requirements: Requirements) -> Iterator[str]:
        """The units staying here that push this one away; two that replace each other leave each other alone."""
        for globs, owners in self.replaces.items():
            if globs.match(name):
                for owner in owners:
                    if owner != name and owner in self.staying and not requirements.replaces.match(owner):
                        yield owner

    def is_picky(self) -> bool:
        """Whether anything here cares who else is here."""
        return bool(self.conflicts or self.replaces)


def _drop(index: dict[K, Names], key: K, name: str) -> None:
    """Take the name from the names under the key, which goes with the last of them."""
    del index[key][name]
    if not index[key]:
        del index[key]
