"""Keeps the certificate of a worker, which a server renews."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence

from fleetd.aio import Backoff
from fleetd.model.certificate import MACHINE_LIFE_S, CertificateIdentity, split_pem
from fleetd.trust.contexts import TlsContexts
from fleetd.trust.files import TrustFiles
from fleetd.trust.renewal import Renewal
from fleetd.trust.signing import Signer, SigningFailed

log = logging.getLogger(__name__)

LONGEST_SLEEP_S = 3600.0  # clocks are set
FIRST_RETRY_S = 10.0
LONGEST_RETRY_S = 600.0


class WorkerTrust:
    """The keeper of a worker. `servers` returns the https URLs of servers, `unix_now` is the wall clock, `life_s` how
    long certificates of machines live."""

    def __init__(
        self,
        files: TrustFiles,
        servers: Callable[[], Sequence[str]],
        *,
        signer: Signer | None = None,
        unix_now: Callable[[], float] = time.time,
        life_s: float = MACHINE_LIFE_S,
    ) -> None:
        self.own: CertificateIdentity | None = None  # what the certificate in use says
        self._files = files
        self._servers = servers
        self._signer = signer or Signer()
        self._now = unix_now
        self._life_s = life_s
        self._contexts = TlsContexts()

    def client_context(self) -> ssl.SSLContext:
        """The TLS of a client of servers, for the next connection."""
        return self._contexts.client

    @property
    def expires_at_s(self) -> float:
        """The Unix time at which this machine's certificate expires; 0 if it is not known yet."""
        return self.own.expires_at_s if self.own else 0.0

    def open(self) -> None:
        """Use what is on the disk. Raises OSError for files that cannot be used."""
        self._contexts.trust(self._files.read_authorities())
        self._contexts.load(self._files.certificate, self._files.key)

    async def run(self) -> None:
        """Have the certificate renewed in time, until cancelled."""
        complaint = ""
        backoff = Backoff(min(FIRST_RETRY_S, self._life_s / 30), min(LONGEST_RETRY_S, self._life_s / 10))
        while True:
            try:
                if self.own is None:
                    self.own, _ = await self._signer.inspect(
                        self._files.read_certificate(), self._files.read_authorities()
                    )
                if self.own.renew_at_s <= self._now():
                    await self._renew()
                backoff.reset()
                complaint = ""
            except (ValueError, SigningFailed, OSError) as error:
                if str(error) != complaint:
                    log.warning("cannot have the certificate of this machine renewed, retrying: %s", error)
                complaint = str(error)
                await asyncio.sleep(backoff.next_s())
                continue
            await asyncio.sleep(max(0.1, min(LONGEST_SLEEP_S, self.own.renew_at_s - self._now())))

    async def _renew(self) -> None:
        key = self._files.read_key()
        found = await self._signer.call(
            "renew",
            Renewal,
            servers=tuple(self._servers()),
            key=key,
            certificate=self._files.read_certificate(),
            authorities=self._files.read_authorities(),
            own=(str(self._files.certificate), str(self._files.key)),
        )
        authorities = split_pem(found.authorities)
        own, _ = await self._signer.inspect(found.certificate, authorities)
        self._files.write_authorities(authorities)
        self._files.write_certificate(key, found.certificate)
        self._contexts.trust(authorities)
        self._contexts.load(self._files.certificate, self._files.key)
        self.own = own
        log.info("a server has renewed the certificate of this machine")
