"""URLs of servers: hiding their passwords, and whether they are on this machine. No name is resolved."""

import ipaddress
import re
from urllib.parse import urlsplit


def without_user(text: str) -> str:
    """Return the text without the user and password of its URLs, for logs and messages."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def has_user(url: str) -> bool:
    """True if this URL contains a user or password."""
    return without_user(url) != url


def is_on_loopback(url: str) -> bool:
    """True if this URL's host is a loopback address or localhost."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
