"""The etcd store beyond the shared contract: failover, outages, authentication, TLS, and clusters created anew."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from contrib.testbed.etcd import EtcdServer, free_port
from fleetd.store.etcd import EtcdStore
from fleetd.store.protocol import Changes, Compacted, Put, StoreMember, Unavailable, Unchanged

PASSWORD_S = 10.0  # etcd checks one with bcrypt, on purpose slowly
PATIENCE_S = 60.0

NewEtcd = Callable[..., EtcdServer]


@asynccontextmanager
async def store_on(*endpoints: str, **options: object) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(endpoints, **{"request_timeout_s": 0.5, **options})
    try:
        yield store
    finally:
        await store.close()


async def next_of(watch: AsyncIterator[Changes]) -> Changes:
    return await asyncio.wait_for(anext(watch), PATIENCE_S)


async def until_it_answers(store: EtcdStore) -> int:
    """The revision, as soon as the store answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.revision()
            except Unavailable:
                await asyncio.sleep(0.05)


async def restart(server: EtcdServer) -> None:
    """SIGKILL and start it again, while the event loop runs."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def put(store: EtcdStore, key: str) -> int:
    return await store.transact([], [Put(key, b"x")])


class HalfDeafProxy:
    """Forwards requests to etcd and drops the answers to transactions, as a broken connection does."""

    def __init__(self, target: EtcdServer) -> None:
        _, _, port = target.client_url.rpartition(":")
        self._target_port = int(port)
        self.url = ""

    async def __aenter__(self) -> "HalfDeafProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        request = await reader.read(65536)
        back.write(request)
        answer = await there.read(65536)
        if not request.startswith(b"POST /v3/kv/txn"):
            writer.write(answer)
        writer.close()
        back.close()


# Failover


@pytest.mark.covers("5.3.2")
async def test_an_endpoint_that_refuses_is_skipped(shared_etcd: EtcdServer) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    async with store_on(closed, shared_etcd.client_url) as store:
        revision = await store.transact([Unchanged("/passed-over", 0)], [Put("/passed-over", b"")])
        async with aclosing(store.watch("/passed-over", revision - 1)) as watch:
            assert (await next_of(watch)).revision == revision


async def test_the_error_names_all_endpoints_if_none_answers(shared_etcd: EtcdServer) -> None:
    first, second = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    async with store_on(first, second) as store:
        with pytest.raises(Unavailable) as failure:
            await store.revision()
    assert first in str(failure.value)
    assert second in str(failure.value)


@pytest.mark.covers("P.17")
async def test_a_transaction_without_an_answer_is_not_repeated_elsewhere(shared_etcd: EtcdServer) -> None:
    """Repeated, it would conflict with itself, and its result would be unknown."""
    async with HalfDeafProxy(shared_etcd) as proxy, store_on(proxy.url, shared_etcd.client_url) as store:
        with pytest.raises(Unavailable):
            await store.transact([Unchanged("/lost-answer", 0)], [Put("/lost-answer", b"once")])
        item = await store.get("/lost-answer")
    assert item is not None
    assert (item.value, item.create_revision) == (b"once", item.mod_revision)


def start_three(new_etcd: NewEtcd) -> list[EtcdServer]:
    """Three members of one cluster, by name."""
    ports = [free_port() for _ in range(3)]
    members = {f"m{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports)}
    servers = [new_etcd(name=name, peer_port=port, members=members) for name, port in zip(members, ports, strict=True)]
    for server in servers:
        server.launch()
    for server in servers:
        server.wait_until_ready()
    return servers


async def test_a_frozen_member_of_three_is_left_for_another(new_etcd: NewEtcd) -> None:
    servers = start_three(new_etcd)
    async with store_on(*(server.client_url for server in servers)) as store:
        start = await until_it_answers(store)
        lease = await store.grant(30)
        async with aclosing(store.watch("/three/", start)) as watch:
            first = await put(store, "/three/a")
            assert (await next_of(watch)).revision == first
            servers[0].freeze()
            await until_it_answers(store)
            second = await put(store, "/three/b")
            assert (await next_of(watch)).revision == second
            assert (await store.keep_alive(lease)).revision == second
            servers[0].thaw()
            servers[1].kill()
            await until_it_answers(store)
            third = await put(store, "/three/c")
            assert (await next_of(watch)).revision == third


async def until_healthy(store: EtcdStore, members: Mapping[str, StoreMember], names: list[str]) -> None:
    """Wait until exactly these of the members are healthy; an election may have to end first."""
    async with asyncio.timeout(PATIENCE_S):
        while [name for name, member in members.items() if await store.is_healthy(member)] != names:  # noqa: ASYNC110 (etcd tells nobody)
            await asyncio.sleep(0.05)


async def test_each_member_is_known_and_only_one_that_answers_itself_is_healthy(new_etcd: NewEtcd) -> None:
    servers = {server.name: server for server in start_three(new_etcd)}
    async with store_on(servers["m0"].client_url) as store:
        members = {member.name: member for member in sorted(await store.members(), key=lambda member: member.name)}
        assert {name: (member.peer_urls, member.client_urls) for name, member in members.items()} == {
            name: ((server.peer_url,), (server.client_url,)) for name, server in servers.items()
        }
        listed = json.loads(servers["m1"].etcdctl("member", "list", "--write-out=json"))["members"]
        assert {f"{member['ID']:x}" for member in listed} == {member.id for member in members.values()}
        await until_healthy(store, members, ["m0", "m1", "m2"])

        servers["m1"].freeze()
        await until_healthy(store, members, ["m0", "m2"])
        servers["m2"].kill()
        await until_healthy(store, members, [])  # no majority
        servers["m1"].thaw()
        await until_healthy(store, members, ["m0", "m1"])


async def test_a_member_that_announces_an_address_of_another_is_asked_where_fleetd_reaches_it(
    new_etcd: NewEtcd,
) -> None:
    first, second, third = start_three(new_etcd)
    async with store_on(first.client_url, second.client_url) as store:
        members = {member.name: member for member in sorted(await store.members(), key=lambda member: member.name)}
        elsewhere = {name: structs.replace(members[name], client_urls=(third.client_url,)) for name in ("m0", "m1")}
        await until_healthy(store, elsewhere, ["m0", "m1"])
        second.freeze()
        await until_healthy(store, elsewhere, ["m0"])


async def test_a_learner_is_a_member_without_a_vote(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as store:
        server.etcdctl("member", "add", "late", "--learner", "--peer-urls=http://127.0.0.1:1")
        assert sorted((each.name, each.has_vote) for each in await store.members()) == [("", False), ("default", True)]


async def test_an_idle_watch_uses_tcp_keep_alive(shared_etcd: EtcdServer) -> None:
    async with store_on(shared_etcd.client_url) as store:
        position = await store.revision()
        before = connections_with_a_keepalive_timer(shared_etcd)
        async with aclosing(store.watch("/silent/", position)) as watch:
            waiting = asyncio.ensure_future(anext(watch, None))
            async with asyncio.timeout(PATIENCE_S):
                while connections_with_a_keepalive_timer(shared_etcd) <= before:  # noqa: ASYNC110 (no event says it)
                    await asyncio.sleep(0.05)
            assert connections_with_a_keepalive_timer(shared_etcd) == before + 1
            await store.close()
            assert await waiting is None


def connections_with_a_keepalive_timer(server: EtcdServer) -> int:
    """This process's sockets to the server. proc(5) tells for each its address, its timer and its inode, which the
    descriptors name. Other tests may have connections to the same port of other addresses."""
    port = f":{int(server.client_url.rpartition(':')[2]):04X}"
    sockets = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    ours = {os.readlink(descriptor) for descriptor in Path("/proc/self/fd").iterdir() if descriptor.is_symlink()}
    leading = [fields for fields in sockets if fields[2].endswith(port) and f"socket:[{fields[9]}]" in ours]
    return sum(fields[5].startswith("02:") for fields in leading)


# Outages of the only endpoint


async def test_a_watch_survives_a_killed_etcd_and_misses_nothing(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as store:
        start = await store.revision()
        async with aclosing(store.watch("/k/", start)) as watch:
            first = await put(store, "/k/a")
            assert (await next_of(watch)).revision == first
            second = await put(store, "/k/b")
            server.kill()
            with pytest.raises(Unavailable):
                await store.revision()
            server.start()
            await until_it_answers(store)
            third = await put(store, "/k/c")
            seen = []
            while third not in seen:
                seen += [event.revision for event in (await next_of(watch)).events]
    assert seen == [second, third]


@pytest.mark.covers("5.3.6")
async def test_a_frozen_etcd_is_unavailable_in_time_and_usable_afterwards(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as store:
        start = await store.revision()
        async with aclosing(store.watch("/f/", start)) as watch:
            waiting = asyncio.ensure_future(next_of(watch))
            await asyncio.sleep(0.2)
            server.freeze()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(Unavailable, match=r"no answer for 0\.5 s"):
                    await store.revision()
                # a write is not repeated at another endpoint
                with pytest.raises(Unavailable, match=r"no answer for 1 s"):
                    await put(store, "/f/lost")
            assert not waiting.done()
            server.thaw()
            await until_it_answers(store)
            revision = await put(store, "/f/found")
            seen = [event.key for event in (await waiting).events]
            while "/f/found" not in seen:
                seen += [event.key for event in (await next_of(watch)).events]
    assert len(seen) == len(set(seen))
    assert revision > start


async def test_a_watch_of_a_compacted_revision_ends_after_an_outage(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as store, aclosing(store.watch("/c/", await store.revision())) as watch:
        waiting = asyncio.ensure_future(next_of(watch))
        await asyncio.sleep(0.2)
        for _ in range(3):
            revision = await put(store, "/elsewhere")
        await store.compact(revision)
        assert not waiting.done()
        await restart(server)
        with pytest.raises(Compacted) as compacted:
            await waiting
    assert compacted.value.revision == revision
    assert not compacted.value.was_set_back


# A cluster of the same name, created anew


async def test_new_data_change_the_cluster_id_and_end_a_watch(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as store:
        name = await store.cluster_id()
        for _ in range(5):
            position = await put(store, "/n/a")
        async with aclosing(store.watch("/n/", position)) as watch:
            waiting = asyncio.ensure_future(next_of(watch))
            await asyncio.sleep(0.2)
            server.kill()
            server.wipe()
            server.start()
            with pytest.raises(Compacted) as compacted:
                await waiting
            assert compacted.value.was_set_back
        assert await store.cluster_id() != name


async def test_machines_that_name_a_cluster_concurrently_agree(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url) as one, store_on(server.client_url) as other:
        names = await asyncio.gather(one.cluster_id(), other.cluster_id(), one.cluster_id())
    assert len(set(names)) == 1


# Authentication


def enable_authentication(server: EtcdServer) -> None:
    """An etcd with the user root, and a user fleet that may read and write below /fleet/ only."""
    server.etcdctl("user", "add", "root:secret")
    server.etcdctl("user", "grant-role", "root", "root")
    server.etcdctl("role", "add", "fleet")
    server.etcdctl("role", "grant-permission", "fleet", "--prefix=true", "readwrite", "/fleet/")
    server.etcdctl("user", "add", "fleet:pass")
    server.etcdctl("user", "grant-role", "fleet", "fleet")
    server.etcdctl("auth", "enable")


def forget_tokens(server: EtcdServer) -> None:
    """Invalidate every token at once, as etcd does after five minutes without use."""
    server.etcdctl("--user", "root:secret", "auth", "disable")
    server.etcdctl("auth", "enable")


@pytest.mark.covers("5.3.3", "5.3.5")
async def test_a_user_needs_only_fleets_prefix_and_renews_its_token(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    enable_authentication(server)
    async with store_on(server.client_url, username="fleet", password="pass", request_timeout_s=PASSWORD_S) as store:
        assert await store.cluster_id()
        [member] = await store.members()
        assert await store.is_healthy(member)
        start = await store.revision()
        lease = await store.grant(30)
        async with aclosing(store.watch("/fleet/w/", start)) as watch:
            revision = await store.transact([Unchanged("/fleet/w/a", 0)], [Put("/fleet/w/a", b"", lease)])
            assert (await next_of(watch)).revision == revision
            forget_tokens(server)
            revision = await store.transact([Unchanged("/fleet/w/b", 0)], [Put("/fleet/w/b", b"", lease)])
            assert (await next_of(watch)).revision == revision
        forget_tokens(server)
        assert [item.key for item in (await store.range("/fleet/w/")).items] == ["/fleet/w/a", "/fleet/w/b"]
        forget_tokens(server)
        assert (await store.keep_alive(lease)).revision == revision
        with pytest.raises(Unavailable, match="permission denied"):
            await store.get("/elsewhere")


async def test_a_watch_renews_an_invalid_token(new_etcd: NewEtcd) -> None:
    """Only the watch meets the refusal, inside a stream that began well."""
    server = new_etcd().start()
    enable_authentication(server)
    async with (
        store_on(server.client_url, username="fleet", password="pass", request_timeout_s=PASSWORD_S) as watcher,
        store_on(server.client_url, username="fleet", password="pass", request_timeout_s=PASSWORD_S) as writer,
    ):
        start = await watcher.revision()
        async with aclosing(watcher.watch("/fleet/w/", start)) as watch:
            waiting = asyncio.ensure_future(next_of(watch))
            await asyncio.sleep(0.2)
            forget_tokens(server)
            await restart(server)
            await until_it_answers(writer)
            revision = await put(writer, "/fleet/w/a")
            assert (await waiting).revision == revision


@pytest.mark.covers("R.15")
async def test_a_restored_etcd_that_waits_for_a_newer_token_gets_another(new_etcd: NewEtcd, tmp_path: Path) -> None:
    server = new_etcd().start()
    enable_authentication(server)
    server.etcdctl("--user", "root:secret", "snapshot", "save", str(tmp_path / "snapshot"))
    async with store_on(server.client_url, username="fleet", password="pass", request_timeout_s=2.0) as store:
        for _ in range(50):
            await put(store, "/fleet/a")  # the token has a later index than the restored etcd
        forget_tokens(server)
        position = await put(store, "/fleet/a")
        async with aclosing(store.watch("/fleet/", position)) as watch:
            waiting = asyncio.ensure_future(next_of(watch))
            await asyncio.to_thread(server.restore, tmp_path / "snapshot")
            await until_it_answers(store)
            with pytest.raises(Compacted):
                await waiting
        with pytest.raises(Unavailable, match="permission denied"):
            await store.get("/elsewhere")


async def test_a_watch_alone_renews_a_token_that_gets_no_answer(new_etcd: NewEtcd, tmp_path: Path) -> None:
    server = new_etcd().start()
    enable_authentication(server)
    server.etcdctl("--user", "root:secret", "snapshot", "save", str(tmp_path / "snapshot"))
    async with (
        store_on(server.client_url, username="fleet", password="pass", request_timeout_s=2.0) as watcher,
        store_on(server.client_url, username="fleet", password="pass", request_timeout_s=2.0) as writer,
    ):
        for _ in range(50):
            await put(writer, "/fleet/a")
        start = await watcher.revision()
        async with aclosing(watcher.watch("/fleet/", start)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.restore, tmp_path / "snapshot")
            with pytest.raises(Compacted):
                await asyncio.wait_for(waiting, PATIENCE_S)


async def test_authentication_can_be_enabled_while_the_store_is_in_use(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    async with store_on(server.client_url, username="fleet", password="pass", request_timeout_s=PASSWORD_S) as store:
        before = await put(store, "/fleet/a")
        enable_authentication(server)
        assert await put(store, "/fleet/a") > before


@pytest.mark.covers("5.3.3")
async def test_a_wrong_password_and_a_missing_user_are_reported(new_etcd: NewEtcd) -> None:
    server = new_etcd().start()
    enable_authentication(server)
    async with store_on(server.client_url, username="fleet", password="wrong", request_timeout_s=PASSWORD_S) as store:
        with pytest.raises(Unavailable, match=r"does not let user fleet in.*check etcd_username and etcd_password"):
            await store.revision()
    async with store_on(server.client_url) as store:
        with pytest.raises(Unavailable, match="user name is empty"):
            await store.revision()
