"""The embedded store beyond the shared contract: durability, one process for each file, an injected clock."""

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Compacted, Delete, Event, LeaseNotFound, Put, StoreError, StoreMember, Unavailable
from tests.virtual_time import START_S, run_virtually

# Writes keys with eight concurrent writers and prints each key when it is acknowledged. Every third transaction also
# deletes the key before it.
WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from fleetd.store.embedded import EmbeddedStore
    from fleetd.store.protocol import Delete, Put

    async def write(store, writer):
        for number in range(100_000):
            operations = [Put(f"/{writer}/{number:06}", b"v%d" % number * 50)]
            if number % 3 == 2:
                operations.append(Delete(f"/{writer}/{number - 1:06}"))
            revision = await store.transact([], operations)
            print(writer, number, revision, flush=True)

    async def main():
        store = EmbeddedStore(sys.argv[1])
        await asyncio.gather(*(write(store, writer) for writer in range(8)))

    asyncio.run(main())
    """
)


def spawn(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def acknowledged_before_a_kill(path: Path, after: int) -> list[tuple[int, int, int]]:
    """SIGKILL a writing process after this many acknowledgements. Return all of them: (writer, number, revision)."""
    process = spawn(WRITER, str(path))
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.wait()
    whole = [line for line in (*lines, *rest[:-1]) if line.strip()]  # the last line may be cut
    return [(int(writer), int(number), int(revision)) for writer, number, revision in map(str.split, whole)]


async def test_a_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged = acknowledged_before_a_kill(path, after=300)
    assert len(acknowledged) >= 300
    store = EmbeddedStore(str(path))
    snapshot = await store.range("/")
    found = {item.key: item for item in snapshot.items}
    last_of = {writer: number for writer, number, _ in acknowledged}
    for writer, number, revision in acknowledged:
        key = f"/{writer}/{number:06}"
        if number % 3 == 1 and number < last_of[writer]:
            assert key not in found
        elif key in found:
            assert (found[key].value, found[key].mod_revision) == (b"v%d" % number * 50, revision)
        else:  # deleted by a transaction that was done as a whole, but not acknowledged
            assert number % 3 == 1
            assert f"/{writer}/{number + 1:06}" in found
    assert snapshot.revision >= max(revision for _, _, revision in acknowledged)
    await store.close()


async def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    process = spawn(WRITER, str(path))
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(StoreError, match=rf"{path} is in use by another process"):
            EmbeddedStore(str(path))
    finally:
        process.kill()
        process.communicate()
    await EmbeddedStore(str(path)).close()


async def test_a_second_store_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    store = EmbeddedStore(str(tmp_path / "store.db"))
    with pytest.raises(StoreError, match="in use"):
        EmbeddedStore(str(tmp_path / "store.db"))
    await store.close()


async def test_a_file_that_is_no_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("hello, this is a letter and not a database at all")
    with pytest.raises(StoreError, match=r"store\.db: file is not a database"):
        EmbeddedStore(str(tmp_path / "store.db"))
    with pytest.raises(StoreError, match="none/store"):
        EmbeddedStore(str(tmp_path / "none" / "store.db"))


async def test_a_store_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await EmbeddedStore(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="later version of fleetd"):
        EmbeddedStore(str(path))


async def test_a_reopened_store_has_its_id_keys_and_revisions(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = EmbeddedStore(path)
    name = await store.cluster_id()
    await store.transact([], [Put("/a", b"1"), Put("/b", b"")])
    await store.transact([], [Put("/a", b"2"), Delete("/b")])
    before = await store.range("/")
    await store.close()
    again = EmbeddedStore(path)
    assert await again.cluster_id() == name
    assert await again.range("/") == before
    assert await again.transact([], [Put("/c", b"")]) == before.revision + 1
    await again.close()


async def test_two_new_stores_have_different_ids(tmp_path: Path) -> None:
    names = []
    for number in range(2):
        store = EmbeddedStore(str(tmp_path / f"{number}.db"))
        names.append(await store.cluster_id())
        await store.close()
    assert names[0] != names[1]


async def test_a_store_in_this_process_has_no_members() -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    assert await store.members() == ()
    assert not await store.is_healthy(StoreMember("1", "default", (), ()))
    await store.close()


async def test_a_reopened_store_can_be_watched_from_its_last_revision(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = EmbeddedStore(path)
    revision = await store.transact([], [Put("/a", b"")])
    await store.close()
    again = EmbeddedStore(path)
    async with aclosing(again.watch("/", revision)) as watch:
        later = await again.transact([], [Put("/b", b"")])
        assert (await anext(watch)).revision == later
    async with aclosing(again.watch("/", revision - 1)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)
    await again.close()


async def test_history_is_bounded_and_a_watch_that_falls_behind_ends() -> None:
    store = EmbeddedStore(":memory:", offload=inline, history=10)
    start = await store.revision()
    for number in range(100):
        last = await store.transact([], [Put(f"/{number}", b"")])
    async with aclosing(store.watch("/", last - 10)) as watch:
        assert len((await anext(watch)).events) == 10
    async with aclosing(store.watch("/", start)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)
    await store.close()


@contextmanager
def full_disk(bytes_a_file: int) -> Iterator[None]:
    """Limit the size of this process's files, which is a full disk to SQLite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.covers("S.17")
