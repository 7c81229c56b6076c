"""Why fleetd cannot be reached, and what to do, in words."""

import errno
import os
import ssl

from fleetctl.endpoint import own_paths
from fleetctl.output import printable

_DAEMON_HERE = "is fleetd running here? See systemctl status fleet, or name another machine's API with --endpoint"
_USERS_DAEMON = "is your own fleetd running? systemctl --user enable --now fleet.socket fleet.service starts it"
_DAEMON_THERE = "is fleetd running there, with its API open on this port? --endpoint names another"
_REMEDIES = {
    errno.ENOENT: ("no such socket", _DAEMON_HERE),
    errno.EACCES: ("permission denied", "run as root, or as a user in the group fleet (usermod -aG fleet USER)"),
    errno.EPERM: ("permission denied", "run as root, or as a user in the group fleet (usermod -aG fleet USER)"),
}


def explain(error: Exception, socket: str, is_users: bool) -> str:
    """The cause and the remedy. `socket` is the path of the unix socket ('' for TCP), and `is_users` true for that of
    the user's own fleetd."""
    if isinstance(error, ssl.SSLError):
        from fleetctl.tls_errors import explain as explain_tls  # imported late: rarely needed

        text, remedy = explain_tls(error)
    elif socket and isinstance(error, OSError) and error.errno in _REMEDIES:
        text, remedy = _REMEDIES[error.errno]
        if is_users:
            remedy = _USERS_DAEMON if error.errno == errno.ENOENT else "this is the socket of another user"
        elif error.errno == errno.ENOENT and os.path.exists(own_paths().socket):
            remedy = "your own fleetd is asked with --user"
    else:
        said = error.strerror if isinstance(error, OSError) else ""
        text = (said or str(error) or type(error).__name__).lower()
        here = _USERS_DAEMON if is_users else _DAEMON_HERE
        remedy = here if socket else _DAEMON_THERE
    return f"{printable(text)}; {remedy}"
