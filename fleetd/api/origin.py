"""Which requests over TCP are answered: those that a web page in somebody's browser cannot have made.

Who reaches the API over TCP is root on the cluster. A page on the web that somebody looks at who can reach it must not
be: neither by sending requests from there (`Origin`, `Sec-Fetch-Site`), nor under a name that its owner has pointed at
this machine (`Host`, "DNS rebinding"). Pure.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from fleetd.api.http import ApiError, Request

_LOCAL_NAMES = ("localhost",)
_OWN_SITE = ("same-origin", "none")  # `none`: typed by a person


def check_caller(request: Request, allowed_hosts: Collection[str]) -> None:
    """Raises ApiError for a request over TCP that names this machine by a name which is neither an IP address nor
    `localhost` nor one of these (in lower case), or that comes from a page of another origin."""
    for host in request.header_values("Host"):
        name = _host_name(host)
        if not (name in _LOCAL_NAMES or name in allowed_hosts or _is_ip(name)):
            raise ApiError(
                403, f'this API is not known as "{host}": use its IP address, or set allowed_hosts={name} in fleet.conf'
            )
    for origin in request.header_values("Origin"):
        if urlsplit(origin).netloc.lower() not in [host.lower() for host in request.header_values("Host")]:
            raise ApiError(403, f'requests of pages from elsewhere ("{origin}") are not answered')
    for site in request.header_values("Sec-Fetch-Site"):
        if site.lower() not in _OWN_SITE:
            raise ApiError(403, f'requests of pages from elsewhere ("{site}") are not answered')


def _host_name(host: str) -> str:
    """The name or address in a Host header, without its port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
