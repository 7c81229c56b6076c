"""Answers of etcd: large ones come in pages, and all are bounded, whatever server sends them."""

import asyncio
import gzip
import logging
from contextlib import aclosing

import msgspec
import pytest

from contrib.testbed.etcd import EtcdServer
from fleetd.store.etcd_gateway import LINE_BYTES
from fleetd.store.etcd_wire import FIRST_PAGE
from fleetd.store.http_gateway import ANSWER_BYTES
from fleetd.store.protocol import Delete, Put, Unavailable
from tests.contract.etcd_between import Misbehaving, Proxy
from tests.contract.store_harness import fill
from tests.contract.test_etcd import store_on

RANGE = "/v3/kv/range"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json"

# Pages


async def test_a_range_that_fits_on_a_page_is_one_request(shared_etcd: EtcdServer) -> None:
    async with Proxy(shared_etcd) as proxy, store_on(proxy.url) as store:
        await fill(store, "/one-page/", FIRST_PAGE, value=b"v" * 1024)
        assert len((await store.range("/one-page/")).items) == FIRST_PAGE
        assert len((await store.range("/one-page/", limit=5)).items) == 5
    assert proxy.paths.count(RANGE) == 2


async def test_all_pages_are_of_one_revision(shared_etcd: EtcdServer) -> None:
    async with store_on(shared_etcd.client_url) as writer:
        written: list[int] = []

        async def write(path: str) -> None:
            if path == RANGE:
                keys = [
                    Put("/pages/00000", b"new"),
                    Delete(f"/pages/{FIRST_PAGE + len(written):05}"),
                    Put("/pages/z", b""),
                ]
                written.append(await writer.transact([], keys))

        async with Proxy(shared_etcd, write) as proxy, store_on(proxy.url, request_timeout_s=5) as store:
            await fill(writer, "/pages/", 2000, value=b"v" * 7168)
            snapshot = await store.range("/pages/")
            seen = [item.key for item in snapshot.items]
            assert proxy.paths.count(RANGE) > 3
            assert snapshot.revision == written[0]
            gone = f"/pages/{FIRST_PAGE:05}"  # by the write before the first page; later ones are not seen
            assert seen == [f"/pages/{number:05}" for number in range(2000) if f"/pages/{number:05}" != gone] + [
                "/pages/z"
            ]
            assert len((await store.range("/pages/", after="/pages/00100", limit=1500)).items) == 1500


async def test_a_range_compacted_while_it_is_read_is_read_again(shared_etcd: EtcdServer) -> None:
    async with store_on(shared_etcd.client_url) as writer:
        await fill(writer, "/compacted/", 3 * FIRST_PAGE)
        times = 1

        async def compact(path: str) -> None:
            nonlocal times
            if path == RANGE and times and proxy.paths.count(RANGE) % 2 == 0:
                times -= 1
                for _ in range(2):  # etcd keeps everything at the revision that it compacts to
                    revision = await writer.transact([], [Put("/compacted/z", b"")])
                await writer.compact(revision)

        async with Proxy(shared_etcd, compact) as proxy, store_on(proxy.url) as store:
            items = (await store.range("/compacted/")).items
            assert len(items) == 3 * FIRST_PAGE + 1
            assert items[-1].key == "/compacted/z"
            times = 10
            with pytest.raises(Unavailable, match="keep at least a minute"):
                await store.range("/compacted/")


@pytest.mark.long
async def test_values_of_the_largest_size_come_in_smaller_pages(shared_etcd: EtcdServer) -> None:
    async with store_on(shared_etcd.client_url, request_timeout_s=10) as store:
        large = [bytes([65 + number % 26]) * (512 * 1024) for number in range(80)]  # 55 MiB in etcd's encoding
        for number, value in enumerate(large):
            await store.transact([], [Put(f"/large/{number:03}", value)])
        assert [item.value for item in (await store.range("/large/")).items] == large
        assert len((await store.get_many([f"/large/{number:03}" for number in range(80)])).items) == 80


async def test_pages_grow_with_small_keys_and_start_small_in_the_next_folder(shared_etcd: EtcdServer) -> None:
    async with Proxy(shared_etcd) as proxy, store_on(proxy.url, request_timeout_s=5) as store:
        await fill(store, "/grow/a/", 2 * FIRST_PAGE)
        await fill(store, "/grow/b/", 20 * FIRST_PAGE)
        await fill(store, "/grow/c/", FIRST_PAGE, value=b"v" * 1000)
        del proxy.paths[:], proxy.bodies[:]
        items = (await store.range("/grow/")).items
        assert len(items) == len({item.key for item in items}) == 23 * FIRST_PAGE
        limits = [msgspec.json.decode(body)["limit"] for body in proxy.bodies]
        assert limits == [FIRST_PAGE * times for times in (1, 4, 1, 4, 16, 1)]


