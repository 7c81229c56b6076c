"""What a certificate says, and which do not count any more."""

import hashlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.certificate import (
    CLOCKS_DIFFER_S,
    DAY_S,
    MAX_NAME,
    CertificateIdentity,
    Revocation,
    fingerprint,
    is_revoked,
    issue_time,
    latest_revocations,
    parse_peer_certificate,
    refuse_name,
    revoke,
    split_pem,
    uris,
)
from fleetd.model.permission import NO_RIGHTS, Grant, Permission, Rights, parse_rights

ID = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0


def peer_certificate(*said: str, not_before: str = "Nov  6 15:04:05 2026 GMT") -> dict[str, object]:
    return {
        "subjectAltName": (("DNS", "m1"), *(("URI", uri) for uri in said), ("IP Address", "10.0.0.1")),
        "notBefore": not_before,
        "notAfter": "Dec  7 15:04:05 2026 GMT",
        "serialNumber": "0AF3",
    }


@pytest.mark.parametrize(
    ("said", "subject", "role", "rights"),
    [
        ((f"fleet://machine/{ID}", "fleet://role/server"), f"machine/{ID}", "server", ""),
        ((f"fleet://machine/{ID}", "fleet://role/worker"), f"machine/{ID}", "worker", ""),
        (("fleet://person/ann", "fleet://grant/admin%3A%2A"), "person/ann", "", "admin"),
        (("fleet://person/ann",), "person/ann", "", ""),
        (("fleet://person/J%C3%B6rg",), "person/Jörg", "", ""),
        (
            ("fleet://service/ci", "fleet://grant/operate%3Aweb-%2A", "fleet://grant/submit%3A%5Bab%5D-%2A"),
            "service/ci",
            "",
            "operate:web-*,submit:[ab]-*",
        ),
    ],
)
def test_a_certificate_says_who_it_is_of_and_what_they_may(said, subject, role, rights):
    found = parse_peer_certificate(peer_certificate(*said))
    assert (found.subject, found.role, found.rights) == (subject, role, parse_rights(rights))
    assert uris(found) == said
    assert (found.issued_at_s, found.expires_at_s, found.serial) == (1794063845.0, 1796655845.0, "0af3")
    assert found.renew_at_s == 1794063845.0 + 20 * DAY_S


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("fleet://authority/1",),
        ("https://machine/m1", "fleet://role/server"),
        ("fleet://machine",),
        ("fleet://machine/", "fleet://role/server"),
        ("fleet://machine/m1",),
        ("fleet://machine/m1", "fleet://role/king"),
        ("fleet://machine/m1", "fleet://role/server", "fleet://role/worker"),
        ("fleet://machine/m1", "fleet://machine/m2", "fleet://role/server"),
        ("fleet://machine/m1", "fleet://role/server", "fleet://grant/admin%3A%2A"),
        ("fleet://machine/m1", "fleet://person/ann", "fleet://role/server"),
        ("fleet://person/ann", "fleet://role/server"),
        ("fleet://person/ann", "fleet://grant/root"),
        ("fleet://person/ann", "fleet://grant/"),
        ("fleet://person/ann", "fleet://grant/view%2Cadmin"),
        ("fleet://person/ann", "fleet://grant/view%3A%2A", "fleet://only/today"),
        ("fleet://person/ann/bob",),
        ("fleet://person/%61nn",),
        ("fleet://person/%C3",),
        ("fleet://person/%ff",),
        ("fleet://person/ann%0Abob",),
        ("fleet://person/" + "a" * (MAX_NAME + 1),),
    ],
)
def test_a_certificate_that_says_anything_else_is_refused(said):
    with pytest.raises(ValueError, match=r"certificate|percent|permission|decode"):
        parse_peer_certificate(peer_certificate(*said))


@pytest.mark.parametrize("time", ["", "yesterday", "Foo  6 15:04:05 2026 GMT", "Nov  6 15:04:05 2026 CET"])
def test_a_certificate_without_a_time_is_refused(time):
    with pytest.raises(ValueError, match="is not the time of a certificate"):
        parse_peer_certificate(peer_certificate("fleet://person/ann", not_before=time))


def test_what_getpeercert_says_without_a_certificate_is_refused():
    with pytest.raises(ValueError, match="names 0 machines"):
        parse_peer_certificate({})


@pytest.mark.parametrize(
    "identity",
    [
        CertificateIdentity("machine", ID),
        CertificateIdentity("machine", ID, "king"),
        CertificateIdentity("machine", ID, "server", parse_rights("view")),
        CertificateIdentity("person", "ann", "server"),
        CertificateIdentity("person", ""),
        CertificateIdentity("person", "a/b"),
        CertificateIdentity("person", " ann"),
        CertificateIdentity("king", "ann"),
        CertificateIdentity("person", "ann", rights=Rights([Grant(Permission.OPERATE, "a,b")])),
    ],
)
def test_no_certificate_is_made_that_would_be_refused(identity):
    with pytest.raises(ValueError, match=r"."):
        uris(identity)


