"""Who parks a machine after the end of its fleetd, where the store was away when that was stopped (parking.py).

A process of its own, in a transient systemd unit that ends when fleet.service is started again, or its work is done.
What it has to know stands in a file that root alone can read.
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
    """What is to be done, and how the store is reached."""

    parking: Parking
    config: Config


async def appoint(config: Config, runtime: Path, own_unit: str, parking: Parking) -> None:
    """Have systemd run the successor, beside everything else. Says what to do where it cannot."""
    path = runtime / FILE_NAME
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(msgspec.msgpack.encode(Task(parking, config)))
        process = await asyncio.create_subprocess_exec(
            "systemd-run",
            f"--unit={own_unit.removesuffix('.service')}-park.service",
            "--description=fleet: parks this machine as soon as the store answers",
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
            "nobody is left to park this machine: %s; its units are started elsewhere as well once the store is back, "
            "unless fleetd is started again or `systemctl stop` ends them",
            complaint,
        )


def dismiss(runtime: Path) -> None:
    """fleetd is back: what was left to the successor is not to be done any more (systemd has ended it)."""
    with suppress(OSError):
        (runtime / FILE_NAME).unlink(missing_ok=True)


async def succeed(path: Path, open_store: Callable[[Config], Store]) -> None:
    """Do what is left to do. Raises OSError, and msgspec's errors for what is no task."""
    task = msgspec.msgpack.decode(path.read_bytes(), type=Task)
    store = open_store(task.config)
    try:
        if await park_when_possible(Registry(store, task.config.etcd_key_prefix), task.parking):
            log.info("this machine is parked: its units stay here until fleetd is started again")
        else:
            log.warning("this machine is not parked: it was taken for dead meanwhile, or its id is another's")
    finally:
        await store.close()
    path.unlink(missing_ok=True)
