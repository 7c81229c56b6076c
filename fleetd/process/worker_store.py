"""The store of a worker, with what this machine has on its disk: its certificate, and what it knew of the store."""

import hashlib
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from fleetd.agent.ledger import StoreSeen
from fleetd.config.config import Config
from fleetd.model.decoding import UNREADABLE
from fleetd.small_files import replace_file
from fleetd.store.http_gateway import Gateway
from fleetd.store.protocol import Store, StoreError
from fleetd.store.worker import WorkerStore
from fleetd.trust.files import TrustFiles
from fleetd.trust.worker import WorkerTrust

log = logging.getLogger(__name__)

ANSWER_TIMEOUTS = 2  # a server that asks etcd gets as many timeouts of a request to etcd


def servers_in_turn(servers: Iterable[str], machine: str) -> tuple[str, ...]:
    """The servers in the order in which this worker asks them. It is another one for each machine, so that workers
    spread over all of them, and over those that remain when one is away."""
    return tuple(sorted(servers, key=lambda server: hashlib.sha256(f"{machine} {server}".encode()).digest()))


class LearnedServers:
    """The https URLs of servers that servers have told of, in a file of this directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "servers.json"

    def read(self) -> tuple[str, ...]:
        """The URLs; () if none are known."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=tuple[str, ...])
        except FileNotFoundError:
            return ()
        except (OSError, *UNREADABLE) as error:
            log.warning("cannot read %s, asking the servers in fleet.conf alone: %s", self._path, error)
            return ()

    def write(self, servers: Sequence[str]) -> None:
        """Keep the URLs."""
        log.info("the servers of the cluster are %s", ", ".join(servers))
        try:
            replace_file(self._path, msgspec.json.encode(list(servers)))
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error)


def open_worker_store(
    config: Config,
    machine: str,
    seen: StoreSeen,
    context: Callable[[], ssl.SSLContext],
    directory: Path,
    make_gateway: Callable[..., Gateway] = Gateway,
) -> WorkerStore:
    """The store of the worker with this id; `context` returns the TLS of its next connection, `directory` has what it
    learns, and `make_gateway` makes its connections."""
    servers = LearnedServers(directory)
    return WorkerStore(
        config.servers,
        context,
        request_timeout_s=ANSWER_TIMEOUTS * config.etcd_request_timeout_s,
        epoch=seen.cluster_id,
        highest_revision=seen.revision,
        arrange=partial(servers_in_turn, machine=machine),
        learned=servers.read(),
        on_servers=servers.write,
        make_gateway=make_gateway,
    )


def load_own_certificate(directory: Path) -> Callable[[], ssl.SSLContext]:
    """The TLS of a client with this machine's certificate as it is in the directory, to servers that are not known to
    be revoked. Raises StoreError."""
    return _open_trust(directory, tuple).client_context


def open_worker_trust(config: Config, directory: Path) -> WorkerTrust:
    """The keeper of this worker's certificate, as it is in the directory. Raises StoreError."""
    learned = LearnedServers(directory)
    return _open_trust(directory, lambda: tuple(dict.fromkeys((*config.servers, *learned.read()))))


def _open_trust(directory: Path, servers: Callable[[], Sequence[str]]) -> WorkerTrust:
    files = TrustFiles(directory)
    if not files.read_authorities() or not files.read_certificate():
        raise StoreError(
            f"this machine is a worker (role=worker) and has no certificate in {directory}: have it join its "
            "cluster with `fleetd join`, and a token that `fleetctl machine token` makes on a server"
        )
    keeper = WorkerTrust(files, servers)
    try:
        keeper.open()
    except OSError as error:
        raise StoreError(f"cannot use the certificate of this machine ({files.certificate}): {error}") from error
    return keeper


def reconnect_when_distrusted(trust: WorkerTrust, store: Store) -> None:
    """Have the connections of a worker's store end when a server may not count any more."""
    if isinstance(store, WorkerStore):
        trust.on_distrusted = store.reconnect
