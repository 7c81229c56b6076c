"""Certificates as the standard library's TLS takes them."""

import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import CertificateSigningRequestBuilder, Name

from fleetd.model.certificate import DAY_S, CertificateIdentity, fingerprint, parse_peer_certificate, uris
from fleetd.model.permission import parse_rights
from fleetd.trust import x509

NOW = 1_790_000_000.4
SERVER = CertificateIdentity("machine", "m1", "server")
WORKER = CertificateIdentity("machine", "m2", "worker")


@pytest.fixture(scope="module")
def authority():
    return x509.make_authority(1, NOW)


def issue(authority, identity=SERVER, *, server=True, names=(), now_s=NOW, life_s=60.0):
    key, request = x509.make_request()
    return key, x509.sign(authority, request, uris(identity), names=names, server=server, now_s=now_s, life_s=life_s)


def test_the_certificate_says_what_was_signed(authority):
    ann = CertificateIdentity("person", "ann", rights=parse_rights("operate:web-*,submit:web-*"))
    _, certificate = issue(authority, ann, server=False)
    found = parse_peer_certificate(x509.describe(certificate))
    assert (found.subject, found.rights) == ("person/ann", ann.rights)
    assert (found.issued_at_s, found.expires_at_s) == (int(NOW), int(NOW) + 60)
    assert len(found.serial) > 30


def test_a_certificate_is_of_one_authority(authority):
    _, certificate = issue(authority)
    other = x509.make_authority(1, NOW)
    assert x509.is_signed_by(certificate, authority.certificate)
    assert not x509.is_signed_by(certificate, other.certificate)
    assert not x509.is_signed_by(authority.certificate, certificate)
    assert fingerprint(other.certificate) != fingerprint(authority.certificate)


def test_a_renewed_certificate_may_keep_its_key(authority):
    key, certificate = issue(authority)
    assert x509.has_key_of(x509.make_request(key)[1], certificate)
    assert not x509.has_key_of(x509.make_request()[1], certificate)


def request_with(key) -> str:
    request = CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (lambda: "", "no request"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no request"),
        (lambda: "x" * 20000, "more than 16384"),
        (lambda: request_with(rsa.generate_private_key(65537, 2048)), "not one of ECDSA P-256"),
        (lambda: request_with(ec.generate_private_key(ec.SECP384R1())), "not one of ECDSA P-256"),
    ],
)
def test_an_unusable_request_is_refused_in_words(authority, make, refusal):
    with pytest.raises(ValueError, match=refusal):
        x509.sign(authority, make(), uris(SERVER), now_s=NOW)


def test_a_request_for_the_key_of_another_is_refused(authority):
    """Two requests of the same length: the key of one, the signature of the other."""
    mine, theirs = (ssl.PEM_cert_to_DER_cert(x509.make_request()[1].replace(" REQUEST", "")) for _ in range(2))
    forged = ssl.DER_cert_to_PEM_cert(theirs[:150] + mine[150:]).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(ValueError, match=r"no request"):
        x509.sign(authority, forged, uris(SERVER), now_s=NOW)


@pytest.mark.parametrize("call", [x509.describe, lambda pem: x509.has_key_of(x509.make_request()[1], pem)])
def test_what_is_no_certificate_is_refused_in_words(call):
    with pytest.raises(ValueError, match="no certificate"):
        call("certificate")


def test_a_key_that_cannot_be_used_is_not_shown():
    with pytest.raises(ValueError, match="no private key") as raised:
        x509.make_request("secret")
    assert "secret" not in str(raised.value)


def test_a_certificate_names_somebody(authority):
    with pytest.raises(ValueError, match="would name nobody"):
        x509.sign(authority, x509.make_request()[1], (), now_s=NOW)


# TLS, as keeper.py sets it up: the time of the certificates is that of the machine that runs the tests.


@pytest.fixture(scope="module")
def now() -> float:
    import time

    return time.time()


@pytest.fixture(scope="module")
def present(now):
    return x509.make_authority(1, now, life_s=3600)


