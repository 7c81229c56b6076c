"""Pages of a listing, and their tokens.

A token holds the last key shown and the store's revision then. The next page begins after that key, so whatever exists
all the while is shown exactly once. Pages are read as of now, not as of that revision, which the store may have
compacted; the revision only tells that the store was restored meanwhile, and the listing has to begin anew.
The tokens of CoreOS fleet, which count entries, are accepted and not issued.
"""

import base64
import binascii
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from fleetd.api.http import ApiError, Request
from fleetd.registry.records import Kind, Record
from fleetd.registry.registry import Reader

TOKEN = "nextPageToken"  # noqa: S105 (the parameter's name)
LIMIT = "limit"
MAX_LIMIT = 10_000
_OLD_TOKEN = struct.Struct("<HH")  # page size, page number from 1
_TOKEN = struct.Struct("<BQ")  # format, revision; the last entry's key follows
_FORMAT = 1
_NUMBER = re.compile("[1-9][0-9]{0,8}")

Item = TypeVar("Item")
R = TypeVar("R", bound=Record)


class Page(msgspec.Struct, frozen=True):
    """A requested page: at most `limit` entries after the key `after` ('': from the first), less the first `skip`.

    `revision` is that of the previous page, 0 for none.
    """

    limit: int
    after: str = ""
    revision: int = 0
    skip: int = 0

    @property
    def is_first(self) -> bool:
        """True for the first page of a listing."""
        return not self.after and not self.skip


def parse_page(request: Request, token_limit: int) -> Page:
    """The page that a request asks for; `token_limit` is the default size. Raises ApiError."""
    limit = _parse_limit(request, token_limit)
    tokens = request.query_values(TOKEN)
    if not tokens:
        return Page(limit)
    if len(tokens) > 1:
        raise ApiError(400, "too many values for page token")
    try:
        raw = base64.b64decode(tokens[0], altchars=b"-_", validate=True)
        page = _parse_old_token(raw, limit, token_limit) if len(raw) == _OLD_TOKEN.size else _parse_token(raw, limit)
    except (binascii.Error, ValueError, struct.error) as error:
        raise _invalid_token(tokens[0]) from error
    if base64.urlsafe_b64encode(raw).decode() != tokens[0]:
        raise _invalid_token(tokens[0])
    return page


def _parse_limit(request: Request, token_limit: int) -> int:
    values = request.query_values(LIMIT)
    if not values:
        return token_limit
    if len(values) > 1 or not _NUMBER.fullmatch(values[0]):
        raise ApiError(400, f"{LIMIT} must be one integer from 1; more than {MAX_LIMIT} counts as {MAX_LIMIT}")
    return min(int(values[0]), MAX_LIMIT)


def _parse_old_token(raw: bytes, limit: int, token_limit: int) -> Page:
    asked_limit, number = _OLD_TOKEN.unpack(raw)
    if asked_limit != token_limit:
        raise ApiError(400, f"token limit must be {token_limit}")
    if number == 0:
        raise ApiError(400, "token page must be greater than zero")
    return Page(limit, skip=(number - 1) * token_limit)


def _parse_token(raw: bytes, limit: int) -> Page:
    """Raises struct.error or ValueError (also UnicodeDecodeError) for bytes that are not a token."""
    format_, revision = _TOKEN.unpack_from(raw)
    after = raw[_TOKEN.size :].decode()
    if format_ != _FORMAT or revision == 0 or not after:
        raise ValueError("not a token")
    return Page(limit, after, revision)


def _invalid_token(token: str) -> ApiError:
    return ApiError(400, f'"{token}" is not a page token of this server: omit {TOKEN} to begin with the first page')


def render_token(revision: int, last: str) -> str:
    """The token of the page after this entry."""
    return base64.urlsafe_b64encode(_TOKEN.pack(_FORMAT, revision) + last.encode()).decode()


def _check_revision(page: Page, revision: int) -> None:
    if page.revision > revision:
        raise ApiError(
            400,
            f"the store has been restored since this page token was issued: omit {TOKEN} to begin with the first page",
        )


async def read_page(registry: Reader, kind: Kind[R], page: Page) -> tuple[dict[str, R], str]:
    """The records of one page by name, in order, and the token of the next page ('' for none). Raises ApiError."""
    part = await registry.read_page(kind, after=page.after, limit=page.skip + page.limit)
    _check_revision(page, part.revision)
    records = {names[0]: record for names, record in islice(part.records.items(), page.skip, None)}
    return records, render_token(part.revision, part.last) if part.has_more else ""


def cut_page(items: Sequence[Item], key: Callable[[Item], str], page: Page, revision: int) -> tuple[list[Item], str]:
    """One page of a listing that was read whole at this revision, sorted by key, and the token of the next."""
    _check_revision(page, revision)
    start = bisect_right(items, page.after, key=key) + page.skip
    shown = list(items[start : start + page.limit])
    has_more = len(items) > start + page.limit
    return shown, render_token(revision, key(shown[-1])) if has_more else ""
