"""TLS for etcd, with certificates that may be renewed on disk while fleetd runs.

New connections use the renewed files. Open connections keep theirs.
"""

import calendar
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleetd import metrics
from fleetd.store.protocol import StoreError

log = logging.getLogger(__name__)

WARN_BEFORE_S = 14 * 86400.0  # before a certificate expires; if it is short-lived, in the last fifth of its validity
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0  # tags of ASN.1, as X.509 uses them


class EtcdTls:
    """The SSL context of all connections to etcd, loaded from these files. Without them it trusts the system's CAs and
    has no client certificate. Raises StoreError if a file cannot be used."""

    def __init__(
        self, ca_file: str = "", cert_file: str = "", key_file: str = "", *, unix_now: Callable[[], float] = time.time
    ) -> None:
        self._ca_file, self._cert_file, self._key_file = ca_file, cert_file, key_file
        self._unix_now = unix_now
        self._seen = self._look()
        self._validity = (0.0, 0.0)
        self._has_warned = False
        try:
            self.context = ssl.create_default_context(cafile=ca_file or None)
            self._load_into(self.context)
        except (OSError, ValueError) as error:
            files = ", ".join(file for file in (ca_file, cert_file, key_file) if file)
            raise StoreError(f"cannot use the TLS files for etcd ({files}): {error}") from error
        self._warn_in_time()

    def refresh(self) -> None:
        """Load the files again if they have changed; cheap enough for each heartbeat. If they cannot be used, the old
        ones stay in use: perhaps only one of certificate and key has been replaced yet."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._has_warned = False
            try:
                self._load_into(ssl.create_default_context(cafile=self._ca_file or None))  # try them all first
                self._load_into(self.context)
                if self._ca_file:
                    self.context.load_verify_locations(self._ca_file)
            except (OSError, ValueError) as error:
                log.warning("cannot use the changed TLS files for etcd, keeping the old ones: %s", error)
            else:
                log.info("loaded the changed TLS files for etcd")
        self._warn_in_time()

    def _look(self) -> tuple[object, ...]:
        """Identifies the current version of the files."""
        found = []
        for file in filter(None, (self._ca_file, self._cert_file, self._key_file)):
            try:
                status = os.stat(file)
            except OSError:
                found.append((file, 0, 0, 0))
            else:
                found.append((file, status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)

    def _load_into(self, context: ssl.SSLContext) -> None:
        if self._cert_file:
            context.load_cert_chain(self._cert_file, self._key_file or None)
            self._validity = read_validity(Path(self._cert_file).read_text(encoding="ascii", errors="replace"))
            metrics.ETCD_CERTIFICATE_EXPIRES.set(self._validity[1])

    def _warn_in_time(self) -> None:
        begins, ends = self._validity
        left_s = ends - self._unix_now()
        if not ends or self._has_warned or left_s > min(WARN_BEFORE_S, (ends - begins) / 5):
            return
        self._has_warned = True
        state = f"expires in {left_s / 86400:.1f} days" if left_s > 0 else "has expired"
        log.warning("the client certificate for etcd %s %s: replace it", self._cert_file, state)


def read_validity(pem: str) -> tuple[float, float]:
    """The validity of the first certificate in a PEM file: from, to, in Unix time. Raises ValueError. (The standard
    library has it for the peer's certificate only.)"""
    begin = pem.find("-----BEGIN CERTIFICATE-----")
    end = pem.find("-----END CERTIFICATE-----")
    if begin < 0 or end < begin:
        raise ValueError("the file holds no certificate")
    der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len("-----END CERTIFICATE-----")])
    (certificate,) = _parts(der)
    to_be_signed = next(_parts(certificate[1]))
    fields = [part for part in _parts(to_be_signed[1]) if part[0] != _VERSION]
    not_before, not_after = _parts(fields[3][1])  # after serial number, signature algorithm, issuer
    return _parse_time(*not_before), _parse_time(*not_after)


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The consecutive elements of DER data: tag and content. Raises ValueError."""
    at = 0
    while at < len(der):
        if len(der) < at + 2:
            raise ValueError("the certificate is cut off")
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, at = int.from_bytes(der[at : at + octets], "big"), at + octets
        if len(der) < at + length:
            raise ValueError("the certificate is cut off")
        yield tag, der[at : at + length]
        at += length


def _parse_time(tag: int, content: bytes) -> float:
    """A time of X.509 (RFC 5280 4.1.2.5): UTCTime with two digits of the year up to 2049, else GeneralizedTime."""
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME:
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("the certificate's validity has an unknown format")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
