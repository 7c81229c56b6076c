"""Refuses requests that a web page of another site in an operator's browser may have made. Pure.

Every client of the API has root on the cluster. A web page must not become one: neither by cross-origin requests
(`Origin`, `Sec-Fetch-Site`), nor by DNS rebinding, which a name in `Host` that is not ours gives away. A browser
reaches a unix socket, too, through a port that SSH forwards there.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from fleetd.api.http import ApiError, Request
from fleetd.model.ip_address import is_ip_address

_LOCAL_NAMES = ("localhost",)
_OWN_SITE = ("same-origin", "none")  # `none`: entered in the address bar


def check_caller(request: Request, allowed_hosts: Collection[str]) -> None:
    """Raises ApiError for a cross-origin request, or if `Host` is neither an IP address, `localhost` nor allowed.

    `allowed_hosts` are in lower case. Clients of a unix socket name what they like (`http://fleet/`): there, a name
    without a dot, which is that of no site, is allowed, too.
    """
    for host in request.header_values("Host"):
        name = _host_name(host)
        is_of_no_site = request.local and "." not in name
        if not (name in _LOCAL_NAMES or name in allowed_hosts or is_ip_address(name) or is_of_no_site):
            raise ApiError(
                403, f'host name "{host}" is not allowed: use the IP address, or set allowed_hosts={name} in fleet.conf'
            )
    for origin in request.header_values("Origin"):
        if urlsplit(origin).netloc.lower() not in [host.lower() for host in request.header_values("Host")]:
            raise ApiError(403, f'cross-origin requests ("{origin}") are refused')
    for site in request.header_values("Sec-Fetch-Site"):
        if site.lower() not in _OWN_SITE:
            raise ApiError(403, f'cross-origin requests ("{site}") are refused')


def _host_name(host: str) -> str:
    """The name or address in a Host header, without its port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
