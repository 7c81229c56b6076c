"""The daemon's API, typed: one method a question or wish, over a unix socket or TCP.

Every failure becomes a ClientError that names the endpoint, the cause and what to do. What the answers mean for a
command is not decided here.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fleetctl.endpoint import Endpoint, choose_endpoint, tls_context
from fleetctl.errors import ClientError, CommandFailed, SshFailed
from fleetctl.log import LOG
from fleetctl.output import printable
from fleetctl.settings import Settings
from fleetd import __version__
from fleetd.api import schema
from fleetd.model.decoding import UNREADABLE

if TYPE_CHECKING:  # what speaks HTTP, TLS or SSH is costly to import: help must come without
    import ssl

    from fleetctl.ssh.connection import Connection
    from fleetctl.transport import Answer, Transport
    from fleetd.model.unitfile import Option

T = TypeVar("T")
Page = TypeVar("Page", schema.UnitPage, schema.UnitStatePage, schema.MachinePage)

# What a URL may take up. HTTP servers refuse longer request lines than 8 KiB, some proxies less.
_MAX_QUERY = 4000
_BATCH_UNITS = 128  # what one transaction of the store holds: an answer must come in time
_BATCH_BYTES = 1024 * 1024
_FEW = 8  # units that are asked for one by one where they cannot be together
_PAGE_SIZE = 10_000  # a server that does not know of the wish sends pages of its own size
_DAEMON_HERE = "is fleetd running here? See systemctl status fleet, or name another machine's API with --endpoint"
_DAEMON_THERE = "is fleetd running there, with its API open on this port? --endpoint names another"
_REMEDIES = {
    errno.ENOENT: ("no such socket", _DAEMON_HERE),
    errno.EACCES: ("permission denied", "run as root, or as a user in the group fleet (usermod -aG fleet USER)"),
    errno.EPERM: ("permission denied", "run as root, or as a user in the group fleet (usermod -aG fleet USER)"),
}


class Unreachable(ClientError):
    """No answer came. What was asked may have been done all the same."""

    may_pass = True


class NotFleet(ClientError):
    """Something answered that does not speak fleet's API, with an HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class ApiError(ClientError):
    """The API said no, with an HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.may_pass = code >= 500


class Client:
    """The API at one endpoint. Requests go one after the other over one connection, each bounded by `timeout_s`.

    With a `bastion`, all goes through that.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        tls: "ssl.SSLContext | None" = None,
        bastion: "Connection | None" = None,
    ) -> None:
        self.bastion = bastion
        self._endpoint = endpoint.text
        self._timeout_s = timeout_s
        self._socket = endpoint.socket
        self._transport: Transport
        if bastion is None:
            from fleetctl.transport import DirectTransport

            self._transport = DirectTransport(endpoint, timeout_s, tls)
        else:
            from fleetctl.ssh.tunnel import TunnelTransport

            self._transport = TunnelTransport(bastion, endpoint, timeout_s, tls)
        self._headers = {"User-Agent": f"fleetctl/{__version__}", "Accept": schema.JSON_TYPE}
        self._unknown: set[str] = set()  # requests that this server does not know

    def unit(self, name: str) -> schema.Unit | None:
        """One unit with its options, or None where there is none of this name."""
        try:
            return self._get(_unit_path(name), schema.Unit)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def units(self) -> list[schema.Unit]:
        """Every unit, by name."""
        units = [unit for page in self._pages("/units", schema.UnitPage) for unit in page.units]
        if any("." not in unit.name for unit in units):
            raise NotFleet(200, f"the API at {self._endpoint} lists a unit without a name: check --endpoint")
        return units

    def states(self, unit: str = "") -> list[schema.UnitState]:
        """What machines report: of one unit, or of all."""
        query = [("unitName", unit)] if unit else []
        return [state for page in self._pages("/state", schema.UnitStatePage, query) for state in page.states]

    def machines(self) -> list[schema.Machine]:
        """Every machine that is there, by id."""
        return [machine for page in self._pages("/machines", schema.MachinePage) for machine in page.machines]

    def forget_machine(self, id_: str) -> None:
        """Give up a machine that is parked. Raises ApiError where it is not."""
        self._call("DELETE", f"{schema.V2}/machines/{quote(id_, safe='')}")

    def reports(self, names: Iterable[str]) -> dict[str, schema.UnitReport]:
        """How the units of these names stand, by name; those that do not exist are left out, copies or not."""
        return {name: report for name, report in self._all_reports(list(names)).items() if report.target}

    def every_report(self) -> dict[str, schema.UnitReport]:
        """How all units stand, by name."""
        answer = self._get_reports("")
        reports = {report.name: report for report in answer.units} if answer else self._reports_of_version_one(None)
        return {name: report for name, report in reports.items() if report.target}

    def remains(self, names: Iterable[str]) -> dict[str, schema.UnitReport]:
        """The same of those that any machine has a copy of, be they destroyed or not."""
        return {name: report for name, report in self._all_reports(list(names)).items() if report.allocations}

    def _all_reports(self, names: Sequence[str]) -> dict[str, schema.UnitReport]:
        """Reports on what exists, or has copies: all in one request where the API takes so many names."""
        answer = None
        if sum(map(len, names)) > _MAX_QUERY // 2:
            answer = self._post(f"{schema.V2}/reports", schema.Question(tuple(names)), schema.UnitReports)
        queries = () if answer else _cut_query([("name", name) for name in names])
        answers = [answer] if answer else [self._get_reports(query) for query in queries]
        if None in answers:
            return self._reports_of_version_one(names)
        return {report.name: report for each in answers if each for report in each.units}

    def _get_reports(self, query: str) -> schema.UnitReports | None:
        return self._try("GET", f"{schema.V2}/units", query, None, schema.UnitReports)

    def _reports_of_version_one(self, names: Sequence[str] | None) -> dict[str, schema.UnitReport]:
        """On these names, or (None) on all units."""
        from fleetctl.version_one import describe_units  # most servers know version 2

        addresses = {machine.id: machine.primary_ip for machine in self.machines()}
        if names is None or len(names) > _FEW:
            found, states = self.units(), self.states()
        else:
            found = [unit for unit in map(self.unit, names) if unit]
            states = [state for name in names for state in self.states(name)]
        units = {unit.name: unit for unit in found}
        asked = units if names is None else names
        return describe_units([units.get(name, schema.Unit(name)) for name in asked], states, addresses)

    def carry_out(self, operations: Sequence[schema.UnitOperation]) -> dict[str, ApiError]:
        """Have each wish done, all in one request where they fit, and the API takes more than one; of those that were
        refused the errors, by unit. Raises ClientError where it is not known what was done."""
        refused: dict[str, ApiError] = {}
        for batch in cut_wishes(operations):
            body = schema.UnitOperations(tuple(batch))
            answer = self._post(f"{schema.V2}/units", body, schema.Results) if len(batch) > 1 else None
            if answer is None:
                refused |= self._carry_out_singly(batch)
            else:
                failed = (result for result in answer.results if result.code >= 400)
                refused |= {each.name: self._refusal(each.code, each.message) for each in failed}
        return refused

    def _carry_out_singly(self, operations: Iterable[schema.UnitOperation]) -> dict[str, ApiError]:
        refused: dict[str, ApiError] = {}
        for operation in operations:
            try:
                self._carry_out_one(operation)
            except ApiError as error:
                refused[operation.name] = error
        return refused

    def _carry_out_one(self, operation: schema.UnitOperation) -> None:
        """What version 1 has words for. A server that does not know of `only_new` passes over it."""
        if operation.destroy:
            self._call("DELETE", _unit_path(operation.name))
            return
        body = schema.Unit(name=operation.name, options=operation.options, desired_state=operation.desired_state)
        condition = {"If-None-Match": "*"} if operation.only_new else {}
        self._call("PUT", _unit_path(operation.name), msgspec.json.encode(body), condition)

    def put_unit(self, name: str, options: "Sequence[Option]", target: str) -> None:
        """Create the unit, or replace its content, and set its target state, all at once."""
        self._carry_out_one(wish_content(name, options, target))

    def set_target(self, name: str, target: str) -> None:
        """Say what is wanted of a unit. Saying it again is a new wish: a unit that has ended is started once more."""
        self._carry_out_one(schema.UnitOperation(name, desired_state=target))

    def restart(self, names: Sequence[str]) -> dict[str, ApiError] | None:
        """Have the units started anew wherever they run, as systemd restarts them; of those that were refused the
        errors, by unit. None: the API does not know how, and has done nothing."""
        answer = self._post(f"{schema.V2}/restart", schema.Restarts(tuple(names)), schema.Results)
        if answer is None:
            return None
        failed = (result for result in answer.results if result.code >= 400)
        return {each.name: self._refusal(each.code, each.message) for each in failed}

    def _pages(self, path: str, kind: type[Page], query: Sequence[tuple[str, str]] = ()) -> Iterator[Page]:
        """Every page of a list. A token that comes twice would have no end."""
        seen = {""}
        token = ""
        while True:
            parameters = [*query, ("limit", str(_PAGE_SIZE))] + ([("nextPageToken", token)] if token else [])
            page = self._get(f"{schema.V1}{path}?{urlencode(parameters, errors='surrogateescape')}", kind)
            yield page
            token = page.next_page_token
            if not token:
                return
            if token in seen:
                raise NotFleet(
                    200, f"the API at {self._endpoint} hands out the same page of {path[1:]} again and again"
                )
            seen.add(token)

    def _get(self, path: str, kind: type[T]) -> T:
        return self._decode(self._call("GET", path), f"GET {path.partition('?')[0]}", kind)

    def _decode(self, answer: "Answer", request: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except UNREADABLE as error:
            raise self._not_fleet(answer, request) from error

    def _post(self, path: str, body: msgspec.Struct, kind: type[T]) -> T | None:
        return self._try("POST", path, "", msgspec.json.encode(body), kind)

    def _try(self, method: str, path: str, query: str, body: bytes | None, kind: type[T]) -> T | None:
        """What the API answers, None where it is one that does not know of this (yet). It is asked but once then."""
        request = f"{method} {path}"
        if request in self._unknown:
            return None
        try:
            answer = self._call(method, f"{path}?{query}" if query else path, body)
        except (ApiError, NotFleet) as error:  # the original's words for a path that it does not know are no API's
            if error.code not in (404, 405):
                raise
            self._unknown.add(request)
            return None
        return self._decode(answer, request, kind)

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> "Answer":
        """One request; any answer but a 2xx is an error."""
        from http.client import HTTPException

        LOG.debug("%s %s%s", method, self._endpoint, path)
        kind = {"Content-Type": schema.JSON_TYPE} if body is not None else {}
        try:
            answer = self._transport.request(method, path, body, {**self._headers, **headers, **kind})
        except TimeoutError as error:
            raise Unreachable(
                f"{self._endpoint} gave no answer within {self._timeout_s:g} s: its fleetd hangs, or the way there is "
                "blocked; --request-timeout=SECONDS waits longer"
            ) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        LOG.debug("%s", answer.status)
        if not 200 <= answer.status < 300:
            raise self._api_error(answer, f"{method} {path.partition('?')[0]}")
        return answer

    def _api_error(self, answer: "Answer", request: str) -> ClientError:
        try:
            message = msgspec.json.decode(answer.content, type=schema.ErrorEntity).error.message
        except UNREADABLE:
            if answer.status < 500:
                return self._not_fleet(answer, request)
            message = ""
        return self._refusal(answer.status, message)

    def _refusal(self, code: int, message: str) -> ApiError:
        message = printable(message) or f"{self._endpoint} gives no reason; its log may: journalctl -u fleet"
        return ApiError(code, f"Error {code}: {message}")

    def _not_fleet(self, answer: "Answer", request: str) -> NotFleet:
        kind = printable(answer.kind) or "no type"
        return NotFleet(
            answer.status,
            f"{self._endpoint} does not answer {request} as fleet's API does (status {answer.status}, {kind}): "
            "check --endpoint",
        )

    def _unreachable(self, error: Exception) -> Unreachable:
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            text, remedy = error.verify_message, "--ca-file names the authority that signed its certificate"
        elif self._socket and isinstance(error, OSError) and error.errno in _REMEDIES:
            text, remedy = _REMEDIES[error.errno]
        else:
            text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            remedy = _DAEMON_HERE if self._socket else _DAEMON_THERE
        return Unreachable(f"cannot reach fleetd at {self._endpoint}: {printable(text).lower()}; {remedy}")


def _unit_path(name: str) -> str:
    return f"{schema.V1}/units/{quote(name, safe='', errors='surrogateescape')}"


def wish_content(
    name: str, options: "Sequence[Option]", target: str, *, only_new: bool = False
) -> schema.UnitOperation:
    """The wish for a unit of this content and target state; with `only_new` only where there is none of this name."""
    entities = tuple(schema.UnitOption(option.section, option.name, option.value) for option in options)
    return schema.UnitOperation(name, entities, target, only_new)


def cut_wishes(operations: Iterable[schema.UnitOperation]) -> Iterator[list[schema.UnitOperation]]:
    """The wishes in their order, in batches that the API takes."""
    batch: list[schema.UnitOperation] = []
    size = 0
    for operation in operations:
        length = len(msgspec.json.encode(operation))
        if batch and (len(batch) == _BATCH_UNITS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        size += length
    if batch:
        yield batch


def _cut_query(parameters: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The parameters as query strings of bounded length: one, unless there are hundreds of names."""
    query = ""
    for parameter in parameters:
        part = urlencode([parameter], errors="surrogateescape")
        if query and len(query) + len(part) > _MAX_QUERY:
            yield query
            query = ""
        query += ("&" if query else "") + part
    if query:
        yield query


def open_client(settings: Settings) -> Client:
    """A client as the global options ask for. Connects to nothing yet but the bastion. Raises CommandFailed."""
    endpoint = choose_endpoint(settings)
    tls = tls_context(settings) if endpoint.tls else None
    bastion = _open_bastion(settings) if settings.tunnel else None
    return Client(endpoint, settings.request_timeout_s, tls, bastion)


def _open_bastion(settings: Settings) -> "Connection":
    from fleetctl.ssh.connection import connect_to_bastion

    try:
        return connect_to_bastion(settings)
    except SshFailed as error:
        raise CommandFailed(f"Unable to initialize client: failed initializing SSH client: {error}") from error
