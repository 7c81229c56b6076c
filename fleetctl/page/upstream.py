"""Asks fleetd for the browser, over whichever way fleetctl has to the cluster, on few connections that are kept."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING

from fleetctl.endpoint import choose_endpoint, open_bastion, open_transport, own_name, tls_contexts
from fleetctl.errors import ClientError, CommandFailed, SshFailed, Unreachable
from fleetctl.settings import Settings
from fleetctl.unreachable import explain
from fleetd import __version__
from fleetd.api import schema

if TYPE_CHECKING:
    import socket
    from http.client import HTTPResponse

    from fleetctl.http_transport import HttpTransport
    from fleetctl.ssh.tunnel import TunnelTransport

    Transport = HttpTransport | TunnelTransport

TIMEOUT_S = 60.0  # for an answer to begin: planning a large cluster takes its time
SILENCE_S = 60.0  # of an answer that goes on: events say something each 15 s
MOST_AT_ONCE = 8  # requests: sshd allows ten sessions in a connection, a browser makes six at once
BASTION_PAUSE_S = 5.0  # between two attempts to log in again


class Upstream:
    """Requests to the endpoint of the settings, at most `MOST_AT_ONCE` at once; others wait for their turn.

    A tunnel that was lost is opened again. Raises CommandFailed if that is impossible at first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = choose_endpoint(settings)
        self._tls = tls_contexts(settings, self._endpoint) if self._endpoint.tls else ()
        self._bastion = open_bastion(settings) if settings.tunnel else None
        self._opened_at = time.monotonic()
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._idle: list[Transport] = []

    @contextmanager
    def ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> "Iterator[tuple[HTTPResponse, socket.socket]]":
        """The response to a request, whose content is read in the `with` block, and the socket that it comes from.
        Raises ClientError, also for an OSError or HTTPException of the block."""
        if not self._turns.acquire(timeout=TIMEOUT_S):
            raise Unreachable(f"{MOST_AT_ONCE} requests are under way already: close other windows of this page")
        try:
            with self._explaining():
                transport, idle = self._take()
                try:
                    own = {"User-Agent": f"fleetctl/{__version__}", schema.USER_HEADER: own_name()}
                    response, stream = transport.open(method, path, body, {**headers, **own})
                    stream.settimeout(SILENCE_S)
                    yield response, stream
                    is_usable = response.isclosed()  # to its end
                except BaseException:
                    transport.close()
                    raise
                if is_usable:
                    idle.append(transport)
                else:
                    transport.close()
        finally:
            self._turns.release()

    def close(self) -> None:
        """Close the way to the cluster."""
        for transport in self._idle:
            transport.close()
        if self._bastion:
            self._bastion.close()

    def _take(self) -> "tuple[Transport, list[Transport]]":
        """A connection, and where to leave it for further requests."""
        with self._lock:
            self._keep_bastion()
            if self._idle:
                return self._idle.pop(), self._idle
            return open_transport(self._endpoint, TIMEOUT_S, self._tls, self._bastion), self._idle

    def _keep_bastion(self) -> None:
        """Log in to the bastion again if the connection to it was lost, as when a laptop has slept."""
        if self._bastion is None or self._bastion.is_alive:
            return
        if time.monotonic() - self._opened_at < BASTION_PAUSE_S:
            raise self._bastion.lost()
        self._opened_at = time.monotonic()
        self._idle = []
        self._bastion = open_bastion(self._settings)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        where = self._endpoint
        try:
            yield
        except ClientError:
            raise
        except (CommandFailed, SshFailed) as error:
            raise Unreachable(str(error)) from error
        except TimeoutError as error:
            raise Unreachable(f"{where.text} is silent: its fleetd hangs, or a firewall drops packets") from error
        except (OSError, HTTPException) as error:
            why = explain(error, where.socket, where.is_users)
            raise Unreachable(f"cannot reach fleetd at {where.text}: {why}") from error
