"""Whether a text is an IP address, or a name that stands for some."""

import ipaddress


def is_ip_address(text: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