names = st.text(min_size=1, max_size=MAX_NAME).filter(lambda name: not refuse_name(name))
patterns = st.text(alphabet="abwe0-*?@.[]!", min_size=1)


def is_grant(grant: Grant) -> bool:
    try:
        return parse_rights(str(grant)).grants == (grant,)
    except ValueError:
        return False


grants = st.lists(st.builds(Grant, st.sampled_from(Permission), patterns).filter(is_grant), max_size=4)


@given(names, grants)
def test_what_is_written_into_a_certificate_is_read_from_it(name, given_grants):
    identity = CertificateIdentity("person", name, rights=Rights(given_grants))
    found = parse_peer_certificate(peer_certificate(*uris(identity)))
    assert (found.name, found.rights) == (name, identity.rights)


def test_a_revocation_is_about_former_certificates_of_its_subject():
    revocations = [Revocation(1, "person/ann", NOW), Revocation(2, "machine/m2", NOW)]
    for identity, expected in [
        (CertificateIdentity("person", "ann", issued_at_s=NOW - 1), True),
        (CertificateIdentity("person", "ann", issued_at_s=NOW), False),
        (CertificateIdentity("service", "ann", issued_at_s=NOW - 1), False),
        (CertificateIdentity("person", "bob", issued_at_s=NOW - 1), False),
        (CertificateIdentity("machine", "m2", "worker", issued_at_s=NOW - 1), True),
    ]:
        assert is_revoked(identity, revocations) is expected
        assert not is_revoked(identity, [])


@given(st.floats(-CLOCKS_DIFFER_S + 1, CLOCKS_DIFFER_S - 1), st.floats(0, 60), st.floats(-CLOCKS_DIFFER_S, 60))
def test_clocks_an_hour_apart_neither_keep_a_revoked_certificate_nor_refuse_a_new_one(ahead, before, later):
    made = CertificateIdentity("machine", "m2", "worker", NO_RIGHTS, issued_at_s=NOW - before + ahead)
    revocation = revoke(1, made.subject, "ann", NOW)
    assert is_revoked(made, [revocation])
    issued = issue_time(made.subject, [revocation], NOW + later)
    again = CertificateIdentity("machine", "m2", "worker", issued_at_s=float(int(issued)))
    assert not is_revoked(again, [revocation])
    assert issue_time("machine/m3", [revocation], NOW) == NOW


@given(st.floats(-CLOCKS_DIFFER_S, CLOCKS_DIFFER_S), st.floats(0, 2 * CLOCKS_DIFFER_S))
def test_a_second_revocation_is_about_what_was_made_after_the_first(ahead, later):
    """The first may be of a server whose clock is ahead, and what was made since counts as made even later."""
    first = revoke(1, "machine/m2", "ann", NOW + ahead)
    issued = issue_time("machine/m2", [first], NOW + later)
    again = CertificateIdentity("machine", "m2", "worker", issued_at_s=float(int(issued)))
    assert not is_revoked(again, [first])
    second = revoke(2, "machine/m2", "ann", NOW + later, [first])
    assert is_revoked(again, [first, second])
    issued = issue_time("machine/m2", [first, second], NOW + later)
    once_more = CertificateIdentity("machine", "m2", "worker", issued_at_s=float(int(issued)))
    assert not is_revoked(once_more, [first, second])


def test_certificates_are_split_from_a_file_with_other_text():
    first, second = (ssl.DER_cert_to_PEM_cert(content) for content in (b"first" * 30, b"second"))
    assert split_pem(f"subject=m1\n{first}{second.rstrip()}") == (first, second)
    assert split_pem("") == ()


def test_the_fingerprint_is_the_sha256_of_the_certificate_as_der():
    pem = ssl.DER_cert_to_PEM_cert(b"certificate" * 30)
    assert fingerprint(pem) == hashlib.sha256(b"certificate" * 30).hexdigest()


def test_what_is_not_one_certificate_has_no_fingerprint():
    pem = ssl.DER_cert_to_PEM_cert(b"certificate")
    for text in ("", "certificate", pem + pem):
        with pytest.raises(ValueError, match="not one certificate"):
            fingerprint(text)


def test_the_latest_revocation_of_each_name_counts_while_certificates_may_live() -> None:
    revocations = [
        Revocation(1, "machine/m1", NOW),
        Revocation(2, "machine/m1", NOW + 5.0),
        Revocation(3, "machine/m1", NOW + 1.0),
        Revocation(4, "machine/m2", NOW - 10.0),
        Revocation(5, "person/m3", NOW),
    ]
    assert latest_revocations(revocations, "machine", NOW, 10.0) == {"m1": NOW + 5.0}
    assert latest_revocations(revocations, "machine", NOW, 11.0) == {"m1": NOW + 5.0, "m2": NOW - 10.0}
