"""What is different for the fleetd of one user (`fleetd --user`): where its files are, and its ids."""

import hashlib
from collections.abc import Mapping

import msgspec


class UserPaths(msgspec.Struct, frozen=True):
    """Where the fleetd of a user has its files: absolute paths, as in the XDG Base Directory Specification. `runtime`
    is the user's own, which systemd-logind makes at the login and removes at the logout."""

    runtime: str
    state: str
    config: str

    @property
    def socket(self) -> str:
        """The socket of its API."""
        return f"{self.runtime}/fleet.sock"

    @property
    def bus(self) -> str:
        """The socket of the user's D-Bus."""
        return f"{self.runtime}/bus"


def find_user_paths(environ: Mapping[str, str], user: int, home: str) -> UserPaths:
    """The paths of a user by these environment variables, of which relative ones do not count."""

    def find(variable: str, default: str) -> str:
        given = environ.get(variable, "")
        return given.rstrip("/") if given.startswith("/") else default

    return UserPaths(
        runtime=find("XDG_RUNTIME_DIR", f"/run/user/{user}"),
        state=find("XDG_STATE_HOME", f"{home}/.local/state") + "/fleet",
        config=find("XDG_CONFIG_HOME", f"{home}/.config") + "/fleet",
    )


def user_defaults(paths: UserPaths) -> dict[str, str]:
    """The options of fleet.conf that have other defaults with `fleetd --user`, as text."""
    return {
        "standalone": "true",
        "standalone_path": f"{paths.state}/fleet.db",
        "units_directory": f"{paths.runtime}/fleet/units/",
    }


def user_machine_id(machine_id: str, user: int) -> str:
    """The id under which a machine takes part in a cluster for one of its users: always the same, and another one than
    that of the machine and those of other users. `machine_id` is hexadecimal, and so is the result."""
    return _derive(machine_id, f"fleetd --user {user}")


def user_boot_id(boot_id: str, started_us: int) -> str:
    """The id of one run of a user's systemd, which started so many microseconds after the boot (`boot_id`)."""
    return _derive(boot_id.replace("-", ""), f"systemd --user {started_us}")


def _derive(key: str, purpose: str) -> str:
    return hashlib.blake2b(purpose.encode(), digest_size=16, key=bytes.fromhex(key)).hexdigest()
