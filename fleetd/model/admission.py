"""Which units the cluster accepts: one rule for the API, the agent and fleetctl. `shadows` returns what a unit of this
name would shadow on the machine, or ''."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from fleetd.model.announce_options import validate_announcing
from fleetd.model.constraints import InvalidRequirements, validate_requirements
from fleetd.model.group import validate_group_options
from fleetd.model.install import InvalidInstall, parse_install
from fleetd.model.isolation_options import validate_isolation
from fleetd.model.names import InvalidName, is_reserved, parse_name, validate_name
from fleetd.model.quadlet.source import keeps_source
from fleetd.model.secret_options import validate_secrets
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, check_options

Shadows = Callable[[str], str]


def shadows_nothing(_: str) -> str:
    """For a machine whose own units are not known."""
    return ""


def name_taken(name: str, owner: str) -> str:
    """Return the refusal of a name that a unit of the machine's own has, from the file `owner`."""
    return f'unit "{name}" would hide {owner}, a unit of the system: choose another name'


def dropin_taken(name: str, path: str) -> str:
    """Return the refusal of a drop-in of this unit whose name `path`, a file that is not fleet's, has."""
    return f'unit "{name}" has the drop-in {path}, which is not fleet\'s: remove it, or choose another name'


def own_unit(path: str) -> str:
    """Return the same in short, after the machine's name."""
    return f"has its own {path}"


def refuse_name(name: str, shadows: Shadows = shadows_nothing) -> str:
    """Why a new unit may not have this name, or ''."""
    try:
        validate_name(name)
    except InvalidName as error:
        return str(error)
    if name.startswith("-"):
        return f'unit name "{name}" begins with "-", which commands take for an option: choose another one'
    if is_reserved(name):
        return f'unit name "{name}" is reserved for what runs the machine itself: choose another one'
    if path := shadows(name):
        return name_taken(name, path)
    return ""


def refuse_content(options: Sequence[UnitOption], name: str = "") -> str:
    """Why no unit (of this name) may have these options, or '': they cannot be written as a unit file, or ask for what
    cannot be."""
    try:
        check_options(options)
        validate_requirements(options)
        validate_group_options(options)
        validate_secrets(options)
        validate_announcing(options, name)
        validate_isolation(options, name)
    except (UnitFileError, InvalidRequirements) as error:
        return str(error)
    return ""


def refuse_made(text: str, former: Iterable[str] = ()) -> str:
    """Why a unit file may not be stored that says of what container it was made, and was not; '' if it may. `former`
    are unit files that the cluster has, which it may have again: an earlier fleetctl may have made them."""
    if not keeps_source(text) or text in former:
        return ""  # most units
    from fleetd.model.quadlet.translation import refuse_service

    return refuse_service(text)


def refuse_names(
    name: str,
    options: Sequence[UnitOption],
    shadows: Shadows = shadows_nothing,
    host: Mapping[str, str] | None = None,
) -> str:
    """Why a unit of this name and content may not be on a machine because of its name or its aliases ([Install]
    Alias=), or ''. `host` are the machine's specifiers; without them, aliases that contain one are not checked."""
    if refusal := refuse_name(name, shadows):
        return refusal
    try:
        install = parse_install(options, parse_name(name), host)
    except InvalidInstall as error:
        return str(error)
    for alias in install.aliases:
        if refusal := refuse_name(alias, shadows):
            return f"[Install] Alias={alias}: {refusal}"
    return ""


def refuse_unit(name: str, options: Sequence[UnitOption], shadows: Shadows = shadows_nothing) -> str:
    """Why the cluster accepts no unit of this name and content, or ''."""
    return refuse_names(name, options, shadows) or refuse_content(options, name)
