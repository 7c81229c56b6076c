"""Where fleetd keeps what it must find again."""

import os
from collections.abc import Mapping
from pathlib import Path

from fleetd.config.config import Config, ConfigError, own_paths


def runtime_directory(config: Config) -> Path:
    """Return the directory of the ledger, which only a reboot empties. Raises ConfigError for a user who has none."""
    if not config.systemd_user:
        return Path("/run/fleet")
    folder = own_paths(os.environ).runtime
    if not os.path.isdir(folder):
        raise ConfigError(
            f"XDG_RUNTIME_DIR: {folder} does not exist, so no systemd of this user runs: log in, or run loginctl "
            "enable-linger USER"
        )
    return Path(folder, "fleet")


def state_directory(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of what must outlive a reboot: this machine's certificate, and its keys."""
    if not config.systemd_user:
        return Path("/var/lib/fleet")
    return Path(own_paths(environ).state)


def trust_directory(config: Config) -> Path:
    """Return the directory of certificates and keys, which root alone may read."""
    return state_directory(config) / "trust"
