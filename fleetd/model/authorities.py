"""Which authorities a cluster has had and which it trusts, and what was revoked: numbered, and only ever more. Pure.

A server keeps a copy on its disk. A store that was restored from a snapshot gets back from it what it has lost.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from fleetd.model.certificate import BACKDATED_S, CertificateIdentity, Revocation, TrustedAuthority, is_revoked

LONGEST_CHAIN = 4  # authorities back from the one that signs, which a client may have missed
UNLINKED_RENEWED_AFTER = 0.9  # of the life
REVOKED_AHEAD_S = BACKDATED_S  # TLS takes no certificate yet that was made further ahead
MOVES_AFTER, MOVES_WITHIN = 1 / 3000, 1 / 30  # of the life: a quarter of an hour, and a day more


class Known(msgspec.Struct, frozen=True):
    """Authorities in the order in which they were made, and revocations in that of their numbers."""

    authorities: tuple[TrustedAuthority, ...] = ()
    revocations: tuple[Revocation, ...] = ()


def merge(stored: Known, own: Known) -> Known:
    """All of both. Of two with the same number, the one in the store keeps it; the other gets the next that is free.
    Such a number says nothing of when it was made: the last authority is the one that was made last."""
    certificates = {each.certificate for each in stored.authorities}
    authorities = {each.number: each for each in stored.authorities}
    for authority in own.authorities:
        if authority.certificate not in certificates:
            number = authority.number if authority.number not in authorities else next_number(authorities.values())
            authorities[number] = replace(authority, number=number)
    facts = {replace(each, number=0) for each in stored.revocations}
    revocations = {each.number: each for each in stored.revocations}
    for revocation in own.revocations:
        if replace(revocation, number=0) not in facts:
            number = revocation.number if revocation.number not in revocations else next_number(revocations.values())
            revocations[number] = replace(revocation, number=number)
    return Known(
        tuple(sorted(authorities.values(), key=lambda each: (each.at_s, each.number))),
        tuple(revocations[number] for number in sorted(revocations)),
    )


def bound_times(found: Known, own: Known, now_s: float) -> Known:
    """What a server says, with revocations of later times than REVOKED_AHEAD_S from now as far as that: a removed
    server that is not known as such yet must not have the others refused for good. Those that are known, `own`, stay.
    """
    known = {_cause(each): each.before_s for each in own.revocations}
    latest_s = now_s + REVOKED_AHEAD_S
    revocations = (
        replace(each, before_s=known.get(_cause(each), latest_s)) if each.before_s > latest_s else each
        for each in found.revocations
    )
    return replace(found, revocations=tuple(revocations))


def _cause(revocation: Revocation) -> tuple[str, str, float]:
    """Whose revocation it is, by whom and when: what stays when it gets another number or time."""
    return revocation.subject, revocation.by, revocation.at_s


def next_number(given: Iterable[TrustedAuthority | Revocation]) -> int:
    """The number of the next one."""
    return max((each.number for each in given), default=0) + 1


def time_of_next(known: Known, now_s: float) -> float:
    """When an authority counts as made that is made now: after all others, whatever the clocks of servers say."""
    return max([now_s, *(each.at_s + 1 for each in known.authorities)])


def trusted(authorities: Sequence[TrustedAuthority], now_s: float, overlap_s: float) -> tuple[TrustedAuthority, ...]:
    """Those that are trusted now: the last one, and each other until the one after it is `overlap_s` old."""
    former = (each for each, after in pairwise(authorities) if now_s < after.at_s + overlap_s)
    return (*former, *authorities[-1:])


def next_end(authorities: Sequence[TrustedAuthority], now_s: float, overlap_s: float) -> float | None:
    """The Unix time at which the next authority will not be trusted any more; None if none is to be replaced."""
    return min((end for each in authorities[1:] if (end := each.at_s + overlap_s) > now_s), default=None)


def cross_certificates(authorities: Sequence[TrustedAuthority], signer: str) -> tuple[str, ...]:
    """What is sent with a certificate that the authority with the certificate `signer` has signed: for who trusts only
    authorities before it."""
    upto = next((at for at, each in enumerate(authorities) if each.certificate == signer), -1) + 1
    chain: list[str] = []
    for each in reversed(authorities[max(0, upto - LONGEST_CHAIN) : upto]):
        if not each.cross:
            break
        chain.append(each.cross)
    return tuple(chain)


def renew_at_s(own: CertificateIdentity, *, is_foreign: bool, is_linked: bool) -> float:
    """The Unix time at which a server makes itself another certificate than its `own` one. `is_foreign`: another
    authority signs now than the one that has signed this. `is_linked`: who trusts that one takes what the other signs.
    Where not, it is used for as long as it can be, for workers that do not know the other authority yet."""
    if not is_foreign:
        return own.renew_at_s
    if is_linked:
        return own.issued_at_s
    return own.issued_at_s + (own.expires_at_s - own.issued_at_s) * UNLINKED_RENEWED_AFTER


def worker_renew_at_s(
    own: CertificateIdentity,
    issuer: str,
    authorities: Sequence[TrustedAuthority],
    *,
    renewed_at_s: float,
    life_s: float,
) -> float:
    """The Unix time at which a worker has its certificate renewed, which lives for `life_s` and which the authority
    with the certificate `issuer` has signed. Once there is another authority, it does not wait for the usual time: when
    it comes back, having been off, that one may be the only one that counts. Workers spread over this delay, and one
    that was given a certificate of the former authority again, at `renewed_at_s`, waits for it once more."""
    if not authorities or authorities[-1].certificate == issuer:
        return own.renew_at_s
    share = int.from_bytes(hashlib.sha256(own.subject.encode()).digest()[:4], "big") / 2**32
    delay_s = life_s * (MOVES_AFTER + share * MOVES_WITHIN)
    return min(own.renew_at_s, max(authorities[-1].at_s, renewed_at_s) + delay_s)


def why_renew(
    own: CertificateIdentity | None,
    wanted: CertificateIdentity,
    *,
    is_foreign: bool,
    is_linked: bool,
    now_s: float,
) -> str:
    """Why a server makes itself another certificate than its `own` one (None: it has none); '' if it does not. It is to
    be that of `wanted`. The others are as in renew_at_s."""
    if own is None:
        return "it has none"
    if (own.subject, own.role) != (wanted.subject, wanted.role):
        return f"it has one of {own.subject} as a {own.role}"
    if now_s < renew_at_s(own, is_foreign=is_foreign, is_linked=is_linked):
        return ""
    return "the authority has changed" if is_foreign else "two thirds of its life are over"


def find_revocation(identity: CertificateIdentity, revocations: Iterable[Revocation]) -> Revocation | None:
    """The revocation of this certificate, None if it counts."""
    return next((each for each in revocations if is_revoked(identity, [each])), None)