async def test_a_full_disk_is_unavailable_and_writes_nothing_partially(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = EmbeddedStore(path)
    start = await store.transact([], [Put("/kept", b"x")])
    before = await store.range("/")
    with full_disk(150_000):
        with pytest.raises(Unavailable, match=r"store\.db fails: .*make room"):
            await store.transact([], [Put("/kept", b"y"), *(Put(f"/{number}", b"z" * 50_000) for number in range(8))])
        assert await store.range("/") == before
    async with aclosing(store.watch("/", start)) as watch:
        later = await store.transact([], [Put("/after", b"")])
        assert (await anext(watch)).events == (Event("/after", await store.get("/after"), later),)
    assert later == start + 1
    after = await store.range("/")
    await store.close()
    again = EmbeddedStore(path)
    assert await again.range("/") == after
    await again.close()


# Leases, on a virtual clock: ten minutes take no time.


async def lease_ends(store: EmbeddedStore, below: str) -> list[tuple[float, str, int]]:
    """The deletion of each of the keys, until none is left: (seconds since the clock's start, key, revision)."""
    ends = []
    snapshot = await store.range(below)
    async with aclosing(store.watch(below, snapshot.revision)) as watch:
        while len(ends) < len(snapshot.items):
            changes = await anext(watch)
            ends += [
                (asyncio.get_running_loop().time() - START_S, event.key, event.revision) for event in changes.events
            ]
    return ends


def test_leases_end_on_time_each_at_its_own_revision() -> None:
    async def scenario() -> list[tuple[float, str, int]]:
        store = EmbeddedStore(":memory:", offload=inline, cluster_id="c")
        for name, ttl_s in (("/long", 600), ("/short", 10), ("/also-short", 10)):
            await store.transact([], [Put(name, b"", await store.grant(ttl_s))])
        ends = await lease_ends(store, "/")
        await store.close()
        return ends

    ends = run_virtually(scenario())
    assert ends == [(10.0, "/short", 5), (10, "/also-short", 6), (600, "/long", 7)]
    assert ends == run_virtually(scenario())


def test_a_keep_alive_extends_a_lease_by_its_whole_time_to_live() -> None:
    async def scenario() -> None:
        store = EmbeddedStore(":memory:", offload=inline)
        lease = await store.grant(10)
        await store.transact([], [Put("/a", b"", lease)])
        await asyncio.sleep(9)
        assert (await store.keep_alive(lease)).ttl_s == 10
        await asyncio.sleep(9)
        assert await store.time_to_live(lease) == 1
        assert [when for when, _, _ in await lease_ends(store, "/")] == [19]
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease)
        await store.close()

    run_virtually(scenario())


def test_a_lease_survives_a_restart_with_its_whole_time_to_live(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "store.db")
        store = EmbeddedStore(path, offload=inline)
        lease = await store.grant(10)
        await store.transact([], [Put("/a", b"", lease)])
        await asyncio.sleep(9)
        await store.close()
        await asyncio.sleep(100)
        again = EmbeddedStore(path, offload=inline)
        assert await again.time_to_live(lease) == 10
        assert await again.grant(10) != lease
        assert [when for when, _, _ in await lease_ends(again, "/")] == [119]
        await again.close()

    run_virtually(scenario())


def test_a_lease_that_ends_while_the_disk_is_full_ends_once_there_is_space(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = EmbeddedStore(str(tmp_path / "store.db"), offload=inline)
        await store.transact([], [Put("/a", b"", await store.grant(10))])
        with full_disk(1):
            await asyncio.sleep(15)
            assert await store.get("/a") is not None
        assert [when for when, _, _ in await lease_ends(store, "/")] == [16]
        await store.close()

    run_virtually(scenario())


def test_the_clock_may_differ_from_the_loops() -> None:
    """A clock that stands still keeps every lease alive, whatever the timers do."""

    async def scenario() -> None:
        clock = [0.0]
        store = EmbeddedStore(":memory:", offload=inline, now=lambda: clock[0])
        await store.transact([], [Put("/a", b"", await store.grant(10))])
        await asyncio.sleep(35)
        assert await store.get("/a") is not None
        clock[0] = 10.0
        assert len(await lease_ends(store, "/")) == 1
        await store.close()

    run_virtually(scenario())
