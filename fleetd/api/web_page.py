"""The web page: the files of fleetd/ui, which a browser loads and which then asks the API.

Nothing of them is kept in memory: each request reads the file that it asks for.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from fleetd.api.http import ApiError, Request, Response, Route
from fleetd.model.permission import Permission

PAGE = "/ui"
FOLDER = Path(__file__).parents[1] / "ui"
_INDEX = "index.html"
_NAME = re.compile(r"[a-z][a-z0-9_-]*\.[a-z]+", re.ASCII)
_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A browser asks each time whether its copy is still the one: an upgrade of fleetd replaces all files at once.
_HEADERS = (
    ("Cache-Control", "no-cache"),
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


def page_routes() -> tuple[Route, ...]:
    """The routes of the page. Everybody who may view may load it; what it shows and changes, it asks the API for."""
    return (
        Route("GET", PAGE, _redirect, Permission.VIEW, is_page=True),
        Route("GET", f"{PAGE}/", _get_index, Permission.VIEW, is_page=True),
        Route("GET", f"{PAGE}/{{file}}", _get_file, Permission.VIEW, is_page=True),
    )


async def _redirect(_: Request, __: str) -> Response:
    """Lead to the page: what it names is below its own address."""
    return Response(308, (("Location", f"{PAGE}/"),))


async def _get_index(request: Request, _: str) -> Response:
    """The page."""
    return await _get_file(request, _INDEX)


async def _get_file(request: Request, name: str) -> Response:
    """One file of the page."""
    type_ = _TYPES.get(Path(name).suffix)
    if type_ is None or not _NAME.fullmatch(name):
        raise ApiError(404, "")
    try:
        content = (FOLDER / name).read_bytes()
    except OSError as error:
        raise ApiError(404, "") from error
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = (("Content-Type", type_), ("ETag", tag), *_HEADERS)
    if any(tag in value or value.strip() == "*" for value in request.header_values("If-None-Match")):
        return Response(304, headers[1:])
    return Response(200, headers, content)
