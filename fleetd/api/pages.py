"""Pages of a listing, and the tokens that name them (reference 4.3)."""

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import TypeVar

from fleetd.api.message import ApiError, Request

PARAMETER = "nextPageToken"
_TOKEN = struct.Struct("<HH")  # page size, page number from 1
_LAST_PAGE = 65535

Item = TypeVar("Item")


def parse_page(request: Request, limit: int) -> int:
    """The number of the page that a request asks for, from 1. Raises ApiError for a token that is not ours."""
    tokens = request.query_values(PARAMETER)
    if not tokens:
        return 1
    if len(tokens) > 1:
        raise ApiError(400, "too many values for page token")
    try:
        token_limit, page = _TOKEN.unpack(base64.b64decode(tokens[0], altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, struct.error) as error:
        raise _not_ours(tokens[0]) from error
    if token_limit != limit:
        raise ApiError(400, f"token limit must be {limit}")
    if page == 0:
        raise ApiError(400, "token page must be greater than zero")
    if render_token(limit, page) != tokens[0]:
        raise _not_ours(tokens[0])
    return int(page)


def _not_ours(token: str) -> ApiError:
    return ApiError(
        400, f'"{token}" is no page token of this server: leave {PARAMETER} out to begin with the first page'
    )


def render_token(limit: int, page: int) -> str:
    """The token of a page."""
    return base64.urlsafe_b64encode(_TOKEN.pack(limit, page)).decode()


def cut_page(items: Sequence[Item], page: int, limit: int) -> tuple[Sequence[Item], str]:
    """The items of one page, and the token of the next one ('' where there is none).

    The last page that a token can name holds all that is left, so that no listing is too long.
    """
    start = (page - 1) * limit
    if page == _LAST_PAGE or len(items) <= start + limit:
        return items[start:], ""
    return items[start : start + limit], render_token(limit, page + 1)
