"""A write to the store in this process wakes the watches that it has changes for, and no other."""

import asyncio

import pytest

from fleetd.store.protocol import Put
from fleetd.store.sqlite import Database
from fleetd.store.watchers import Watchers
from tests.virtual_time import run_virtually

WATCHES = {"a": ("/a/", ""), "ab": ("/ab", ""), "from b to d": ("/b", "/d")}


async def write(key: str) -> list[str]:
    """The watches that a write of this key wakes."""
    watchers, database, woken = Watchers(), Database(":memory:", "cluster"), list[str]()

    async def wait(name: str, prefix: str, end: str) -> None:
        with watchers.watching(prefix, end) as watcher:
            while await watcher.wait():
                woken.append(name)

    tasks = [asyncio.create_task(wait(name, *each)) for name, each in WATCHES.items()]
    await asyncio.sleep(1.0)
    watchers.tell(database.transact([], [Put(key, b"")]))
    await asyncio.sleep(1.0)
    watchers.close()
    await asyncio.gather(*tasks)
    watchers.tell(database.transact([], [Put(key, b"")]))  # nobody waits any more
    database.close()
    return woken


@pytest.mark.parametrize(
    ("key", "woken"),
    [
        ("/a/1", ["a"]),
        ("/ab", ["ab"]),
        ("/abc", ["ab"]),
        ("/b", ["from b to d"]),
        ("/c/1", ["from b to d"]),
        ("/d", []),
        ("/a", []),
    ],
)
def test_a_write_wakes_the_watches_of_its_key_alone(key: str, woken: list[str]) -> None:
    assert run_virtually(write(key)) == woken
