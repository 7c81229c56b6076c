"""What a request and a response are to the handlers, and how their JSON reads and looks (reference 4.1).

No sockets and no HTTP library: server.py carries these over the wire, the simulator hands them over in person.
"""

from typing import Any, TypeVar

import msgspec

from fleetd.api.schema import JSON_TYPE, ErrorDetail, ErrorEntity
from fleetd.model.decoding import UNREADABLE
from fleetd.registry.records import MalformedRecord
from fleetd.store.protocol import Unavailable

MAX_BODY_BYTES = 2 * 1024 * 1024
NO_STORE = "fleet server unable to communicate with etcd"

_ENCODER = msgspec.json.Encoder(order="sorted")
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))

Shape = TypeVar("Shape")


class Request(msgspec.Struct, frozen=True):
    """One request. `path` and `query` are percent-decoded. `local` says that it came over a unix socket, whose other
    end is trusted; `metrics_only` that it came over a socket for figures, whose other end may be anybody."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    local: bool = False
    metrics_only: bool = False

    def query_values(self, name: str) -> list[str]:
        """The values of a query parameter, in order."""
        return [value for key, value in self.query if key == name]

    def header_values(self, name: str) -> list[str]:
        """The values of a header, in order; its name's case does not matter."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Response(msgspec.Struct, frozen=True):
    """One response, whole."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class ApiError(Exception):
    """The request is not done: an HTTP status of 400 and above, and what to tell the client."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def render_json(value: msgspec.Struct | dict[str, Any], status: int = 200) -> Response:
    """A response that carries this value: compact, keys in alphabetical order, safe inside HTML."""
    body = _ENCODER.encode(value)
    for plain, escaped in _ESCAPES:  # these stand in strings only, so the text can be treated as a whole
        body = body.replace(plain, escaped)
    return Response(status, (("Content-Type", JSON_TYPE),), body)


def render_error(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A response that is an error. The message may quote what a client sent, be it text or not."""
    text = message.encode(errors="backslashreplace").decode()
    response = render_json(ErrorEntity(ErrorDetail(status, text)), status)
    return Response(status, response.headers + headers, response.body)


def refusal_of(error: ApiError | MalformedRecord | Unavailable) -> ApiError:
    """What a client is told of this error."""
    if isinstance(error, Unavailable):
        return ApiError(503, f"{NO_STORE}: {error}")
    if isinstance(error, MalformedRecord):
        return ApiError(500, f"{error}; mend or delete this key in the store")
    return error


def check_is_json(request: Request) -> None:
    """Raises ApiError for a request that does not say, exactly once, that its body is JSON."""
    types = request.header_values("Content-Type")
    if len(types) != 1:
        raise ApiError(415, f"expected 1 Content-Type, got {len(types)}")
    if types[0].partition(";")[0].strip().lower() != JSON_TYPE:
        raise ApiError(415, f"only acceptable Content-Type is {JSON_TYPE}")


def parse_json(body: bytes, shape: type[Shape]) -> Shape:
    """The body as this shape, whose field names are in lower case. Raises ApiError.

    The case of keys is ignored, keys unknown to the shape are too, and null counts as absent.
    """
    try:
        return msgspec.convert(_fold(msgspec.json.decode(body)), shape)
    except RecursionError as error:
        raise ApiError(400, "unable to decode body: it is nested too deeply") from error
    except UNREADABLE as error:
        raise ApiError(400, f"unable to decode body: {error}") from error


def _fold(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.lower(): _fold(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_fold(item) for item in value]
    return value
