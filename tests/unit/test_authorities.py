"""Which authorities are trusted, and what a restored store gets back."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.authorities import (
    LONGEST_CHAIN,
    Known,
    bound_times,
    cross_certificates,
    find_revocation,
    merge,
    next_end,
    next_number,
    time_of_next,
    trusted,
    why_renew,
    worker_renew_at_s,
)
from fleetd.model.certificate import BACKDATED_S, CertificateIdentity, Revocation, TrustedAuthority

NOW, LIFE = 1_000_000.0, 3000.0


def authority(number: int, certificate: str = "", cross: str = "", at_s: float = 0.0) -> TrustedAuthority:
    return TrustedAuthority(number, certificate or f"A{number}", cross, "ann", at_s)


def test_the_last_authority_is_trusted_and_those_before_it_for_one_life():
    first, second, third = authority(1), authority(2, at_s=NOW), authority(3, at_s=NOW + 1000)
    for authorities, at_s, expected, end in [
        ((), NOW, (), None),
        ((first,), NOW + 10 * LIFE, (first,), None),
        ((first, second), NOW, (first, second), NOW + LIFE),
        ((first, second), NOW + LIFE - 1, (first, second), NOW + LIFE),
        ((first, second), NOW + LIFE, (second,), None),
        ((first, second, third), NOW + 1000, (first, second, third), NOW + LIFE),
        ((first, second, third), NOW + LIFE, (second, third), NOW + 1000 + LIFE),
        ((first, second, third), NOW + 1000 + LIFE, (third,), None),
    ]:
        assert trusted(authorities, at_s, LIFE) == expected
        assert next_end(authorities, at_s, LIFE) == end


def test_what_is_sent_leads_back_to_former_authorities():
    chain = [authority(1), *(authority(number, cross=f"X{number}") for number in range(2, 8))]
    assert cross_certificates(chain, "A1") == ()
    assert cross_certificates(chain, "A2") == ("X2",)
    assert cross_certificates(chain, "A3") == ("X3", "X2")
    assert cross_certificates(chain, "A7") == ("X7", "X6", "X5", "X4")[:LONGEST_CHAIN]
    assert cross_certificates(chain, "unknown") == ()
    assert cross_certificates([chain[0], authority(2), chain[2]], "A3") == ("X3",)


def test_a_server_has_another_certificate_made_when_it_must():
    wanted = CertificateIdentity("machine", "m1", "server")
    own = CertificateIdentity("machine", "m1", "server", issued_at_s=NOW, expires_at_s=NOW + LIFE)
    for found, is_foreign, is_linked, now_s, reason in [
        (None, False, False, NOW, "it has none"),
        (own, False, False, NOW, ""),
        (own, False, False, NOW + LIFE * 2 / 3 - 1, ""),
        (own, False, False, NOW + LIFE * 2 / 3, "two thirds of its life are over"),
        (own, True, True, NOW, "the authority has changed"),
        (own, True, False, NOW + LIFE * 0.9 - 1, ""),
        (own, True, False, NOW + LIFE * 0.9, "the authority has changed"),
        (CertificateIdentity("machine", "m1", "worker"), False, False, NOW, "it has one of machine/m1 as a worker"),
        (CertificateIdentity("machine", "m2", "server"), False, False, NOW, "it has one of machine/m2 as a server"),
    ]:
        assert why_renew(found, wanted, is_foreign=is_foreign, is_linked=is_linked, now_s=now_s) == reason


def test_a_worker_has_a_certificate_of_another_authority_soon():
    first, second = authority(1), authority(2, at_s=NOW + 1000)
    own = CertificateIdentity("machine", "w1", "worker", issued_at_s=NOW, expires_at_s=NOW + LIFE)
    usual = NOW + LIFE * 2 / 3
    for issuer, authorities, renewed_at_s, earliest, latest in [
        ("A1", (), 0.0, usual, usual),
        ("A1", (first,), 0.0, usual, usual),
        ("A2", (first, second), 0.0, usual, usual),
        ("A1", (first, second), 0.0, NOW + 1001, NOW + 1000 + LIFE / 25),
        ("A1", (first, second), NOW + 1200, NOW + 1201, NOW + 1200 + LIFE / 25),
        ("A1", (first, authority(2, at_s=NOW + LIFE)), 0.0, usual, usual),
        ("A0", (first,), 0.0, 1.0, LIFE / 25),  # of an authority that nobody knows by number
    ]:
        found = worker_renew_at_s(own, issuer, authorities, renewed_at_s=renewed_at_s, life_s=LIFE)
        assert earliest <= found <= latest


def test_a_revocation_is_found_by_the_certificate_it_is_about():
    own = CertificateIdentity("machine", "m1", "server", issued_at_s=NOW)
    about = Revocation(2, "machine/m1", NOW + 1)
    assert find_revocation(own, [Revocation(1, "machine/m2", NOW + 1), about]) == about
    assert find_revocation(own, [Revocation(1, "machine/m1", NOW)]) is None


def test_a_number_that_is_taken_gives_way_to_the_store():
    stored = Known((authority(1), authority(2, "B2")), (Revocation(1, "person/ann", 5.0),))
    own = Known((authority(1), authority(2)), (Revocation(1, "person/bob", 6.0), Revocation(2, "person/ann", 5.0)))
    assert merge(stored, own) == Known(
        (authority(1), authority(2, "B2"), authority(3, "A2")),
        (Revocation(1, "person/ann", 5.0), Revocation(2, "person/bob", 6.0)),
    )
    assert next_number(merge(stored, own).authorities) == 4
    assert next_number([]) == 1


def test_a_server_cannot_have_others_refused_for_good():
    said = Known(
        (), (Revocation(1, "machine/m1", NOW + 10 * BACKDATED_S, "mallory", NOW), Revocation(2, "machine/m2", NOW + 1))
    )
    bounded = bound_times(said, Known(), NOW)
    assert [each.before_s for each in bounded.revocations] == [NOW + BACKDATED_S, NOW + 1]
    renumbered = Known((), tuple(msgspec.structs.replace(each, number=each.number + 5) for each in bounded.revocations))
    for own in (bounded, renumbered):
        again = merge(bound_times(said, own, NOW + 3600), own)
        assert len(again.revocations) == 2
        assert {each.before_s for each in again.revocations} == {NOW + BACKDATED_S, NOW + 1}


def test_the_last_authority_is_the_one_that_was_made_last_whatever_its_number():
    lost, made = authority(2, at_s=NOW), authority(2, "B2", at_s=NOW + 1000)
    merged = merge(Known((authority(1), made)), Known((authority(1), lost)))
    assert merged.authorities == (authority(1), authority(3, "A2", at_s=NOW), made)
    assert trusted(merged.authorities, NOW + 1000 + LIFE, LIFE) == (made,)
    assert next_number(merged.authorities) == 4
    assert time_of_next(merged, NOW) == NOW + 1001
    assert time_of_next(merged, NOW + LIFE) == NOW + LIFE
    assert time_of_next(Known(), NOW) == NOW


numbers = st.integers(1, 6)
knowledge = st.builds(
    Known,
    st.lists(
        st.builds(authority, numbers, st.sampled_from("ABCDE")), unique_by=(lambda a: a.number, lambda a: a.certificate)
    ).map(lambda found: tuple(sorted(found, key=lambda each: each.number))),
    st.lists(
        st.builds(Revocation, numbers, st.sampled_from(("person/ann", "person/bob")), st.sampled_from((1.0, 2.0))),
        unique_by=(lambda r: r.number, lambda r: (r.subject, r.before_s)),
    ).map(lambda found: tuple(sorted(found, key=lambda each: each.number))),
)


def facts(known: Known) -> tuple[set[str], set[tuple[str, float]]]:
    return {each.certificate for each in known.authorities}, {(r.subject, r.before_s) for r in known.revocations}


@given(knowledge, knowledge)
def test_nothing_is_lost_and_what_is_stored_keeps_its_number(stored, own):
    merged = merge(stored, own)
    assert facts(merged) == tuple(one | other for one, other in zip(facts(stored), facts(own), strict=True))
    assert set(stored.authorities) <= set(merged.authorities)
    assert set(stored.revocations) <= set(merged.revocations)
    for given_numbers in ([a.number for a in merged.authorities], [r.number for r in merged.revocations]):
        assert given_numbers == sorted(set(given_numbers))
    assert merge(merged, own) == merge(merged, stored) == merged
