"""The store of a worker, with what this machine has on its disk: its certificate, and what it knew of the store."""

import hashlib
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from fleetd.agent.ledger import StoreSeen
from fleetd.config.config import Config
from fleetd.store.protocol import StoreError
from fleetd.store.worker import WorkerStore
from fleetd.trust.contexts import TlsContexts
from fleetd.trust.files import TrustFiles
from fleetd.trust.worker import WorkerTrust

ANSWER_TIMEOUTS = 2  # a server that asks etcd gets as many timeouts of a request to etcd


def servers_in_turn(servers: Iterable[str], machine: str) -> tuple[str, ...]:
    """The servers in the order in which this worker asks them. It is another one for each machine, so that workers
    spread over all of them, and over those that remain when one is away."""
    return tuple(sorted(servers, key=lambda server: hashlib.sha256(f"{machine} {server}".encode()).digest()))


def open_worker_store(
    config: Config, machine: str, seen: StoreSeen, context: Callable[[], ssl.SSLContext]
) -> WorkerStore:
    """The store of the worker with this id; `context` returns the TLS of its next connection."""
    servers = servers_in_turn(config.servers, machine)
    timeout_s = ANSWER_TIMEOUTS * config.etcd_request_timeout_s
    return WorkerStore(
        servers, context, request_timeout_s=timeout_s, epoch=seen.cluster_id, highest_revision=seen.revision
    )


def load_own_certificate(directory: Path) -> Callable[[], ssl.SSLContext]:
    """The TLS of a client with this machine's certificate as it is in the directory. Raises StoreError."""
    files = TrustFiles(directory)
    authorities = files.read_authorities()
    if not authorities or not files.read_certificate():
        raise StoreError(
            f"this machine is a worker (role=worker) and has no certificate in {directory}: have it join its "
            "cluster with `fleetd join`, and a token that `fleetctl machine token` makes on a server"
        )
    contexts = TlsContexts()
    try:
        contexts.trust(authorities)
        contexts.load(files.certificate, files.key)
    except OSError as error:
        raise StoreError(f"cannot use the certificate of this machine ({files.certificate}): {error}") from error
    return lambda: contexts.client


def open_worker_trust(config: Config, directory: Path) -> WorkerTrust:
    """The keeper of this worker's certificate, as it is in the directory. Raises StoreError."""
    load_own_certificate(directory)
    keeper = WorkerTrust(TrustFiles(directory), config.servers)
    keeper.open()
    return keeper
