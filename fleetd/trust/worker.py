"""Keeps the certificate of a worker, which a server renews, and what a worker knows of the certificates of others."""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence

from fleetd.aio import Backoff, first_of
from fleetd.model.authorities import Known, bound_times, find_revocation, merge, next_end, trusted, worker_renew_at_s
from fleetd.model.certificate import MACHINE, MACHINE_LIFE_S, SERVER, CertificateIdentity, split_pem
from fleetd.registry.registry import Registry
from fleetd.store.protocol import StoreError
from fleetd.trust.contexts import MakeContexts, TlsContexts
from fleetd.trust.files import OwnKnowledge, TrustFiles
from fleetd.trust.renewal import Renewal
from fleetd.trust.signing import Signer, SigningFailed
from fleetd.trust.stored import StoredTrust

log = logging.getLogger(__name__)

LONGEST_SLEEP_S = 3600.0  # clocks are set
FIRST_RETRY_S = 10.0
LONGEST_RETRY_S = 600.0
FIRST_READ_S = 1.0  # after which what servers say is read again that could not be read; doubled each time
LONGEST_READ_S = 60.0


async def _do_nothing() -> None:
    pass


class WorkerTrust:
    """The keeper of a worker. `servers` returns the https URLs of servers, `unix_now` is the wall clock, `life_s` how
    long certificates of machines live, and `make_contexts` makes the TLS. `on_distrusted` is called when a server may
    not count any more to which there are connections."""

    def __init__(
        self,
        files: TrustFiles,
        servers: Callable[[], Sequence[str]],
        *,
        signer: Signer | None = None,
        unix_now: Callable[[], float] = time.time,
        life_s: float = MACHINE_LIFE_S,
        make_contexts: MakeContexts = TlsContexts,
    ) -> None:
        self.own: CertificateIdentity | None = None  # what the certificate in use says
        self._files = files
        self._servers = servers
        self._signer = signer or Signer()
        self._now = unix_now
        self._life_s = life_s
        self._contexts = make_contexts(self._refuse)
        self._own_knowledge = OwnKnowledge()
        self._issuer = ""  # the certificate of the authority that has signed this machine's
        self._renewed_at_s = 0.0  # by this process
        self._has_learned = asyncio.Event()
        self.on_distrusted: Callable[[], Awaitable[None]] = _do_nothing

    def client_context(self) -> ssl.SSLContext:
        """The TLS of a client of servers, for the next connection."""
        return self._contexts.client

    @property
    def expires_at_s(self) -> float:
        """The Unix time at which this machine's certificate expires; 0 if it is not known yet."""
        return self.own.expires_at_s if self.own else 0.0

    def open(self) -> None:
        """Use what is on the disk. Raises OSError for files that cannot be used."""
        self._own_knowledge = self._files.read_known()
        self._contexts.trust(self._find_trusted(self._files.read_authorities()))
        self._contexts.load(self._files.certificate, self._files.key)

    async def run(self) -> None:
        """Have the certificate renewed in time, until cancelled."""
        complaint = ""
        backoff = Backoff(min(FIRST_RETRY_S, self._life_s / 30), min(LONGEST_RETRY_S, self._life_s / 10))
        while True:
            self._has_learned.clear()
            try:
                if self.own is None:
                    self.own, self._issuer = await self._signer.inspect(
                        self._files.read_certificate(), self._files.read_authorities()
                    )
                if self._renew_at_s(self.own) <= self._now():
                    await self._renew()
                backoff.reset()
                complaint = ""
            except (ValueError, SigningFailed, OSError) as error:
                if str(error) != complaint:
                    log.warning("cannot have the certificate of this machine renewed, retrying: %s", error)
                complaint = str(error)
                await asyncio.sleep(backoff.next_s())
                continue
            pause_s = max(0.1, min(LONGEST_SLEEP_S, self._renew_at_s(self.own) - self._now()))
            await first_of(asyncio.sleep(pause_s), self._has_learned.wait())

    async def follow(self, registry: Registry) -> None:
        """Learn which authorities there are and what is revoked, as the cluster says it, until cancelled. What was
        learnt once counts for good: a store that was restored takes nothing back."""
        stored = StoredTrust(registry, self._contexts.can_trust)
        backoff = Backoff(FIRST_READ_S, LONGEST_READ_S)
        while True:
            try:
                found, revision = await stored.read()
                own = self._own_knowledge.known
                if self._learn(merge(bound_times(found, own, self._now()), own)):
                    await self.on_distrusted()
                backoff.reset()
                await first_of(stored.wait(revision), asyncio.sleep(self._sleep_s()))
            except (StoreError, OSError) as error:
                log.debug("cannot read which certificates count, retrying: %s", error)
                await asyncio.sleep(backoff.next_s())

    def _learn(self, known: Known) -> bool:
        """Know this from now on, also after a restart. True if a server may count no more that did. Raises OSError."""
        former, self._own_knowledge = self._own_knowledge, OwnKnowledge(known)
        context = self._contexts.client
        authorities = self._find_trusted(self._files.read_authorities())
        self._contexts.trust(authorities)
        self._files.write_authorities(authorities)
        if former.known != known:
            self._has_learned.set()
            self._files.write_known(self._own_knowledge)
        return self._contexts.client is not context or former.known.revocations != known.revocations

    def _find_trusted(self, others: Sequence[str]) -> tuple[str, ...]:
        """The certificates of the authorities that are trusted: of those that are known by number, the ones that count
        now; and `others`, which are not known by number."""
        known = self._own_knowledge.known.authorities
        numbered = {each.certificate for each in known}
        counting = (each.certificate for each in trusted(known, self._now(), self._life_s))
        return tuple(dict.fromkeys((*counting, *(each for each in others if each not in numbered))))

    def _refuse(self, server: CertificateIdentity) -> str:
        """Why a server's certificate does not count, '' if it does."""
        found = find_revocation(server, self._own_knowledge.known.revocations)
        if found:
            return f"{server.subject} was removed from the cluster{f' by {found.by}' * bool(found.by)}"
        return "" if (server.kind, server.role) == (MACHINE, SERVER) else f"{server.subject} is no server"

    def _sleep_s(self) -> float:
        """How long until an authority is dropped; at most LONGEST_SLEEP_S, for clocks are set."""
        end = next_end(self._own_knowledge.known.authorities, self._now(), self._life_s)
        return LONGEST_SLEEP_S if end is None else max(0.1, min(LONGEST_SLEEP_S, end - self._now()))

    def _renew_at_s(self, own: CertificateIdentity) -> float:
        known = self._own_knowledge.known.authorities
        return worker_renew_at_s(own, self._issuer, known, renewed_at_s=self._renewed_at_s, life_s=self._life_s)

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
            revocations=self._own_knowledge.known.revocations,
        )
        authorities = self._find_trusted(split_pem(found.authorities))
        own, issuer = await self._signer.inspect(found.certificate, authorities)
        self._files.write_authorities(authorities)
        self._files.write_certificate(key, found.certificate)
        self._contexts.trust(authorities)
        self._contexts.load(self._files.certificate, self._files.key)
        self.own, self._issuer, self._renewed_at_s = own, issuer, self._now()
        log.info("a server has renewed the certificate of this machine")
