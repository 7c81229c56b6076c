"""Where fleetd keeps what it must find again."""

import os
from collections.abc import Mapping
from pathlib import Path

from fleetd.config.config import Config


def runtime_directory(config: Config) -> Path:
    """Return the directory of the ledger, which only a reboot empties."""
    return Path(os.environ["XDG_RUNTIME_DIR"], "fleet") if config.systemd_user else Path("/run/fleet")


def state_directory(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of what must outlive a reboot: this machine's certificate, and its keys."""
    if not config.systemd_user:
        return Path("/var/lib/fleet")
    return Path(environ.get("XDG_STATE_HOME") or Path(environ["HOME"], ".local/state"), "fleet")


def trust_directory(config: Config) -> Path:
    """Return the directory of certificates and keys, which root alone may read."""
    return state_directory(config) / "trust"
