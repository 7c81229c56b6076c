"""The units placed on one machine, indexed by their Conflicts= and Replaces= patterns."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from fleetd.model.constraints import Requirements
from fleetd.model.globs import Globs
from fleetd.model.names import template_of
from fleetd.model.ordered import Names

K = TypeVar("K")


class Occupancy:
    """The units placed on one machine, without superseded allocations, which conflict with nothing."""

    __slots__ = ("_families", "_prefixes", "conflicts", "replaces", "staying", "templates", "units")

    def __init__(self) -> None:
        self.units: dict[str, Requirements] = {}  # what may run here, being stopped or not
        self.staying: Names = {}  # those that are not withdrawn
        self.conflicts: dict[Globs, Names] = {}  # patterns → the units that have them
        self.replaces: dict[Globs, Names] = {}
        self.templates: dict[str, int] = {}
        self._families: dict[str, Names] = {}  # the part before the first "@" → the units that share it
        self._prefixes: tuple[str, ...] | None = ()  # literal beginnings of `conflicts`; None: not computed

    def copy(self) -> "Occupancy":
        """An independent occupancy with the same content."""
        twin = Occupancy()
        twin.units, twin.staying, twin.templates = dict(self.units), dict(self.staying), dict(self.templates)
        twin.conflicts = {globs: dict(owners) for globs, owners in self.conflicts.items()}
        twin.replaces = {globs: dict(owners) for globs, owners in self.replaces.items()}
        twin._families = {family: dict(members) for family, members in self._families.items()}
        twin._prefixes = self._prefixes
        return twin

    def add(self, name: str, requirements: Requirements, *, staying: bool) -> None:
        """Add a unit that is not here. `staying`: it is not withdrawn."""
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
        """Remove a unit, if it is here."""
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
        """False if the unit certainly conflicts with nothing here: a cheap test that is enough for most units."""
        return bool(requirements.conflicts) or self._may_match(name)

    def conflicting(self, name: str, requirements: Requirements) -> Iterator[str]:
        """The units here that conflict with this one, by the patterns of either."""
        mine = requirements.conflicts
        for prefix in mine.prefixes:
            yield from (other for other in self._beginning_as(prefix) if other != name and mine.match(other))
        if self._may_match(name):
            for theirs, owners in self.conflicts.items():
                if theirs.match(name):
                    yield from (owner for owner in owners if owner != name)

    def _beginning_as(self, prefix: str) -> Iterable[str]:
        """The units here whose name begins with the prefix, and perhaps others; fast for instances of a template."""
        family, at, _ = prefix.partition("@")
        if at:
            return self._families.get(family, ())
        return [other for other in self.units if other.startswith(prefix)]

    def _may_match(self, name: str) -> bool:
        """True if a pattern of a unit here may match the name, judged by the pattern's literal beginning."""
        if self._prefixes is None:
            self._prefixes = tuple({prefix: None for globs in self.conflicts for prefix in globs.prefixes})
        return name.startswith(self._prefixes)

    def replacing(self, name: str, requirements: Requirements) -> Iterator[str]:
        """The staying units here that replace this one. Two units that replace each other both stay."""
        for globs, owners in self.replaces.items():
            if globs.match(name):
                for owner in owners:
                    if owner != name and owner in self.staying and not requirements.replaces.match(owner):
                        yield owner

    def has_patterns(self) -> bool:
        """True if any unit here has Conflicts= or Replaces=."""
        return bool(self.conflicts or self.replaces)


def _drop(index: dict[K, Names], key: K, name: str) -> None:
    """Remove the name from the set under this key, and the key with its last name."""
    del index[key][name]
    if not index[key]:
        del index[key]
