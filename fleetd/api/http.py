"""Routes, requests and responses as the handlers see them, and their JSON, without sockets and HTTP library."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from fleetd.api import schema
from fleetd.api.schema import JSON_TYPE, ErrorDetail, ErrorEntity
from fleetd.model.actor import Actor
from fleetd.model.certificate import CertificateIdentity
from fleetd.model.decoding import UNREADABLE
from fleetd.model.permission import EVERY_NAME, Permission
from fleetd.registry.records import MalformedRecord, NewerRecord
from fleetd.store.protocol import Unavailable

NO_STORE = "fleet server unable to communicate with etcd"

_ENCODER = msgspec.json.Encoder(order="sorted")
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))

_STRUCTS = (type_ for type_ in vars(schema).values() if isinstance(type_, type) and issubclass(type_, msgspec.Struct))
_FIELDS = {name.lower(): name for struct in _STRUCTS for name in struct.__struct_encode_fields__}

Shape = TypeVar("Shape")


class Request(msgspec.Struct, frozen=True):
    """One request; `path` and `query` are percent-decoded.

    `local`: it came over a unix socket. `metrics_only`: it came over a socket that serves only metrics, to anybody.
    `actor` is who makes it. Over https that is known by `certificate`, which is None if none counts; `refusal` says why
    then, as status and words, and only routes for anybody (`Route.anonymous`) are served.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    local: bool = False
    metrics_only: bool = False
    actor: Actor = Actor()
    certificate: CertificateIdentity | None = None
    refusal: tuple[int, str] = (0, "")

    def query_values(self, name: str) -> list[str]:
        """The values of a query parameter, in order."""
        return [value for key, value in self.query if key == name]

    def header_values(self, name: str) -> list[str]:
        """The values of a header, in order; the case of its name is ignored."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def user(self) -> str:
        """Who asks, for people to read; '' if unknown."""
        return self.actor.name

    def check_permission(self, permission: Permission, names: Iterable[str] = (EVERY_NAME,)) -> None:
        """Raises ApiError unless the client may do this to these units."""
        if refusal := self.actor.refuse(permission, names):
            raise ApiError(403, refusal)


class Response(msgspec.Struct, frozen=True):
    """One complete response."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class StreamedResponse(msgspec.Struct, frozen=True):
    """A response whose body is made while it is sent. The server closes `chunks` as soon as the client is gone, or does
    not read."""

    status: int
    chunks: AsyncGenerator[bytes, None]
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request, str], Awaitable[Response | StreamedResponse]]


class Route(msgspec.Struct, frozen=True):
    """One method of one path. The handler gets the value of the parameter that the path may have (`/{machine}`), ''
    if it has none. It is called for those who have the permission `needs` for everything, or, `by_name`, for some
    units at least: then it checks itself for which. If `needs` is None, it is called for everybody who may connect
    and is known; `anonymous`: over https without a certificate, too; `for_servers`: with the certificate of a server,
    too. Workers have it only if it is `on_workers`, for they know only what concerns themselves. If it
    `has_token`, a request with the header Fleet-Token is answered with such a header, too: its token (model/token.py)
    is that after which events tell what the answer does not show.

    The OpenAPI description is made of the handler's docstring, the types of the body and of the answer (None: there is
    none, dict: any object, list: an array of objects, bytes: text), `query`, the names of parameters that may be
    repeated, and `options`, of those that may not, with spaces between them. If it `is_streamed`, the answer is many of
    this type, one a line. What `is_page` is a file of the web page, and is not described.
    """

    method: str
    path: str
    handler: Handler
    needs: Permission | None
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct | dict[str, Any] | list[Any] | bytes] | None = None
    query: str = ""
    options: str = ""
    by_name: bool = False
    anonymous: bool = False
    for_servers: bool = False
    on_workers: bool = False
    has_token: bool = False
    is_streamed: bool = False
    is_page: bool = False

    @property
    def parameter(self) -> str:
        """The name of the parameter of the path, '' if it has none."""
        return self.path.partition("{")[2].partition("}")[0]


class ApiError(Exception):
    """The request failed: an HTTP status of 400 or above, and the message for the client."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def render_json(value: msgspec.Struct | dict[str, Any], status: int = 200) -> Response:
    """A response with this value as compact JSON: keys in alphabetical order, safe inside HTML."""
    body = _ENCODER.encode(value)
    for plain, escaped in _ESCAPES:  # in JSON they occur only inside strings
        body = body.replace(plain, escaped)
    return Response(status, (("Content-Type", JSON_TYPE),), body)


def render_error(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """An error response. The message may quote bytes of the client that are not UTF-8."""
    text = message.encode(errors="backslashreplace").decode()
    response = render_json(ErrorEntity(ErrorDetail(status, text)), status)
    return Response(status, response.headers + headers, response.body)


def to_api_error(error: ApiError | MalformedRecord | Unavailable, no_store: str = NO_STORE) -> ApiError:
    """The error as the client sees it."""
    if isinstance(error, Unavailable):
        return ApiError(503, f"{no_store}: {error}")
    if isinstance(error, NewerRecord):
        return ApiError(500, str(error))
    if isinstance(error, MalformedRecord):
        return ApiError(500, f"{error}; repair or delete this key in the store")
    return error


def check_is_json(request: Request) -> None:
    """Raises ApiError unless exactly one Content-Type says that the body is JSON."""
    types = request.header_values("Content-Type")
    if len(types) != 1:
        raise ApiError(415, f"expected 1 Content-Type, got {len(types)}")
    if types[0].partition(";")[0].strip().lower() != JSON_TYPE:
        raise ApiError(415, f"only acceptable Content-Type is {JSON_TYPE}")


def parse_json(body: bytes, shape: type[Shape]) -> Shape:
    """The body as this type. Raises ApiError.

    As CoreOS fleet does it: the case of keys is ignored, and so are unknown keys; null counts as absent.
    """
    try:
        return msgspec.convert(_fold(msgspec.json.decode(body)), shape)
    except RecursionError as error:
        raise ApiError(400, "unable to decode body: nested too deeply") from error
    except UNREADABLE as error:
        raise ApiError(400, f"unable to decode body: {error}") from error


def _fold(value: Any) -> Any:
    if isinstance(value, dict):
        named = ((key.lower(), item) for key, item in value.items() if item is not None)
        return {_FIELDS.get(key, key): _fold(item) for key, item in named}
    if isinstance(value, list):
        return [_fold(item) for item in value]
    return value
