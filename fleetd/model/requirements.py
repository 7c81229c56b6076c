"""What the content of a unit requires of the cluster, kept so that it is parsed once.

What cannot be parsed requires nothing: systemd will refuse it.
"""

from functools import lru_cache

import msgspec

from fleetd.model.constraints import Requirements, find_earlier, parse_requirements
from fleetd.model.content import Content
from fleetd.model.group import GroupOptions, parse_group_options
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.names import is_template, parse_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError


@lru_cache(maxsize=8)  # instances follow each other, and most of them have the content of their template
def _options_of(content: Content) -> tuple[UnitOption, ...]:
    return content.options()


@lru_cache(maxsize=32768)
def requirements_of(content: Content, name: str) -> Requirements:
    """The requirements of a unit of this content and name."""
    try:
        asked = parse_requirements(_options_of(content), parse_name(name))
    except UnitFileError:
        return Requirements()
    isolation = isolation_options_of(content, name)
    if content.dropins or isolation.is_set:
        asked = msgspec.structs.replace(asked, has_dropins=bool(content.dropins), isolation=isolation)
    return _share(asked)


def placed_requirements(content: Content, name: str) -> Requirements:
    """The requirements that count on the unit's machine. A template has none: it is placed where its sockets are."""
    return Requirements() if is_template(name) else requirements_of(content, name)


def earlier_units(content: Content, name: str) -> tuple[str, ...]:
    """The units that are to be changed before a unit of this content and name (find_earlier)."""
    try:
        return find_earlier(_options_of(content), parse_name(name), requirements_of(content, name))
    except UnitFileError:
        return ()


@lru_cache(maxsize=1024)
def _share(requirements: Requirements) -> Requirements:
    """These requirements, as one object for all units that have them: units of one kind name the same others."""
    return requirements


@lru_cache(maxsize=256)
def group_options_of(content: Content) -> GroupOptions:
    """How the units of a group are changed whose template has this content."""
    try:
        return parse_group_options(_options_of(content))
    except UnitFileError:
        return GroupOptions()
