"""A typed client of fleetd's API over a unix socket, TCP or SSH.

Every failure becomes a ClientError that names the endpoint, the cause and the remedy.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fleetctl.endpoint import (
    Endpoint,
    TlsContext,
    choose_endpoint,
    find_login,
    open_bastion,
    open_transport,
    own_name,
    tls_contexts,
)
from fleetctl.errors import ApiError as ApiError
from fleetctl.errors import ClientError
from fleetctl.errors import NotFleet as NotFleet
from fleetctl.errors import Unreachable as Unreachable
from fleetctl.output import debug, printable
from fleetctl.request_paths import MAX_QUERY, cut_query, move_path, reboot_path, unit_path
from fleetctl.request_paths import put_operation as put_operation
from fleetctl.settings import Settings
from fleetd import __version__
from fleetd.api import schema
from fleetd.model.decoding import UNREADABLE

if TYPE_CHECKING:  # HTTP, TLS and SSH are slow to import, and --help does not need them
    from fleetctl.http_transport import Answer, StreamedLines
    from fleetctl.logins import Login
    from fleetctl.ssh.connection import Connection

T = TypeVar("T")
Page = TypeVar("Page", schema.UnitPage, schema.UnitStatePage, schema.MachinePage)

_PAGE_SIZE = 10_000
EVENT_SILENCE_S = 45.0  # of a stream of events, which has a mark each 15 s


class Client:
    """The API at one endpoint: one request at a time over one connection, each bounded by `timeout_s`.

    All traffic goes through the `bastion` if there is one. If a `login` is used, it learns now and then which servers
    were revoked.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        tls: "Sequence[TlsContext]" = (),
        bastion: "Connection | None" = None,
        login: "Login | None" = None,
    ) -> None:
        self.bastion = bastion
        self._learning = login
        self._endpoint = endpoint.text
        self._timeout_s = timeout_s
        self._socket = endpoint.socket
        self._is_users = endpoint.is_users
        self._open = partial(open_transport, endpoint, timeout_s, tls, bastion)
        self._transport = self._open()
        self._headers = {"User-Agent": f"fleetctl/{__version__}", "Accept": schema.JSON_TYPE}

    def unit(self, name: str) -> schema.Unit | None:
        """One unit with its options, None if it does not exist."""
        try:
            return self._get(unit_path(name), schema.Unit)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def content(self, name: str) -> schema.UnitContent | None:
        """One unit with its unit file and its drop-ins (an older fleetd has none), None if it does not exist."""
        try:
            return self._get(f"{schema.V2}/units/{quote(name, safe='', errors='surrogateescape')}", schema.UnitContent)
        except (ApiError, NotFleet) as error:
            if error.code not in (404, 405):
                raise
        unit = self.unit(name)
        return schema.UnitContent(name, 0, unit.desired_state, options=unit.options) if unit else None

    def units(self) -> list[schema.Unit]:
        """Every unit, by name."""
        units = [unit for page in self._pages("/units", schema.UnitPage) for unit in page.units]
        if any("." not in unit.name for unit in units):
            raise NotFleet(200, f"the API at {self._endpoint} lists a unit without a name: check --endpoint")
        return units

    def states(self, unit: str = "") -> list[schema.UnitState]:
        """The states that machines report of all units, or of this one."""
        query = {"unitName": unit} if unit else {}
        return [state for page in self._pages("/state", schema.UnitStatePage, query) for state in page.states]

    def machines(self) -> list[schema.Machine]:
        """Every machine, by id."""
        return [machine for page in self._pages("/machines", schema.MachinePage) for machine in page.machines]

    def forget_machine(self, id_: str) -> None:
        """Remove a parked machine from the cluster. Raises ApiError if it is not parked."""
        self._call("DELETE", f"{schema.V2}/machines/{quote(id_, safe='')}")

    def cluster(self) -> schema.ClusterReport:
        """What the cluster consists of."""
        return self._get(f"{schema.V2}/cluster", schema.ClusterReport)

    def machine_token(self, request: schema.MachineTokenRequest) -> schema.MachineToken:
        """A new join token. Raises ApiError if the machine that is asked has no authority."""
        return self._ask("POST", f"{schema.V2}/machine-tokens", request, schema.MachineToken)

    def rotate_authority(self) -> schema.NewAuthority:
        """Have another authority of the cluster made. Raises ApiError if the machine that is asked cannot."""
        return self._ask("POST", f"{schema.V2}/authorities", None, schema.NewAuthority)

    def remove_machine(self, id_: str, *, force: bool = False) -> None:
        """Remove a machine and revoke its certificates. Raises ApiError if it is unknown, or is in use."""
        body = msgspec.json.encode(schema.MachineRemoval(force))
        self._call("POST", f"{schema.V2}/machines/{quote(id_, safe='')}/remove", body)

    def cordon(self, id_: str, why: str) -> None:
        """Keep new units off a machine. Raises ApiError if it is unknown or absent."""
        body = msgspec.json.encode(schema.CordonRequest(why))
        self._call("PUT", f"{schema.V2}/machines/{quote(id_, safe='')}/cordon", body)

    def uncordon(self, id_: str) -> None:
        """Let a machine take new units again. Raises ApiError if it is unknown."""
        self._call("DELETE", f"{schema.V2}/machines/{quote(id_, safe='')}/cordon")

    def drain(self, id_: str, request: schema.DrainRequest) -> None:
        """Move the units of a machine to others. Raises ApiError if it is unknown, absent, leaving or parked."""
        self._call("PUT", f"{schema.V2}/machines/{quote(id_, safe='')}/drain", msgspec.json.encode(request))

    def drain_report(self, id_: str, units: Iterable[str] = ()) -> schema.DrainReport:
        """How far the drain of a machine has got: what is on it, and as many of these units as fit in a URL."""
        query = cut_query("unit", units)[:1]
        path = f"{schema.V2}/machines/{quote(id_, safe='')}/drain"
        return self._get("?".join([path, *query]), schema.DrainReport)

    def reboot(self, id_: str, request: schema.RebootRequest) -> schema.RebootReport:
        """Have a machine rebooted when its turn comes. Raises ApiError if it is unknown, absent, leaving or parked."""
        return self.exchange("PUT", reboot_path(id_), request, schema.RebootReport)

    def cancel_reboot(self, id_: str) -> None:
        """Take a machine out of the queue. Raises ApiError if it is rebooting already."""
        self._call("DELETE", reboot_path(id_))

    def reboots(self, ids: Iterable[str] = ()) -> dict[str, schema.RebootReport]:
        """The queue of reboots, in its order, and these machines in any case: machine → report."""
        wanted = list(ids)
        queries = cut_query("machine", wanted)
        if len(queries) <= 1:
            return self._get_reboots("".join(queries))
        found = self._get_reboots("")
        for query in cut_query("machine", (id_ for id_ in wanted if id_ not in found)):
            found |= self._get_reboots(query)
        return found

    def _get_reboots(self, query: str) -> dict[str, schema.RebootReport]:
        path = f"{schema.V2}/reboots" + (f"?{query}" if query else "")
        return {each.machine: each for each in self._ask("GET", path, None, schema.RebootReports).reboots}

    def host_keys(self, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The SSH host keys that these machines publish: machine → keys, each as `KIND BASE64`. An older fleetd, which
        knows of none, answers for none."""
        found: dict[str, tuple[str, ...]] = {}
        for query in cut_query("machine", ids):
            try:
                answer = self._get(f"{schema.V2}/host-keys?{query}", schema.MachineHostKeys)
            except (ApiError, NotFleet) as error:
                if error.code not in (404, 405):
                    raise
                return {}
            found |= {each.machine: each.keys for each in answer.host_keys}
        return found

    def services(self, name: str = "", index: int = 0, wait_s: int = 0) -> schema.Services:
        """What units announce under this name ('': under all), and while which checks fail. With the index of an
        earlier answer, waits for a change after that, for `wait_s` at most. Raises ApiError for what is no name."""
        path = f"{schema.V2}/services" + (f"/{quote(name, safe='')}" if name else "")
        query = urlencode({"index": index, "wait": f"{wait_s}s"}) if index else ""
        return self._get(f"{path}{'?' * bool(query)}{query}", schema.Services)

    def move(self, name: str, request: schema.MoveRequest) -> None:
        """Move a unit to a machine. Raises ApiError if it does not fit there."""
        self._call("PUT", move_path(name), msgspec.json.encode(request))

    def move_report(self, name: str) -> schema.MoveReport:
        """Where the move of a unit stands. Raises ApiError if there is no such unit."""
        return self._get(move_path(name), schema.MoveReport)

    def read_insight(self, asked: str) -> bytes:
        """The body of the answer to a GET of `journal?…` or `status?…` in version 2. Raises ApiError."""
        return self._call("GET", f"{schema.V2}/{asked}").content

    def stream(self, path: str, silence_s: float) -> Generator[bytes, None, None]:
        """The lines of a GET that is answered while there is something to say, over a connection of its own. Raises
        Unreachable also after a silence of so long."""
        with self.open_stream(path, silence_s) as lines:
            yield from lines

    @contextmanager
    def open_stream(self, path: str, silence_s: float, body: bytes | None = None) -> "Iterator[StreamedLines]":
        """The same, while the `with` block runs; of a POST if there is a body."""
        from http.client import HTTPException

        method = "GET" if body is None else "POST"
        debug(f"{method} {self._endpoint}{schema.V2}/{path}")
        transport = self._open()
        try:
            answer, lines = transport.stream(f"{schema.V2}/{path}", self._headers, silence_s, body)
            if answer.status != 200:
                raise self._api_error(answer, f"{method} {schema.V2}/{path.partition('?')[0]}")
            yield lines
        except TimeoutError as error:
            raise Unreachable(f"{self._endpoint} is silent: its fleetd hangs, or a firewall drops packets") from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            transport.close()

    def explain(self, name: str) -> schema.Explanation:
        """Why the unit is where it is. Raises ApiError if there is no such unit."""
        return self._get(f"{schema.V2}/explain/{quote(name, safe='')}", schema.Explanation)

    def resolve_image(self, image: str) -> schema.ResolvedImage:
        """The image by the digest that its tag has now. Raises ApiError if its registry does not give it."""
        return self._ask("POST", f"{schema.V2}/images", schema.ImageQuestion(image), schema.ResolvedImage)

    def plan(self, request: schema.PlanRequest) -> schema.Plan:
        """What would happen; nothing is changed. Raises ApiError if it cannot be planned."""
        return self._ask("POST", f"{schema.V2}/plan", request, schema.Plan)

    def rollouts(self, groups: Iterable[str] = ()) -> dict[str, schema.Rollout]:
        """The last rollouts of these groups, of those that had any, with their members; or of all, by group."""
        found: dict[str, schema.Rollout] = {}
        for query in cut_query("group", groups) or [""]:
            path = f"{schema.V2}/rollouts" + (f"?{query}" if query else "")
            found |= {rollout.group: rollout for rollout in self._ask("GET", path, None, schema.Rollouts).rollouts}
        return found

    def command_rollout(self, group: str, action: str, to: int = 0) -> None:
        """Pause, resume, continue, restart, or undo (to this version; 0: the last one that differs). Raises ApiError if
        it has no meaning for this group."""
        body = msgspec.json.encode(schema.RolloutCommand(action, to))
        self._call("POST", f"{schema.V2}/rollouts/{quote(group, safe='', errors='surrogateescape')}", body)

    def whoami(self) -> schema.WhoAmI:
        """Who the machine that is asked takes the user for, and what they may do."""
        return self._ask("GET", f"{schema.V2}/whoami", None, schema.WhoAmI)

    def login(self, request: schema.LoginRequest) -> schema.Login:
        """A certificate for https. Raises ApiError if the user may not have it."""
        answer = self._ask("POST", f"{schema.V2}/login", request, schema.Login)
        if not answer.servers:
            raise NotFleet(200, f"{self._endpoint} names no server: check --endpoint")
        return answer

    def revoked_machines(self) -> dict[str, float]:
        """Machine → Unix time before which its certificates do not count. An older fleetd names none. Raises ApiError
        if the machine that is asked serves no https."""
        found = self._get(f"{schema.V2}/authorities", schema.Authorities).revocations
        return {each.machine: each.before for each in found}

    def revoke(self, subject: str) -> None:
        """Revoke the certificates of a person or a service. Raises ApiError."""
        self._call("POST", f"{schema.V2}/revocations", msgspec.json.encode(schema.RevocationRequest(subject)))

    def secrets(self) -> list[schema.SecretReport]:
        """The secrets of the cluster without their values, by name."""
        return list(self._ask("GET", f"{schema.V2}/secrets", None, schema.SecretReports).secrets)

    def set_secret(self, name: str, change: schema.SecretChange) -> schema.SecretChanged:
        """Set a secret, or go back to its version before. Raises ApiError."""
        return self._ask("PUT", f"{schema.V2}/secrets/{quote(name, safe='')}", change, schema.SecretChanged)

    def remove_secret(self, name: str, *, force: bool = False) -> None:
        """Remove a secret. Raises ApiError, also while units name it, unless `force`."""
        self._call("DELETE", f"{schema.V2}/secrets/{quote(name, safe='')}{'?force=true' if force else ''}")

    def sets(self) -> list[schema.UnitSet]:
        """The sets of the cluster with their members, by name."""
        return list(self._ask("GET", f"{schema.V2}/sets", None, schema.UnitSets).sets)

    def settings(self) -> list[schema.Setting]:
        """The settings of the cluster, by name."""
        return list(self._ask("GET", f"{schema.V2}/settings", None, schema.Settings).settings)

    def change_settings(self, new: Mapping[str, str], unset: Sequence[str] = ()) -> None:
        """Set and unset settings of the cluster. Raises ApiError for a wrong name or value."""
        body = schema.SettingChanges(dict(new), tuple(unset))
        self._call("PATCH", f"{schema.V2}/settings", msgspec.json.encode(body))

    def reports(self, names: Iterable[str]) -> dict[str, schema.UnitReport]:
        """Reports on the existing units among these names."""
        return {name: report for name, report in self._reports(list(names)).items() if report.target}

    def every_report(self) -> dict[str, schema.UnitReport]:
        """Reports on all units, by name."""
        return {report.name: report for report in self._get_reports("").units if report.target}

    def remains(self, names: Iterable[str]) -> dict[str, schema.UnitReport]:
        """Reports on those of these units, existing or destroyed, that some machine still has."""
        return {name: report for name, report in self._reports(list(names)).items() if report.allocations}

    def _reports(self, names: Sequence[str]) -> dict[str, schema.UnitReport]:
        """Reports on units that exist or have allocations, in one request: a POST if the names do not fit in a URL."""
        query = urlencode([("name", name) for name in names], errors="surrogateescape")
        if not names:
            return {}
        if len(query) > MAX_QUERY:
            answer = self._ask("POST", f"{schema.V2}/reports", schema.ReportRequest(tuple(names)), schema.UnitReports)
        else:
            answer = self._get_reports(query)
        return {report.name: report for report in answer.units}

    def _get_reports(self, query: str) -> schema.UnitReports:
        return self._ask("GET", f"{schema.V2}/units" + (f"?{query}" if query else ""), None, schema.UnitReports)

    def carry_out(self, operations: Sequence[schema.UnitOperation]) -> dict[str, ApiError]:
        """Carry out the operations in as few requests as they fit in; returns the refusals by unit. Raises ClientError
        if it is unknown what was done."""
        from fleetctl.batches import cut_into_batches  # no list needs it

        refused: dict[str, ApiError] = {}
        for batch in cut_into_batches(operations):
            if len(batch) == 1 and batch[0].dropins is None and not batch[0].generation:
                refused |= self._carry_out_one(batch[0])
            else:
                body = schema.UnitOperations(tuple(batch))
                refused |= self._refusals(self._ask("POST", f"{schema.V2}/units", body, schema.Results))
        return refused

    def apply(self, request: schema.Apply) -> schema.Applied:
        """Apply units that belong together, or only plan that."""
        return self._ask("POST", f"{schema.V2}/apply", request, schema.Applied)

    def scale(self, request: schema.Scale) -> schema.Applied:
        """Set how many numbered instances a template has, or only plan that."""
        return self._ask("POST", f"{schema.V2}/scale", request, schema.Applied)

    def versions(self, group: str) -> tuple[schema.Version, ...]:
        """The last versions of a template with its instances, or of one unit, oldest first."""
        path = f"{schema.V2}/versions/{quote(group, safe='', errors='surrogateescape')}"
        return self._ask("GET", path, None, schema.Versions).versions

    def restart(self, names: Sequence[str]) -> dict[str, ApiError]:
        """Restart the units in place wherever they run; returns the refusals by unit."""
        return self._refusals(self._ask("POST", f"{schema.V2}/restart", schema.Restarts(tuple(names)), schema.Results))

    def _refusals(self, answer: schema.Results) -> dict[str, ApiError]:
        return {each.name: self._refusal(each.code, each.message) for each in answer.results if each.code >= 400}

    def _carry_out_one(self, operation: schema.UnitOperation) -> dict[str, ApiError]:
        """One operation by version 1 of the API, which costs fleetd one request to the store less."""
        try:
            if operation.destroy:
                self._call("DELETE", unit_path(operation.name))
            else:
                self.put_unit(operation)
        except ApiError as error:
            return {operation.name: error}
        return {}

    def put_unit(self, operation: schema.UnitOperation) -> None:
        """Create or change one unit by version 1 of the API. Raises ApiError if that is refused."""
        body = schema.Unit(name=operation.name, options=operation.options, desired_state=operation.desired_state)
        condition = {"If-None-Match": "*"} if operation.only_new else {}
        self._call("PUT", unit_path(operation.name), msgspec.json.encode(body), condition)

    def set_target(self, name: str, target: str) -> None:
        """Set a unit's target state. Setting the same state again starts a launched unit that has ended."""
        self.put_unit(schema.UnitOperation(name, desired_state=target))

    def events(self, query: Sequence[tuple[str, str]]) -> Generator[schema.Event, None, None]:
        """The lines of one stream of events over a connection of its own, until it ends. Raises ClientError."""
        with self.open_events(query) as lines:
            for line in lines:
                try:
                    yield msgspec.json.decode(line, type=schema.Event)
                except UNREADABLE as error:
                    raise NotFleet(200, f"the API at {self._endpoint} sends no events: check --endpoint") from error

    def open_events(self, query: Sequence[tuple[str, str]]) -> "AbstractContextManager[StreamedLines]":
        """The same, not decoded yet."""
        return self.open_stream(f"events?{urlencode(query, errors='surrogateescape')}", EVENT_SILENCE_S)

    def _pages(self, path: str, kind: type[Page], query: Mapping[str, str] = {}) -> Iterator[Page]:
        """Every page of a list. Raises NotFleet for a token that was seen before, which would never end."""
        seen = {""}
        token = ""
        while True:
            parameters = {"limit": _PAGE_SIZE, **query} | ({"nextPageToken": token} if token else {})
            page = self._get(f"{schema.V1}{path}?{urlencode(parameters, errors='surrogateescape')}", kind)
            yield page
            token = page.next_page_token
            if not token:
                return
            if token in seen:
                raise NotFleet(
                    200,
                    f"{self._endpoint} returns the same page of {path[1:]} again and again: check --endpoint",
                )
            seen.add(token)

    def _get(self, path: str, kind: type[T]) -> T:
        return self.exchange("GET", path, None, kind)

    def exchange(self, method: str, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        """One request to the API. Raises ApiError, also for what is not there."""
        answer = self._call(method, path, msgspec.json.encode(body) if body else None)
        return self._decode(answer, f"{method} {path.partition('?')[0]}", kind)

    def _decode(self, answer: "Answer", request: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except UNREADABLE as error:
            raise self._not_fleet(answer, request) from error

    def _ask(self, method: str, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        """One request to version 2 of the API. Raises NotFleet if the server does not know it."""
        try:
            return self.exchange(method, path, body, kind)
        except (ApiError, NotFleet) as error:
            if error.code not in (404, 405):
                raise
            raise NotFleet(
                error.code,
                f"{self._endpoint} does not answer {method} {path.partition('?')[0]} as fleet's API does (status "
                f"{error.code}): check --endpoint; if it is an older fleetd or CoreOS fleet, upgrade it or use its own "
                "fleetctl",
            ) from error

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> "Answer":
        """One request. Raises ClientError for any status but 2xx."""
        from http.client import HTTPException

        debug(f"{method} {self._endpoint}{path}")
        kind = {"Content-Type": schema.JSON_TYPE} if body is not None else {}
        user = {} if method == "GET" else {schema.USER_HEADER: own_name()}
        try:
            answer = self._transport.request(method, path, body, {**self._headers, **headers, **kind, **user})
        except TimeoutError as error:
            raise Unreachable(
                f"{self._endpoint} gave no answer within {self._timeout_s:g} s: its fleetd hangs, or a firewall drops "
                "packets; --request-timeout=SECONDS waits longer"
            ) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        debug(str(answer.status))
        if not 200 <= answer.status < 300:
            raise self._api_error(answer, f"{method} {path.partition('?')[0]}")
        self._learn_revocations()
        return answer

    def _learn_revocations(self) -> None:
        """Ask this server which ones are revoked, unless one was asked lately. No command fails because of that."""
        login, self._learning = self._learning, None
        if login is not None and not login.is_fresh():
            with suppress(ClientError, OSError):
                login.learn(self.revoked_machines())

    def _api_error(self, answer: "Answer", request: str) -> ClientError:
        try:
            message = msgspec.json.decode(answer.content, type=schema.ErrorEntity).error.message
        except UNREADABLE:
            if answer.status < 500:
                return self._not_fleet(answer, request)
            message = ""
        return self._refusal(answer.status, message)

    def _refusal(self, code: int, message: str) -> ApiError:
        message = printable(message) or f"{self._endpoint} gives no reason; see its log: journalctl -u fleet"
        return ApiError(code, f"Error {code}: {message}")

    def _not_fleet(self, answer: "Answer", request: str) -> NotFleet:
        kind = printable(answer.kind) or "no type"
        return NotFleet(
            answer.status,
            f"{self._endpoint} does not answer {request} as fleet's API does (status {answer.status}, {kind}): "
            "check --endpoint",
        )

    def _unreachable(self, error: Exception) -> Unreachable:
        from fleetctl.unreachable import explain

        return Unreachable(f"cannot reach fleetd at {self._endpoint}: {explain(error, self._socket, self._is_users)}")


def open_client(settings: Settings) -> Client:
    """The client that the global options describe. Connects only to the bastion yet. Raises CommandFailed."""
    endpoint = choose_endpoint(settings)
    tls = tls_contexts(settings, endpoint) if endpoint.tls else ()
    bastion = open_bastion(settings) if settings.tunnel else None
    return Client(endpoint, settings.request_timeout_s, tls, bastion, find_login(settings, endpoint))
