"""Why TLS to a server failed, in words."""

import ssl

_LOGIN = "fleetctl login --tunnel SERVER gets one"
_CLOCKS = "compare the clocks of both machines"
_CA_FILE = (
    "--ca-file names the authority that signed its certificate; fleetctl login --tunnel SERVER learns that of a cluster"
)
REVOKED = 23  # X509_V_ERR_CERT_REVOKED
_SERVER_CERTIFICATE = {  # X509_V_ERR_… of the server's certificate
    9: f"{_CLOCKS}, or see the server's log: journalctl -u fleet",
    10: f"{_CLOCKS}, or see the server's log: journalctl -u fleet",
    REVOKED: "name another server of the cluster with --endpoint",
    26: "it is no server: a worker, or somebody else with a certificate of the cluster, answers at this address",
}
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
_NO_TLS = ("it does not speak TLS", "write http:// for a port without it, or name another port")
_REASONS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "TLSV1_ALERT_UNKNOWN_CA": (
        "it does not know the authority of your certificate",
        f"that is one of another cluster, or of an authority that was replaced; {_LOGIN}",
    ),
    "TLSV1_ALERT_INTERNAL_ERROR": ("it has no certificate yet", "its log says why: journalctl -u fleet"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("your certificate has expired", _LOGIN),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("your certificate was revoked", _LOGIN),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": ("your certificate is not one for clients", _LOGIN),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("it wants a client certificate", f"{_LOGIN}; --cert-file names another"),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("it takes no certificate of yours", f"{_LOGIN}; {_CLOCKS}"),
}


def explain(error: ssl.SSLError) -> tuple[str, str]:
    """What has happened, and a remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return "the authority of its certificate is not known here", _CA_FILE
        return error.verify_message, _SERVER_CERTIFICATE.get(error.verify_code, _CA_FILE)
    known = _REASONS.get(error.reason or "")
    if known is not None:
        return known
    what = (error.reason or "").replace("_", " ") or error.strerror or str(error)
    return f"TLS failed: {what}", "is that fleetd, and has it a certificate? See its log: journalctl -u fleet"
