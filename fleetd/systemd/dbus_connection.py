"""The connection to systemd's bus: calls with limits, and automatic reconnection.

Only this module knows the D-Bus library: dbus-next, or dbus-fast, its maintained and faster fork, which has the same
low-level interface.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from fleetd import metrics
from fleetd.aio import Backoff
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManagerError

LIBRARIES = ("dbus_fast", "dbus_next")  # the first one that is installed is used
MAX_CALLS_IN_FLIGHT = 64  # both libraries drop the connection when some 350 fill the socket's buffer
CALL_TIMEOUT_S = 25.0
RETRY_FIRST_S = 0.1
RETRY_LONGEST_S = 5.0
JOIN_ATTEMPTS = 50

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = f"{SYSTEMD}.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
UNIT_PATH = f"{MANAGER_PATH}/unit"
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"

# Signals to accept: (interface, member) → signature of the body. Anybody on the bus may send any signal to anybody, so
# `_receive` checks the sender. The bus itself checks the senders of method returns.
_OWNER_CHANGED = (BUS, "NameOwnerChanged")
_SIGNATURES = {
    _OWNER_CHANGED: "sss",
    (PROPERTIES, "PropertiesChanged"): "sa{sv}as",
    (MANAGER, "JobRemoved"): "uoss",
    (MANAGER, "Reloading"): "b",
}
_TO_ESCAPE = re.compile(r"^[0-9]|[^A-Za-z0-9]")
NOBODY_THERE = tuple(f"{BUS}.Error.{error}" for error in ("ServiceUnknown", "NameHasNoOwner"))
_NO_ANSWER = tuple(f"{BUS}.Error.{error}" for error in ("NoReply", "Disconnected", "Timeout", "TimedOut"))
_SUBSCRIPTIONS = (
    f"type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',member='PropertiesChanged',"
    f"path_namespace='{UNIT_PATH}',arg0='{SYSTEMD}.Unit'",
    f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'",
    f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'",
    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'",
)


class RefusedBySystemd(ServiceManagerError):
    """systemd, or another program on its bus, answered with an error; `code` is its D-Bus name."""

    def __init__(self, request: str, code: str, message: str) -> None:
        super().__init__(f"{request}: {message}")
        self.code = code


class NotOnBus(ManagerUnavailable):
    """The bus is there, and systemd is not on it."""


def _error(request: str, destination: str, code: str, message: str) -> ServiceManagerError:
    if code in NOBODY_THERE and destination in (SYSTEMD, BUS):
        return NotOnBus(f"{request}: systemd is not on the bus ({message}); to have it reconnect: kill -USR1 1")
    if code in _NO_ANSWER:
        return ManagerUnavailable(f"{request}: {message}")
    return RefusedBySystemd(request, code, message)


def installed_library() -> str:
    """Return the D-Bus library to use. dbus-next is always installed, dbus-fast with the extra `speed`."""
    return next(library for library in LIBRARIES if importlib.util.find_spec(library))


def object_path(name: str) -> str:
    """Return the D-Bus object path of a unit."""
    return f"{UNIT_PATH}/{_TO_ESCAPE.sub(_escape, name)}"


def _escape(found: re.Match[str]) -> str:
    return f"_{ord(found[0]):02x}"


class SystemBus:
    """A connection to systemd's bus. `on_connected` is awaited at the end of each connection attempt; `on_signal` is
    called with each subscribed signal of systemd's, as (path, member, body)."""

    def __init__(
        self,
        on_connected: Callable[[], Awaitable[None]],
        on_signal: Callable[[str, str, Sequence[Any]], None],
        *,
        library: str | None,
        user: bool,
        address: str | None = None,
    ) -> None:
        self._on_connected = on_connected
        self._on_signal = on_signal
        chosen = library or installed_library()
        self._library = importlib.import_module(chosen)
        self._open = importlib.import_module(f"{chosen}.aio").MessageBus
        self._address = address
        self._is_user = user
        self._type = self._library.BusType.SESSION if user else self._library.BusType.SYSTEM
        self._name = "the user's bus" if user else "the system bus"
        self._remedy = "check DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR" if user else "see systemctl status dbus"
        self._errors = tuple(
            getattr(self._library, name) for name in ("AuthError", "InvalidAddressError", "InvalidMessageError")
        )
        self._bus: Any = None
        self._systemd = ""  # systemd's unique name on the bus; '' until it is known
        self._connecting = asyncio.Lock()
        self._in_flight = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._bus is not None and bool(self._bus.connected)

    async def connect(self) -> None:
        """Connect unless connected, and reconnect from then on whenever the connection is lost."""
        await self._connect_first()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self.drop()

    def drop(self) -> None:
        """Disconnect. Calls in flight fail; the connection is made again."""
        bus, self._bus, self._systemd = self._bus, None, ""
        if bus is not None and bus.connected:
            bus.disconnect()

    async def call(
        self,
        request: str,
        member: str,
        signature: str = "",
        *body: object,
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        destination: str = SYSTEMD,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """Call a method and return the body of its answer. An error's message begins with `request`. Another
        `destination` than systemd that is not on the bus refuses with one of NOBODY_THERE."""
        call = self._library.Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=self._library.MessageFlag.NO_AUTOSTART,  # the bus cannot activate systemd, and would wait for it
        )
        async with self._in_flight:
            bus = self._bus
            if bus is None or not bus.connected:
                raise ManagerUnavailable(f"{request}: not connected to the bus")
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await bus.call(call)
            except TimeoutError:
                raise ManagerUnavailable(f"{request}: systemd did not answer within {timeout_s:g} s") from None
            except (EOFError, OSError, *self._errors) as error:
                raise ManagerUnavailable(f"{request}: the connection to the bus was lost: {error!r}") from error
        if reply is None:
            raise ManagerUnavailable(f"{request}: the connection to the bus was lost")
        if reply.message_type is self._library.MessageType.ERROR:
            raise _error(request, destination, reply.error_name, str(reply.body[0]) if reply.body else reply.error_name)
        return list(reply.body)

    async def get(self, name: str, *properties: str) -> list[Any]:
        """Return properties of one unit, each given as `<Interface>.<Property>`. systemd loads the unit for this."""
        return await asyncio.gather(*(self.get_one(object_path(name), each, f"look at {name}") for each in properties))

    async def get_one(self, path: str, qualified: str, request: str) -> Any:
        """Return one property, given as `<Interface>.<Property>`, of the object at this path."""
        interface, _, member = qualified.partition(".")
        body = await self.call(request, "Get", "ss", f"{SYSTEMD}.{interface}", member, path=path, interface=PROPERTIES)
        return body[0].value

    async def _connect_first(self) -> None:
        """A user's systemd joins the user's bus only after that has started, and this connection may start it."""
        for _ in range(JOIN_ATTEMPTS if self._is_user else 0):
            try:
                await self._connect()
                return
            except NotOnBus:
                await asyncio.sleep(RETRY_FIRST_S)
        await self._connect()

    async def _connect(self) -> None:
        async with self._connecting:
            if self.is_connected:
                return
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    bus = await self._open(bus_address=self._address, bus_type=self._type).connect()
            except (OSError, EOFError, *self._errors) as error:  # a timeout is an OSError
                cause = getattr(error, "strerror", None) or str(error) or repr(error)
                raise ManagerUnavailable(f"connect to {self._name}: {cause.lower()}; {self._remedy}") from error
            bus.add_message_handler(partial(self._receive, bus))
            self._bus = bus
            try:
                await self._subscribe()
                await self._on_connected()
            except BaseException:
                self.drop()  # a half-made connection would look like a complete one
                raise

    async def _subscribe(self) -> None:
        for rule in _SUBSCRIPTIONS:
            await self.call(
                "subscribe to systemd",
                "AddMatch",
                "s",
                rule,
                destination=BUS,
                path=BUS_PATH,
                interface=BUS,
            )
        [self._systemd] = await self.call(
            "find systemd", "GetNameOwner", "s", SYSTEMD, destination=BUS, path=BUS_PATH, interface=BUS
        )
        await self.call("subscribe to systemd", "Subscribe")

    async def _keep_connected(self) -> None:
        backoff = Backoff(RETRY_FIRST_S, RETRY_LONGEST_S)
        while True:
            if self._bus is not None:
                await asyncio.gather(self._bus.wait_for_disconnect(), return_exceptions=True)
            try:
                await self._connect()
                backoff.reset()
            except (ServiceManagerError, OSError):  # whatever the error, it may be temporary
                await asyncio.sleep(backoff.next_s())

    def _receive(self, bus: Any, message: Any) -> None:
        if message.message_type is not self._library.MessageType.SIGNAL or bus is not self._bus:
            return
        signal = (message.interface, message.member)
        expected_sender = BUS if signal == _OWNER_CHANGED else self._systemd
        if message.sender != expected_sender or message.signature != _SIGNATURES.get(signal):
            if self._systemd and message.sender != BUS:  # not the bus's NameAcquired
                metrics.DBUS_DROPPED.inc()
        elif signal != _OWNER_CHANGED:
            self._on_signal(message.path, message.member, message.body)
        elif message.body[0] == SYSTEMD and message.body[2] != self._systemd:
            # systemd was re-executed and may have lost our subscriptions: reconnect.
            self.drop()
