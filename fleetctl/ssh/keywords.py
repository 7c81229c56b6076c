"""Every keyword of ssh_config(5) and its support in fleetctl: honoured, irrelevant, or missing.

The manual is generated from this list, and a test compares it with ssh_config(5) of the installed OpenSSH.
"""

from enum import StrEnum


class Use(StrEnum):
    """What fleetctl does with a keyword."""

    SETTLED = "settled"  # handled by `ssh -G`, whose output reflects it
    HONOURED = "honoured"
    IRRELEVANT = "irrelevant"  # concerns what fleetctl never does, or has its own option for
    MISSING = "missing"  # may decide whether ssh can connect: warned of once if set


_BY_USE = {
    Use.SETTLED: """
        CanonicalDomains CanonicalizeFallbackLocal CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs
        Host IgnoreUnknown Include Match Tag VersionAddendum
        """,
    Use.HONOURED: """
        AddressFamily BindAddress HostKeyAlias Hostname IdentitiesOnly IdentityAgent IdentityFile Port ProxyCommand
        ProxyJump User
        """,
    Use.IRRELEVANT: """
        AddKeysToAgent ChannelTimeout CheckHostIP ClearAllForwardings Compression ConnectTimeout ConnectionAttempts
        ControlMaster ControlPath ControlPersist DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar
        ExitOnForwardFailure FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout
        ForwardX11Trusted GSSAPIAuthentication GSSAPIClientIdentity GSSAPIDelegateCredentials GSSAPIKexAlgorithms
        GSSAPIKeyExchange GSSAPIRenewalForcesRekey GSSAPIServerIdentity GSSAPITrustDns GatewayPorts
        GlobalKnownHostsFile HashKnownHosts HostbasedAcceptedAlgorithms IPQoS KbdInteractiveAuthentication
        KbdInteractiveDevices LocalCommand LocalForward LogLevel LogVerbose NoHostAuthenticationForLocalhost
        NumberOfPasswordPrompts ObscureKeystrokeTiming PasswordAuthentication PermitLocalCommand PermitRemoteOpen
        PreferredAuthentications ProxyUseFdpass RekeyLimit RemoteCommand RemoteForward RequestTTY SendEnv
        ServerAliveCountMax ServerAliveInterval SessionType SetEnv StdinNull StreamLocalBindMask StreamLocalBindUnlink
        StrictHostKeyChecking SyslogFacility TCPKeepAlive Tunnel TunnelDevice UpdateHostKeys UserKnownHostsFile
        VisualHostKey WarnWeakCrypto XAuthLocation
        """,
    Use.MISSING: """
        BatchMode BindInterface CASignatureAlgorithms CertificateFile Ciphers HostKeyAlgorithms HostbasedAuthentication
        KexAlgorithms KnownHostsCommand MACs PKCS11Provider PubkeyAcceptedAlgorithms PubkeyAuthentication
        RefuseConnection RequiredRSASize RevokedHostKeys SecurityKeyProvider VerifyHostKeyDNS
        """,
}
KEYWORDS = {keyword: use for use, keywords in _BY_USE.items() for keyword in keywords.split()}


def keywords_of(use: Use) -> list[str]:
    """The keywords of this support level, in their usual spelling, in order."""
    return sorted(keyword for keyword, its_use in KEYWORDS.items() if its_use is use)
