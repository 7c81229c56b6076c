"""Parks a machine after its fleetd has ended, for when the store was unavailable at that time (membership/parking.py).

This is a process of its own, in a transient systemd unit, which ends when the machine is parked or fleet.service is
started again. It reads its task from a file that only root can read.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from fleetd.config.config import Config
from fleetd.membership.parking import Parking, park_when_possible
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Store

log = logging.getLogger(__name__)

FILE_NAME = "parking"
COMMAND = "park"
SYSTEMD_S = 2.0


class Task(msgspec.Struct, frozen=True):
    """The parking to do, and the configuration of the store."""

    parking: Parking
    config: Config


async def schedule(config: Config, runtime: Path, own_unit: str, parking: Parking) -> None:
    """Have systemd run `fleetd park` in a transient unit. Logs what to do if it cannot."""
    path = runtime / FILE_NAME
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(msgspec.msgpack.encode(Task(parking, config)))
        process = await asyncio.create_subprocess_exec(
            "systemd-run",
            f"--unit={own_unit.removesuffix('.service')}-park.service",
            "--description=fleet: park this machine as soon as the store answers",
            "--collect",
            "--quiet",
            "--no-block",
            f"--property=Conflicts={own_unit}",
            f"--property=Before={own_unit}",
            "--property=Restart=on-failure",
            "--property=RestartSec=5",
            "--",
            sys.executable,
            "-P",
            "-m",
            "fleetd",
            COMMAND,
            str(path),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SYSTEMD_S):
            _, said = await process.communicate()
        reason = said.decode("utf-8", "replace").strip() or f"systemd-run ended with {process.returncode}"
        complaint = reason if process.returncode else ""
    except (OSError, TimeoutError) as error:
        complaint = str(error) or "systemd does not answer"
    if complaint:
        log.warning(
            "cannot schedule the parking of this machine: %s; once the store is back, its units are started on other "
            "machines as well, unless you start fleetd again or stop them here with systemctl",
            complaint,
        )


def cancel(runtime: Path) -> None:
    """Delete the task: fleetd is back, and systemd has ended the transient unit."""
    with suppress(OSError):
        (runtime / FILE_NAME).unlink(missing_ok=True)


async def run(path: Path, open_store: Callable[[Config], Store]) -> None:
    """Do the task in this file. Raises OSError, and msgspec's errors for a file that is not a task."""
    task = msgspec.msgpack.decode(path.read_bytes(), type=Task)
    store = open_store(task.config)
    try:
        await park_when_possible(Registry(store, task.config.etcd_key_prefix), task.parking)
    finally:
        await store.close()
    path.unlink(missing_ok=True)
