"""Keeps what a machine needs to serve and to use HTTPS: its certificate, the authorities, and what was revoked.

A server makes its certificate itself, with the key of an authority that it has from the store or from a file. It makes
the first authority, too, where there is none. A worker has its certificate renewed by a server (worker.py).
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from fleetd.aio import Backoff, first_of
from fleetd.model.authorities import (
    Known,
    cross_certificates,
    find_revocation,
    merge,
    next_end,
    next_number,
    renew_at_s,
    time_of_next,
    trusted,
    why_renew,
)
from fleetd.model.certificate import (
    AUTHORITY_LIFE_S,
    MACHINE_LIFE_S,
    Authority,
    CertificateIdentity,
    Revocation,
    TrustedAuthority,
    fingerprint,
    issue_time,
    revoke,
)
from fleetd.registry.registry import Registry
from fleetd.store.protocol import StoreError
from fleetd.trust.contexts import MakeContexts, TlsContexts
from fleetd.trust.files import OwnKnowledge, TrustFiles
from fleetd.trust.signing import Refused, Signer, SigningFailed
from fleetd.trust.stored import StoredTrust

log = logging.getLogger(__name__)

SHORTEST_SLEEP_S = 30.0
FETCH_RETRY_S = 300.0
LONGEST_SLEEP_S = 3600.0  # clocks are set, and a watch may be mute
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
STORE_RETRY_S = 2.0  # at most: as long as it has not been read, workers are refused, and heartbeats do not wait longer


class Lives(msgspec.Struct, frozen=True):
    """How long what is made is valid. For a `machine_s` after an authority was replaced it is trusted, too."""

    machine_s: float = MACHINE_LIFE_S
    authority_s: float = AUTHORITY_LIFE_S


class CannotSign(ValueError):
    """This server can sign no certificates. The message says why, and what to do."""


class TrustKeeper:
    """The keeper of a server. `wanted` is whom its certificate names; `find_names` returns the names and addresses at
    which it is reached. `refuse_store` says why no key of an authority may be in the store, '' if it may. `unix_now` is
    the wall clock. `on_revoked` is called with each subject whose certificates were revoked; `make_contexts`
    makes the TLS."""

    def __init__(
        self,
        wanted: CertificateIdentity,
        files: TrustFiles,
        registry: Registry,
        *,
        find_names: Callable[[], Sequence[str]] = lambda: (),
        refuse_store: str = "",
        signer: Signer | None = None,
        unix_now: Callable[[], float] = time.time,
        lives: Lives = Lives(),  # noqa: B008 (it is frozen)
        on_revoked: Callable[[str], None] = lambda subject: None,
        make_contexts: MakeContexts = TlsContexts,
    ) -> None:
        self.on_revoked = on_revoked
        self.on_distrusted: Callable[[], None] = lambda: None  # an authority is not trusted any more
        self.own: CertificateIdentity | None = None  # what the certificate in use says
        self._wanted = wanted
        self._files = files
        self._contexts = make_contexts(None)
        self._stored = StoredTrust(registry, self._contexts.can_trust)
        self._find_names = find_names
        self._refuse_store = refuse_store
        self._signer = signer or Signer()
        self._now = unix_now
        self._lives = lives
        self._issuer = ""  # the certificate of the authority that has signed this machine's
        self._keys: tuple[Authority, ...] = ()
        self._own_knowledge = OwnKnowledge()
        self._revoked: dict[str, float] = {}  # subject → its certificates of before this time do not count
        self._has_read = False  # the store, since the start
        self._is_examined = False  # the certificate that was there at the start
        self._changed = asyncio.Event()
        self._making = asyncio.Lock()  # of an authority: two would take the same number, and the same file

    # What others ask.

    def server_context(self) -> ssl.SSLContext | None:
        """The TLS of a server, for the next connection; None while this machine has no certificate."""
        return self._contexts.server

    def client_context(self) -> ssl.SSLContext:
        """The TLS of a client of servers, for the next connection."""
        return self._contexts.client

    def is_revoked(self, identity: CertificateIdentity) -> bool:
        """True if this certificate does not count any more."""
        return identity.issued_at_s < self._revoked.get(identity.subject, 0.0)

    def why_unsure(self) -> str:
        """Why it is not known yet which certificates were revoked; '' if it is."""
        if self._has_read:
            return ""
        return "this server has not read yet which certificates were revoked while it was off: is its store reachable?"

    def revocations(self) -> tuple[Revocation, ...]:
        """All that are known."""
        return self._known.revocations

    @property
    def expires_at_s(self) -> float:
        """The Unix time at which this machine's certificate expires; 0 without one."""
        return self.own.expires_at_s if self.own else 0.0

    async def authorities(self) -> str:
        """The certificates of the authorities that are trusted, one after the other."""
        return "".join(each.certificate for each in self._trusted())

    async def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as DER, of the authority that signs now. Raises CannotSign."""
        return fingerprint(self._find_signer().certificate)

    async def sign(
        self,
        request: str,
        identity: CertificateIdentity,
        *,
        names: Sequence[str] = (),
        server: bool = False,
        now_s: float,
        life_s: float | None = None,
    ) -> str:
        """The certificate of the key that made this request: it names this identity, and counts as made at `now_s`, or
        after the last revocation of its subject. Without `life_s` it lives as long as those of machines. Raises
        ValueError."""
        authority = self._find_signer()
        issued_s = issue_time(identity.subject, self._known.revocations, now_s)
        life_s = self._lives.machine_s if life_s is None else life_s
        try:
            return await self._signer.sign(
                authority, request, identity, names=names, server=server, now_s=issued_s, life_s=life_s
            )
        except SigningFailed as error:
            raise CannotSign(str(error)) from error

    async def read_renewal(self, certificate: str, request: str) -> CertificateIdentity:
        """Whom a certificate names, which may have expired, if an authority that is trusted has signed it and the
        request was made with its key. Raises ValueError."""
        try:
            found, _ = await self._signer.inspect(certificate, [each.certificate for each in self._trusted()], request)
        except SigningFailed as error:
            raise CannotSign(str(error)) from error
        return found

    async def revoke(self, subject: str, by: str) -> Revocation:
        """Revoke all certificates of the subject. Raises StoreError."""
        while True:
            await self._read()
            former = self._known.revocations
            revocation = revoke(next_number(former), subject, by, self._now(), former)
            if await self._stored.add_revocation(revocation):
                await self._read()
                return revocation

    async def rotate(self, by: str) -> TrustedAuthority:
        """Make another authority, which signs from now on. Raises StoreError, and ValueError where none can be made."""
        async with self._making:
            await self._read()
            made = await self._make_authority(by)
            await self._read()
        self._changed.set()
        return made

    def former_until(self, authority: TrustedAuthority) -> float:
        """The Unix time until which what the authority before this one has signed counts."""
        return authority.at_s + self._lives.machine_s

    def key_file(self, authority: TrustedAuthority) -> str:
        """The file with the private key of the authority on this machine, '' if there is none."""
        found = (each.number for each in self._key_files() if each.certificate == authority.certificate)
        return next((str(self._files.directory / f"authority-{number}.key") for number in found), "")

    def keys_in_files(self) -> tuple[Authority, ...]:
        """The authorities of the cluster whose private keys are in files here: for other servers."""
        return self._key_files()

    # The work.

    def open(self) -> None:
        """Use what is on the disk, as far as it can be used."""
        self._learn(self._files.read_known())
        self._keys = self._key_files() or self._own_knowledge.keys
        if not self._known.authorities:
            self._contexts.trust(self._files.read_authorities())
        if self._files.read_certificate():
            try:
                self._contexts.load(self._files.certificate, self._files.key)
            except OSError as error:
                log.warning("the certificate of this machine cannot be used, and is replaced: %s", error)

    async def run(self) -> None:
        """Keep all of it up to date until cancelled."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            self._changed.clear()
            revision = 0
            try:
                revision = await self._read()
                await self._examine()
                async with self._making:
                    if not self._known.authorities:
                        await self._publish_or_make()
                        revision = await self._read()
                    self._files.settle_keys({each.certificate: each.number for each in self._known.authorities})
                await self._fetch_keys()
                await self._renew()
                backoff.reset()
                await first_of(self._stored.wait(revision), asyncio.sleep(self._sleep_s()), self._changed.wait())
            except (StoreError, SigningFailed, OSError, ValueError) as error:
                if backoff.is_first:
                    log.warning("cannot look after the certificate of this machine, retrying: %s", error)
                longest_s = STORE_RETRY_S if isinstance(error, StoreError) else self._lives.machine_s / 10
                await self._pause(min(backoff.next_s(), longest_s), revision)
                await self._renew_without_store()

    async def _pause(self, for_s: float, revision: int) -> None:
        """Wait for so long, or until the store has something new since this revision (0: it was not read): what was
        revoked counts also where something else does not go on."""
        if revision:
            with suppress(StoreError):
                await first_of(self._stored.wait(revision), asyncio.sleep(for_s))
                return
        await asyncio.sleep(for_s)

    @property
    def _known(self) -> Known:
        return self._own_knowledge.known

    def _trusted(self) -> tuple[TrustedAuthority, ...]:
        return trusted(self._known.authorities, self._now(), self._lives.machine_s)

    def _sleep_s(self) -> float:
        """Until something is due."""
        due = [LONGEST_SLEEP_S if self._lacks() is None else min(FETCH_RETRY_S, self._lives.machine_s / 10)]
        if self.own is not None and not self.is_revoked(self.own):
            signer = self._find_signer().certificate
            due.append(renew_at_s(self.own, **self._compare(signer)) - self._now())
        end_s = next_end(self._known.authorities, self._now(), self._lives.machine_s)
        if end_s is not None:
            due.append(end_s - self._now())
        return max(min(SHORTEST_SLEEP_S, self._lives.machine_s / 100), min(due))

    async def _read(self) -> int:
        """Learn what the store has, and give it back what it has lost. Returns the revision."""
        stored, revision = await self._stored.read()
        known = merge(stored, self._known)
        in_files = self._key_files(known)
        in_store = () if in_files or self._refuse_store else await self._stored.read_keys()
        lost = () if in_files or self._refuse_store else tuple(set(self._own_knowledge.keys) - set(in_store))
        missing = Known(
            tuple(each for each in known.authorities if each not in stored.authorities),
            tuple(each for each in known.revocations if each not in stored.revocations),
        )
        if missing != Known() or lost:
            log.warning("the store has lost authorities or revocations of certificates; writing them again")
            await self._stored.restore(missing, lost)
        self._keys = (*in_files, *in_store, *lost)
        kept = tuple(sorted((*in_store, *lost), key=lambda each: each.number))
        self._learn(msgspec.structs.replace(self._own_knowledge, known=known, keys=kept))
        self._has_read = True
        return revision

    def _key_files(self, known: Known | None = None) -> tuple[Authority, ...]:
        """The authorities whose keys are in files: those of this cluster, or any as long as it has none."""
        ours = {each.certificate for each in (known or self._known).authorities}
        found = self._files.read_keys()
        for each in found:
            if ours and each.certificate not in ours:
                log.warning("%s/authority-%d.key is of another cluster", self._files.directory, each.number)
        return tuple(each for each in found if not ours or each.certificate in ours)

    def _learn(self, knowledge: OwnKnowledge) -> None:
        """Know this from now on, also after a restart."""
        former, self._own_knowledge = self._own_knowledge, knowledge
        if self._trusted():
            before = self._contexts.client
            self._contexts.trust([each.certificate for each in self._trusted()])
            if self._contexts.client is not before:
                self.on_distrusted()
        try:
            self._files.write_authorities([each.certificate for each in self._trusted()])
            if former != knowledge:
                self._files.write_known(knowledge)
        except OSError as error:
            log.warning("cannot keep what this machine knows of certificates: %s", error)
        for each in knowledge.known.revocations:
            if each.before_s > self._revoked.get(each.subject, 0.0):
                self._revoked[each.subject] = each.before_s
                self.on_revoked(each.subject)

    # Authorities.

    def _find_signer(self) -> Authority:
        """The last authority that is trusted and whose key is here. Raises CannotSign."""
        keys = {each.certificate: each for each in self._keys}
        for each in reversed(self._trusted()):
            if each.certificate in keys:
                return keys[each.certificate]
        if not self._known.authorities:
            raise CannotSign(self._refuse_store or "this cluster has no authority yet; is its store reachable?")
        number = self._known.authorities[-1].number
        raise CannotSign(
            f"this server has no key of an authority that is trusted, so that it makes no certificates: copy "
            f"{self._files.directory}/authority-{number}.key and .pem from the server that has them, or make another "
            "authority with fleetctl cluster rotate-ca"
        )

    async def _publish_or_make(self) -> None:
        """Have the first authority: of files, else a new one. Raises CannotSign."""
        files = self._key_files()
        for authority in files:
            record = TrustedAuthority(authority.number, authority.certificate, at_s=self._now())
            await self._stored.add(record, None)
        if not files:
            await self._make_authority("")

    async def _make_authority(self, by: str) -> TrustedAuthority:
        """Make the next authority. Raises CannotSign, StoreError."""
        in_files = bool(self._key_files() or (self._known.authorities and not self._own_knowledge.keys))
        if not in_files and self._refuse_store:
            raise CannotSign(self._refuse_store)
        number = next_number(self._known.authorities)
        former = self._find_signer() if self._known.authorities and self._keys else None
        now_s = self._now()
        made, cross = await self._signer.make_authority(number, now_s, self._lives.authority_s, former)
        record = TrustedAuthority(number, made.certificate, cross, by, time_of_next(self._known, now_s))
        if in_files:
            self._files.write_pending_key(made)
        is_made = await self._stored.add(record, None if in_files else made)
        if in_files:
            await self._settle_keys()
        if not is_made:
            if by:
                raise CannotSign(
                    f"trust/authorities/{number} in the store was made at the same time, or cannot be read: ask again, "
                    "or delete it if no fleetd can read it"
                )
            return record
        log.warning("made authority %d of the cluster", number)
        return record

    async def _settle_keys(self) -> None:
        """Find out which of the keys that were made here count: the store has their authorities, or others with their
        numbers. Raises StoreError, and OSError."""
        stored, _ = await self._stored.read()
        self._files.settle_keys({each.certificate: each.number for each in merge(stored, self._known).authorities})

    def _lacks(self) -> TrustedAuthority | None:
        """The authority that is to sign, if its key is in files of other servers alone."""
        if not self._known.authorities or self._own_knowledge.keys:
            return None
        last = self._known.authorities[-1]
        return None if any(each.certificate == last.certificate for each in self._keys) else last

    async def _fetch_keys(self) -> None:
        """Have the keys of authorities that another server has made, and has in files, in files here, too."""
        lacks = self._lacks()
        if lacks is None or self.own is None:
            return
        try:
            found = await self._signer.call(
                "fetch-keys",
                tuple[Authority, ...],
                servers=await self._stored.find_servers(self._wanted.name),
                own=(str(self._files.certificate), str(self._files.key)),
                authorities=[each.certificate for each in self._trusted()],
                wanted=lacks.certificate,
            )
        except (Refused, SigningFailed) as error:
            log.warning(
                "this server does not have the private key of authority %d, which signs now, and cannot fetch it, "
                "retrying (copying authority-%d.key and .pem to %s does it, too): %s",
                lacks.number,
                lacks.number,
                self._files.directory,
                error,
            )
            return
        numbers = {each.certificate: each.number for each in self._known.authorities}
        taken = {each.number for each in self._files.read_keys()}
        for each in found:
            number = numbers.get(each.certificate, 0)
            if number and number not in taken:
                self._files.write_key(msgspec.structs.replace(each, number=number))
                log.info("has fetched the private key of authority %d from another server", number)
        self._keys = (*self._key_files(), *self._own_knowledge.keys)

    # This machine's certificate.

    async def _examine(self) -> None:
        """Find out, once, what the certificate says that is in use, and who has signed it."""
        if self._is_examined:
            return
        self._is_examined = True
        certificate = self._files.read_certificate()
        authorities = [each.certificate for each in self._known.authorities] or self._files.read_authorities()
        if not self.server_context() or not authorities:
            return
        try:
            self.own, self._issuer = await self._signer.inspect(certificate, list(authorities))
        except (Refused, SigningFailed) as error:
            log.warning("the certificate of this machine cannot be used, and is replaced: %s", error)

    async def _renew(self) -> None:
        """Make this machine another certificate if it is time. Raises CannotSign, SigningFailed, OSError."""
        if self.own is not None and (found := find_revocation(self.own, self._known.revocations)):
            log.error("this machine was removed from the cluster%s; add it again", f" by {found.by}" * bool(found.by))
            return
        signer = self._find_signer()
        names = tuple(self._find_names())
        compared = self._compare(signer.certificate)
        reason = why_renew(self.own, self._wanted, **compared, now_s=self._now())
        if not reason and not set(names) <= set(self._own_knowledge.names):
            reason = "it has another name"
        if not reason:
            return
        now_s = issue_time(self._wanted.subject, self._known.revocations, self._now())
        key, certificate = await self._signer.issue(
            signer,
            self._wanted,
            key=self._files.read_key() if self.server_context() else "",
            names=names,
            server=True,
            now_s=now_s,
            life_s=self._lives.machine_s,
        )
        chain = cross_certificates(self._known.authorities, signer.certificate)
        self._files.write_certificate(key, certificate, chain)
        self._contexts.load(self._files.certificate, self._files.key)
        self.own, self._issuer = await self._signer.inspect(certificate, [signer.certificate])
        self._learn(msgspec.structs.replace(self._own_knowledge, names=names))
        log.info("this machine has another certificate", extra={"why": reason, "authority": signer.number})

    def _compare(self, signer: str) -> dict[str, bool]:
        """How the authority that has signed this machine's certificate is to the one that signs now."""
        is_linked = bool(cross_certificates(self._known.authorities, signer))
        return {"is_foreign": self._issuer != signer, "is_linked": is_linked}

    async def _renew_without_store(self) -> None:
        """A store that is down for long must not let the certificate expire."""
        try:
            await self._examine()
            if self._known.authorities:
                await self._renew()
        except (SigningFailed, OSError, ValueError) as error:
            log.debug("cannot renew the certificate of this machine: %s", error)
