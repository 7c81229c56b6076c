"""A real browser at a page of somebody else, the sites of that page, and what the page could read."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from fleetd.config.options import Address
from tests.api.served import LOOPBACK
from tests.requirements import require

NAME = "evil.example"  # of a site of somebody else, whose address is this machine's
PAGE = Path(__file__).with_name("page.html")
SECRET = "read from a server that checks nothing"
PATIENCE_S = 120.0  # what a browser has sent may take long to arrive on a busy machine
STARTS = 4
START_S = 30.0  # for a browser to open a page; headless Chromium now and then stands still after that, and begins anew
POLL_S = 0.05
PIECE = 65536

# The browser asks nobody but this machine, and does not protect it in place of fleetd.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
    "--disable-features=BlockInsecurePrivateNetworkRequests,HttpsFirstBalancedMode,HttpsUpgrades"
    ",LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,OptimizationHints,MediaRouter",
    "--ignore-certificate-errors",
    f"--host-resolver-rules=MAP {NAME} {LOOPBACK}, MAP * ~NOTFOUND, EXCLUDE {LOOPBACK}",
)


class Site:
    """A site that serves the page and takes its reports.

    What is asked of it below /fleet/ it sends on to the server `behind` it, byte by byte, on TLS in the context `tls`:
    so does a name that is bound to another address once the page is there. Without one it answers everything, as a
    server that checks nothing, and notes the `tries`.
    """

    def __init__(self, scheme: str, behind: Address | None, tls: ssl.SSLContext | None) -> None:
        self.scheme = scheme
        self.port = 0
        self.tries: set[str] = set()
        self.reports: dict[str, dict[str, str]] = {}
        self._behind = behind
        self._tls = tls

    def url(self, host: str = LOOPBACK) -> str:
        return f"{self.scheme}://{host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the browser has gone
            head = await reader.readuntil(b"\r\n\r\n")
            if self._behind and head.split(b" ", 2)[1].startswith(b"/fleet/"):
                await self._pass_on(self._behind, head, reader, writer)
            else:
                await self._answer(head, reader, writer)
        writer.close()

    async def _pass_on(
        self, behind: Address, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answers, requests = await asyncio.open_connection(behind.host, behind.port, ssl=self._tls)
        requests.write(head)
        await asyncio.gather(_copy(reader, requests), _copy(answers, writer))

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(head.split(b" ", 2)[1].decode())
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
        kind, text = "text/plain", ""
        if url.path == "/page":
            kind, text = "text/html", PAGE.read_text()
        elif url.path == "/report":
            self.reports.update(json.loads(body))
        elif url.path.startswith("/fleet/"):
            self.tries.update(parse_qs(url.query).get("try", []))
            kind, text = "application/json", json.dumps(SECRET)
        start = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write(start.encode() + text.encode())
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass  # the other side has gone
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def site(
    behind: Address | None = None, *, certificate: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """A site on loopback, on https if it has a certificate."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    made = Site("https" if context else "http", behind, tls)
    server = await asyncio.start_server(made.serve, LOOPBACK, 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Wait until it holds, for as long as a busy machine may take. Return whether it does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while not holds():  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(POLL_S)
    return holds()


class Browser:
    """Chromium, started anew for each page."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._log = folder / "chromium.log"
        self._runs = itertools.count()

    @contextlib.asynccontextmanager
    async def visit(self, pages: Site, addresses: Collection[str], reports: Site) -> AsyncIterator[None]:
        """Open the page of the site `pages`, which tries these addresses and reports to another site. Everything was
        tried and reported in the context; a beacon may be on its way."""
        asked = {"addresses": list(addresses), "report": f"{reports.url()}/report"}
        url = f"{pages.url(NAME)}/page#{quote(json.dumps(asked))}"
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(STARTS):
                await stack.enter_async_context(self._run(url))
                if await until(lambda: reports.reports.keys() >= set(addresses), START_S):
                    break
                await stack.aclose()
            assert reports.reports.keys() >= set(addresses), self._log.read_text()
            yield

    async def enter(self, url: str) -> str:
        """What the browser shows of an address that its user has entered."""
        for _ in range(STARTS):
            async with self._run("--dump-dom", url) as process:
                with contextlib.suppress(TimeoutError):
                    output, _ = await asyncio.wait_for(process.communicate(), START_S)
                    return output.decode()
        raise TimeoutError(self._log.read_text())

    @contextlib.asynccontextmanager
    async def _run(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        home = self._folder / f"home{next(self._runs)}"
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *FLAGS,
                f"--user-data-dir={home}",
                *arguments,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it is many processes
            await process.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    found = shutil.which("chromium")
    require([] if found else ["chromium is not installed (Debian: chromium)"], "opens a page in a browser")
    return Browser(str(found), tmp_path)