async def test_a_store_lost_between_pages_is_unavailable(shared_etcd: EtcdServer) -> None:
    async with store_on(shared_etcd.client_url) as writer:
        await fill(writer, "/goes/", 3 * FIRST_PAGE)

        async def go(path: str) -> None:
            if path == RANGE and proxy.paths.count(RANGE) > 1:
                raise ConnectionResetError

        async with Proxy(shared_etcd, go) as proxy, store_on(proxy.url) as store:
            with pytest.raises(Unavailable, match=r"^/goes/ cannot be read: etcd does not answer"):
                await store.range("/goes/")
            assert proxy.paths.count(RANGE) < 8


async def test_keys_that_are_not_text_are_read_once_each(shared_etcd: EtcdServer) -> None:
    count = FIRST_PAGE + 10
    for number in range(count):
        await asyncio.to_thread(_put_raw, shared_etcd, b"/raw/" + bytes([0xFE, 0x80 + number % 64, number]))
    async with store_on(shared_etcd.client_url, request_timeout_s=5) as store:
        assert len((await store.range("/raw/")).items) == count


def _put_raw(server: EtcdServer, key: bytes) -> None:
    import base64
    import json
    import urllib.request

    body = json.dumps({"key": base64.b64encode(key).decode(), "value": ""}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.client_url}/v3/kv/put", body)).close()


# Servers that are not etcd


@pytest.mark.covers("H.7")
async def test_an_endless_answer_is_given_up_and_the_next_endpoint_tried(shared_etcd: EtcdServer) -> None:
    async with Misbehaving(OK, b" " * 65536, endless=True) as server:
        async with store_on(server.url) as store:
            with pytest.raises(Unavailable, match=f"larger than {ANSWER_BYTES} bytes"):
                await store.revision()
            with pytest.raises(Unavailable, match="larger than"):
                await store.range("/")
            with pytest.raises(Unavailable, match="larger than"):
                await store.get_many(["/a"])
        async with store_on(server.url, shared_etcd.client_url) as store:
            assert await store.revision() > 0


@pytest.mark.covers("H.7")
async def test_an_endless_line_ends_the_stream() -> None:
    async with (
        Misbehaving(OK, b" " * 65536, endless=True) as server,
        store_on(server.url, request_timeout_s=30) as store,
        aclosing(store.watch("/", 1)) as watch,
    ):
        waiting = asyncio.ensure_future(anext(watch, None))
        async with asyncio.timeout(60):
            while len(server.paths) < 2:  # it starts again with another stream
                assert not waiting.done()
                await asyncio.sleep(0.05)
        assert server.sent > LINE_BYTES
        await store.close()
        await waiting


@pytest.mark.covers("H.7")
async def test_a_redirect_is_not_followed_and_gets_no_password(caplog: pytest.LogCaptureFixture) -> None:
    async with Misbehaving(OK) as elsewhere:
        moved = (
            f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere.url}/v3/kv/range\r\nContent-Length: 0".encode()
        )
        async with Misbehaving(moved) as server:
            async with store_on(server.url, username="fleet", password="secret") as store:
                with pytest.raises(
                    Unavailable, match=r"redirects to .*, which is not followed: name etcd itself in etcd_"
                ):
                    await store.revision()
            async with store_on(server.url) as store, aclosing(store.watch("/", 1)) as watch:
                with caplog.at_level(logging.INFO):
                    waiting = asyncio.ensure_future(anext(watch, None))
                    async with asyncio.timeout(60):
                        while "redirects to" not in caplog.text:  # noqa: ASYNC110 (no event says it)
                            await asyncio.sleep(0.02)
                await store.close()
                await waiting
    assert elsewhere.paths == []
    assert "redirects to" in caplog.text


@pytest.mark.covers("H.7")
async def test_compressed_answers_are_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    head = OK + f"\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}".encode()
    async with Misbehaving(head, bomb) as server, store_on(server.url) as store:
        with pytest.raises(Unavailable, match="not an answer of etcd"):
            await store.revision()
    assert b"accept-encoding: identity" in server.heads[0].lower()


@pytest.mark.covers("H.7")
async def test_user_and_password_of_a_url_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with store_on("http://me:hunter2@127.0.0.1:1", request_timeout_s=1) as store:
            with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1") as failure:
                await store.revision()
    assert "hunter2" not in str(failure.value) + caplog.text


async def test_a_blocked_loop_is_no_timeout_of_etcd(shared_etcd: EtcdServer) -> None:
    """The answer arrived long before the loop looks at it."""
    import time

    async with Proxy(shared_etcd) as proxy, store_on(proxy.url, request_timeout_s=0.5) as store:
        asking = [asyncio.create_task(store.revision()) for _ in range(8)]
        await asyncio.sleep(0.001)
        for _ in range(3):
            time.sleep(0.6)  # noqa: ASYNC251 (it is to hold up the loop)
            await asyncio.sleep(0)
        assert len(set(await asyncio.gather(*asking))) == 1
