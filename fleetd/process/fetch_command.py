"""`python -m fleetd.process.fetch_command URL SHA256 PATH`: gets one file, for fleetd, in a transient unit of systemd.

The file gets its name when it is whole and has the hash, and never before. It follows redirects to http and https, from
https to https alone, and leaves room on the disk.
"""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

MAX_BYTES = 64 << 30
ROOM_BYTES = 256 << 20  # that stay free on the disk
CHUNK_BYTES = 1 << 20
SILENCE_S = 60.0  # without a byte
MAX_REDIRECTS = 5


class _Failed(Exception):
    """The file cannot be had. The message says why."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https") or (req.full_url.startswith("https:") and scheme != "https"):
            raise _Failed(f"it is redirected to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, sha256: str, path: Path, *, max_bytes: int = MAX_BYTES, room_bytes: int = ROOM_BYTES) -> str:
    """Get the file. Returns why it cannot be had, '' if it is there."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            _write(url, sha256, file, max_bytes, room_bytes)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.utime(file.fileno(), (0, 0))  # FetchedFiles knows by that whether somebody has written to it since
            os.fsync(file.fileno())
        new.replace(path)
    except _Failed as error:
        return str(error)
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, HTTPException, ValueError) as error:
        return str(getattr(error, "strerror", None) or error or type(error).__name__)
    finally:
        new.unlink(missing_ok=True)
    return ""


def _write(url: str, sha256: str, file: IO[bytes], max_bytes: int, room_bytes: int) -> None:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": "fleetd", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the opener knows http and https alone)
    found = hashlib.sha256()
    size = 0
    with opener.open(request, timeout=SILENCE_S) as answer:
        announced = answer.headers.get("Content-Length", "")
        _check_size(file, int(announced) if announced.isdecimal() else 0, max_bytes, room_bytes)
        while chunk := answer.read(CHUNK_BYTES):
            size += len(chunk)
            _check_size(file, len(chunk), max_bytes - size + len(chunk), room_bytes)
            found.update(chunk)
            file.write(chunk)
    if found.hexdigest() != sha256:
        raise _Failed(f"what is there has another hash: sha256:{found.hexdigest()}")


def _check_size(file: IO[bytes], to_come: int, max_bytes: int, room_bytes: int) -> None:
    if to_come > max_bytes:
        raise _Failed(f"it has more than {max_bytes} bytes")
    disk = os.fstatvfs(file.fileno())
    if to_come + room_bytes > disk.f_bavail * disk.f_frsize:
        raise _Failed("no space left on device for it")


def main(arguments: list[str]) -> int:
    """Get the file that the command line names. Returns the exit status."""
    url, sha256, path = arguments
    why = fetch(url, sha256, Path(path))
    if why:
        print(why, file=sys.stderr)  # noqa: T201
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
