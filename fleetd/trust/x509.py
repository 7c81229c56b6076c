"""X.509 certificates of a cluster: ECDSA P-256, made and signed with the library cryptography.

fleetd imports this in a process of its own alone (signing.py): the library takes ten MiB. Keys, requests and
certificates are PEM. What is said of a certificate as a whole is in model/certificate.py.
"""

import datetime
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetd.model.certificate import AUTHORITY_LIFE_S, BACKDATED_S, MACHINE_LIFE_S, MONTHS
from fleetd.model.certificate import Authority as Authority

MAX_PEM = 16384  # characters


def make_authority(number: int, now_s: float, life_s: float = AUTHORITY_LIFE_S) -> Authority:
    """A new authority of this number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"authority {number}")
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, key.public_key(), name, now_s, life_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
    )
    return Authority(number, _pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def cross_sign(former: Authority, certificate: str, now_s: float) -> str:
    """The certificate of an authority as the one before it signs it, for as long as that lasts itself: who trusts the
    former takes what the new one signs. Raises ValueError."""
    issuer, own = _load_certificate(former.certificate), _load_certificate(certificate)
    life_s = issuer.not_valid_after_utc.timestamp() - int(now_s)
    extensions = own.extensions
    builder = _builder(own.subject, own.public_key(), issuer.subject, now_s, life_s)  # type: ignore[arg-type]
    for kind in (x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier):
        found = extensions.get_extension_for_class(kind)
        builder = builder.add_extension(found.value, critical=found.critical)
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
    )
    return _pem(builder.sign(_load_key(former.key), hashes.SHA256()))


def make_request(key: str = "") -> tuple[str, str]:
    """A private key (the one given, or a new one), and a request for a certificate of it, signed with it. Raises
    ValueError."""
    private = _load_key(key) if key else ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name()).sign(private, hashes.SHA256())
    return key or _key_pem(private), request.public_bytes(serialization.Encoding.PEM).decode()


def sign(
    authority: Authority,
    request: str,
    uris: Iterable[str],
    *,
    names: Iterable[str] = (),
    server: bool = False,
    now_s: float,
    life_s: float = MACHINE_LIFE_S,
) -> str:
    """The certificate of the public key in the request, which says these URIs and nothing else of the request's.
    `names` are host names and IP addresses at which it is served, if `server`. Raises ValueError."""
    public = _public_key(request)
    issuer = _load_certificate(authority.certificate)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
    alternatives = [*map(x509.UniformResourceIdentifier, uris), *map(_general_name, names)]
    if not alternatives:
        raise ValueError("the certificate would name nobody")
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(), public, issuer.subject, now_s, life_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    return _pem(builder.sign(_load_key(authority.key), hashes.SHA256()))


def is_signed_by(certificate: str, authority: str) -> bool:
    """True if the authority of this certificate has signed the other, whenever that was. Raises ValueError."""
    try:
        _load_certificate(certificate).verify_directly_issued_by(_load_certificate(authority))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def has_key_of(request: str, certificate: str) -> bool:
    """True if the request was made with the private key of the certificate. Raises ValueError."""
    return bool(_public_key(request) == _load_certificate(certificate).public_key())


def is_key_of(key: str, certificate: str) -> bool:
    """True if this is the private key of the certificate. Raises ValueError."""
    return bool(_load_key(key).public_key() == _load_certificate(certificate).public_key())


def describe(certificate: str) -> dict[str, object]:
    """What `ssl.SSLSocket.getpeercert()` would say of the certificate, as far as parse_peer_certificate needs it.
    Nobody has checked who signed it. Raises ValueError."""
    loaded = _load_certificate(certificate)
    try:
        said = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        said = x509.SubjectAlternativeName([])
    return {
        "subjectAltName": [("URI", uri) for uri in said.get_values_for_type(x509.UniformResourceIdentifier)],
        "notBefore": _print_time(loaded.not_valid_before_utc),
        "notAfter": _print_time(loaded.not_valid_after_utc),
        "serialNumber": f"{loaded.serial_number:X}",
    }


def _builder(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name, now_s: float, life_s: float
) -> x509.CertificateBuilder:
    issued = datetime.datetime.fromtimestamp(int(now_s), datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(issued - datetime.timedelta(seconds=BACKDATED_S))
        .not_valid_after(issued + datetime.timedelta(seconds=int(life_s)))
    )


def _name(unit: str = "") -> x509.Name:
    """Without a CommonName, which etcd would take for a user."""
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fleet")]
    if unit:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name(parts)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _load_certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_bounded(pem))
    except ValueError as error:
        raise ValueError(f"no certificate: {error}") from error


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_bounded(pem), None)
    except (ValueError, TypeError) as error:  # never with what is in it
        raise ValueError(f"no private key: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not one of ECDSA P-256")
    return key


def _public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a request whose maker has proven to have the private one. Raises ValueError."""
    try:
        request = x509.load_pem_x509_csr(_bounded(pem))
        public = request.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise ValueError("its key is not one of ECDSA P-256")
        if not request.is_signature_valid:
            raise ValueError("it is not signed with its own key")
    except Exception as error:  # the library has many for the bytes of others
        raise ValueError(f"no request for a certificate: {error}") from error
    return public


def _bounded(pem: str) -> bytes:
    if len(pem) > MAX_PEM:
        raise ValueError(f"more than {MAX_PEM} characters")
    return pem.encode()


def _print_time(at: datetime.datetime) -> str:
    return f"{MONTHS[at.month - 1]} {at.day:2} {at:%H:%M:%S} {at.year:04} GMT"