def context(tmp_path, name, purpose, authorities, key="", certificate=""):
    found = ssl.SSLContext(purpose)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_REQUIRED
    found.load_verify_locations(cadata="".join(each.certificate for each in authorities))
    if key:
        (tmp_path / f"{name}.pem").write_text(certificate + key)
        found.load_cert_chain(tmp_path / f"{name}.pem")
    return found


def connect(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None):
    """What the server sees of the client, or the error of either."""
    ours, theirs = socket.socketpair()
    seen: list[object] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as connection:
                seen.append(connection.getpeercert())
                connection.sendall(b"x")
        except OSError as error:
            seen.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as connection:
            connection.recv(1)
    except OSError as error:
        thread.join()
        return error
    thread.join()
    return seen[0]


def test_tls_shows_whom_the_certificate_names(tmp_path, present, now):
    server = context(tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, now_s=now))
    client = context(
        tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present], *issue(present, WORKER, server=False, now_s=now)
    )
    found = parse_peer_certificate(connect(server, client))
    assert (found.subject, found.role, found.issued_at_s) == ("machine/m2", "worker", int(now))


def test_a_name_is_checked_where_it_is_asked_for(tmp_path, present, now):
    names = ("10.0.0.1", "fe80::1", "m1.example")
    server = context(tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, names=names, now_s=now))
    client = context(
        tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present], *issue(present, WORKER, server=False, now_s=now)
    )
    client.check_hostname = True
    for name in names:
        assert isinstance(connect(server, client, name), dict)
    assert isinstance(connect(server, client, "m2.example"), ssl.SSLCertVerificationError)


@pytest.mark.parametrize(
    ("begins", "life_s"), [(-3600.0, 1800.0), (1.5 * DAY_S, 60.0)], ids=["expired", "not valid yet"]
)
def test_tls_refuses_a_certificate_outside_of_its_time(tmp_path, present, now, begins, life_s):
    server = context(
        tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, now_s=now + begins, life_s=life_s)
    )
    client = context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present])
    assert isinstance(connect(server, client), ssl.SSLCertVerificationError)


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_tls_takes_a_certificate_that_a_clock_an_hour_off_has_made(tmp_path, present, now, ahead_s):
    server = context(
        tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, now_s=now + ahead_s, life_s=2 * DAY_S)
    )
    client = context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present])
    server.verify_mode = ssl.CERT_OPTIONAL
    assert not isinstance(connect(server, client), OSError)


def test_tls_refuses_the_certificate_of_another_authority(tmp_path, present, now):
    other = x509.make_authority(1, now)
    server = context(tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, now_s=now))
    stranger = context(tmp_path, "stranger", ssl.PROTOCOL_TLS_CLIENT, [present], *issue(other, server=False, now_s=now))
    assert isinstance(connect(server, stranger), OSError)
    assert isinstance(
        connect(server, context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [other])), ssl.SSLCertVerificationError
    )


def test_a_worker_cannot_play_a_server(tmp_path, present, now):
    """Names are not checked: what a certificate may be used for keeps them apart."""
    worker = context(
        tmp_path, "worker", ssl.PROTOCOL_TLS_SERVER, [present], *issue(present, WORKER, server=False, now_s=now)
    )
    client = context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present])
    refused = connect(worker, client)
    assert isinstance(refused, ssl.SSLCertVerificationError)
    assert "purpose" in str(refused)


def test_nobody_signs_with_the_certificate_of_a_machine(tmp_path, present, now):
    key, certificate = issue(present, now_s=now)
    forger = x509.Authority(1, certificate, key)
    chain = issue(forger, now_s=now)
    server = context(tmp_path, "forged", ssl.PROTOCOL_TLS_SERVER, [present], chain[0], chain[1] + certificate)
    client = context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, [present])
    assert isinstance(connect(server, client), ssl.SSLCertVerificationError)


def test_two_authorities_are_told_apart(tmp_path, present, now):
    """While the authority of a cluster is replaced, both are trusted."""
    second = x509.make_authority(2, now)
    both = [present, second]
    server = context(tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, both, *issue(present, now_s=now))
    client = context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, both, *issue(second, WORKER, server=False, now_s=now))
    assert isinstance(connect(server, client), dict)
