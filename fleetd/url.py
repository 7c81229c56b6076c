"""URLs of servers: what of them may be shown, and whether they lead beyond this machine. Nothing is looked up."""

import ipaddress
import re
from urllib.parse import urlsplit


def without_user(text: str) -> str:
    """The text without user and password in its URLs: what is shown and logged is read by others."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def has_user(url: str) -> bool:
    """Whether user or password stand in this URL."""
    return without_user(url) != url


def is_on_loopback(url: str) -> bool:
    """Whether this URL's host is this machine itself, by an address or the name localhost."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
