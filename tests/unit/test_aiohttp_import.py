"""aiohttp as fleetd imports it: no system certificates in memory, and an unchanged environment."""

import json
import os
import subprocess
import sys

_LOOK = """
import gc, json, os, ssl
import fleetd.process.daemon
found = [each for each in gc.get_objects() if isinstance(each, ssl.SSLContext)]
held = sum(each.cert_store_stats()["x509"] for each in found)
where = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
print(json.dumps({"contexts": len(found), "held": held, "where": where}))
"""


def _look(**environment: str) -> dict[str, object]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
    command = [sys.executable, "-c", _LOOK]
    done = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_daemon_loads_no_unused_certificates() -> None:
    found = _look()
    assert found["contexts"], "aiohttp makes no context when it is imported any more: fleetd/aiohttp_import.py can go"
    assert found["held"] == 0
    assert found["where"] == {"SSL_CERT_FILE": None, "SSL_CERT_DIR": None}


def test_a_users_certificate_location_is_kept() -> None:
    assert _look(SSL_CERT_FILE="/etc/of/mine.pem")["where"] == {
        "SSL_CERT_FILE": "/etc/of/mine.pem",
        "SSL_CERT_DIR": None,
    }
