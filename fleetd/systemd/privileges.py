"""Asks systemd what a service would run with, if it was started."""

from collections.abc import Callable

from fleetd.model.confinement import Privileges
from fleetd.systemd.dbus_connection import SystemBus

_COMMANDS = ("Condition", "StartPre", "Start", "StartPost", "Reload", "Stop", "StopPost")


async def ask_privileges(bus: SystemBus, name: str, has_linked: Callable[[str], bool]) -> Privileges:
    """Return the privileges of this service. `has_linked` tells whether the file that systemd read it from is fleet's.
    Raises RefusedBySystemd, ManagerUnavailable."""
    [
        unit_id,
        path,
        is_outdated,
        user,
        group,
        groups,
        dynamic_user,
        no_new_privileges,
        protect_system,
        *rest,
    ] = await bus.get(
        name,
        "Unit.Id",
        "Unit.FragmentPath",
        "Unit.NeedDaemonReload",
        "Service.User",
        "Service.Group",
        "Service.SupplementaryGroups",
        "Service.DynamicUser",
        "Service.NoNewPrivileges",
        "Service.ProtectSystem",
        "Service.AmbientCapabilities",
        "Service.PAMName",
        "Service.PermissionsStartOnly",
        "Service.RootDirectoryStartOnly",
        *(f"Service.Exec{command}Ex" for command in _COMMANDS),
    )
    capabilities, pam_name, permissions_only, root_only, *commands = rest
    return Privileges(
        name=unit_id,
        is_ours=has_linked(path),
        is_read=not is_outdated,
        user=user,
        group=group,
        groups=tuple(groups),
        dynamic_user=dynamic_user,
        no_new_privileges=no_new_privileges,
        protect_system=protect_system,
        ambient_capabilities=capabilities,
        as_root_before=permissions_only or root_only,
        pam_name=pam_name,
        flags=frozenset(flag for rows in commands for row in rows for flag in row[2]),
    )
