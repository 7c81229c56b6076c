"""The certificates of this machine: which it needs, and where they are kept."""

import socket
from collections.abc import Callable, Sequence

from fleetd import url
from fleetd.config.config import Config
from fleetd.config.options import Address
from fleetd.model.certificate import MACHINE, SERVER, CertificateIdentity
from fleetd.model.machine import Machine, is_address
from fleetd.process.directories import trust_directory
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Store
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import TrustKeeper


def open_trust(config: Config, machine: Machine, store: Store, find_address: Callable[[], str]) -> TrustKeeper:
    """The keeper of a server, with what this machine has on its disk."""

    def find_names() -> tuple[str, ...]:
        names = (find_address(), socket.gethostname(), "localhost", *sorted(config.allowed_hosts))
        return tuple(dict.fromkeys(name for name in names if is_address(name) and "%" not in name))

    keeper = TrustKeeper(
        CertificateIdentity(MACHINE, machine.id, SERVER),
        TrustFiles(trust_directory(config)),
        Registry(store, config.etcd_key_prefix),
        find_names=find_names,
        refuse_store=refuse_store(config),
    )
    keeper.open()
    return keeper


def find_served(addresses: Sequence[Address]) -> str:
    """Where others reach the API over https, as `Machine.https` says it; '' if it is not served there. An address that
    is on loopback is said only if there is no other."""
    served = sorted((address for address in addresses if address.tls), key=lambda each: url.is_on_loopback(str(each)))
    return str(served[0]).removeprefix("https://") if served else ""


def refuse_store(config: Config) -> str:
    """Why the private key of an authority is not kept in the store: others could read it on its way; '' if it may be
    there."""
    if config.standalone:
        return ""
    for server in config.etcd_servers:
        if server.startswith("http:") and not url.is_on_loopback(server):
            return (
                f"etcd_servers: {url.without_user(server)} is not encrypted, and anyone who reads the key of an "
                "authority can make certificates: use https:// for etcd, or have the key in a file outside of the "
                "store (fleetctl cluster init)"
            )
    return ""
