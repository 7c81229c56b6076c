"""What root of a worker can do with its certificate: any request, to any server."""

import ssl
from http.client import HTTPSConnection
from typing import Any

from contrib.testbed.machine import Machine
from fleetd.store import worker_wire as wire


class WorkerRoot:
    """Sends requests to a server's fleetd with the certificate of a worker, from its disk."""

    def __init__(self, worker: Machine, server: Machine) -> None:
        trust = worker.path("/var/lib/fleet/trust")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(trust / "authorities.pem")
        context.load_cert_chain(trust / "machine.pem", trust / "machine.key")
        self._connection = HTTPSConnection(server.address, 7443, context=context, timeout=10)

    def send(self, method: str, path: str, body: bytes = b"", type_: str = wire.CONTENT_TYPE) -> tuple[int, bytes]:
        self._connection.request(method, path, body=body, headers={"Content-Type": type_})
        response = self._connection.getresponse()
        return response.status, response.read()

    def ask(self, call: str, **fields: Any) -> tuple[int, Any]:
        """The status of a call of its store, and the answer or failure."""
        kind = wire.CALLS[call]
        status, body = self.send("POST", wire.PREFIX + call, wire.encode(kind.request(**fields)))
        return status, wire.decode_body(body, kind.answer if status == 200 else wire.Failure)
