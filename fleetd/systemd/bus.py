"""The connection to the bus on which systemd is: bounded calls, and a lost bus found again.

This is the only module that knows a D-Bus library. Both that there are share the low-level interface used here:
dbus-next, and its maintained and quicker fork dbus-fast. What is asked of systemd is dbus.py's matter.
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

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = f"{SYSTEMD}.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
UNIT_PATH = f"{MANAGER_PATH}/unit"
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"

# What counts of what comes in: (interface, member) → signature of the body. Anybody on a bus may send any signal to
# anybody, so each counts from its own sender alone (`_receive`); for the answers to calls, the bus itself sees to that.
_OWNER_CHANGED = (BUS, "NameOwnerChanged")
_SIGNATURES = {
    _OWNER_CHANGED: "sss",
    (PROPERTIES, "PropertiesChanged"): "sa{sv}as",
    (MANAGER, "JobRemoved"): "uoss",
    (MANAGER, "Reloading"): "b",
}
_TO_ESCAPE = re.compile(r"^[0-9]|[^A-Za-z0-9]")
_NOBODY_THERE = tuple(f"{BUS}.Error.{error}" for error in ("ServiceUnknown", "NameHasNoOwner"))
_NO_ANSWER = tuple(f"{BUS}.Error.{error}" for error in ("NoReply", "Disconnected", "Timeout", "TimedOut"))
_SUBSCRIPTIONS = (
    f"type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',member='PropertiesChanged',"
    f"path_namespace='{UNIT_PATH}',arg0='{SYSTEMD}.Unit'",
    f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'",
    f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'",
    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'",
)


class Refused(ServiceManagerError):
    """systemd's answer was an error; `code` is its D-Bus name."""

    def __init__(self, asked: str, code: str, words: str) -> None:
        super().__init__(f"{asked}: {words}")
        self.code = code


def _error(asked: str, code: str, words: str) -> ServiceManagerError:
    if code in _NOBODY_THERE:
        return ManagerUnavailable(f"{asked}: systemd is not on the bus ({words}); if it stays away: kill -USR1 1")
    if code in _NO_ANSWER:
        return ManagerUnavailable(f"{asked}: {words}")
    return Refused(asked, code, words)


def installed_library() -> str:
    """The module of the D-Bus library to use. dbus-next is a dependency; dbus-fast comes with the extra `speed`."""
    return next(library for library in LIBRARIES if importlib.util.find_spec(library))


def object_path(name: str) -> str:
    """The D-Bus object of a unit."""
    return f"{UNIT_PATH}/{_TO_ESCAPE.sub(_escape, name)}"


def _escape(found: re.Match[str]) -> str:
    return f"_{ord(found[0]):02x}"


class SystemBus:
    """A connection to the bus on which systemd is. `on_reached` is awaited as the last part of each connecting;
    `on_signal` gets each signal of systemd's that was subscribed to, as (path, member, body)."""

    def __init__(
        self,
        on_reached: Callable[[], Awaitable[None]],
        on_signal: Callable[[str, str, Sequence[Any]], None],
        *,
        library: str | None,
        address: str | None,
        user: bool,
    ) -> None:
        self._on_reached = on_reached
        self._on_signal = on_signal
        chosen = library or installed_library()
        self._library = importlib.import_module(chosen)
        self._open = importlib.import_module(f"{chosen}.aio").MessageBus
        self._address = address
        self._type = self._library.BusType.SESSION if user else self._library.BusType.SYSTEM
        self._name = "the user's bus" if user else "the system bus"
        self._remedy = "DBUS_SESSION_BUS_ADDRESS says where it is" if user else "systemctl status dbus says how it is"
        self._errors = tuple(
            getattr(self._library, name) for name in ("AuthError", "InvalidAddressError", "InvalidMessageError")
        )
        self._bus: Any = None
        self._systemd = ""  # the unique name on the bus of whom systemd's name belongs to; '' until it is known
        self._reaching = asyncio.Lock()
        self._in_flight = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_reached(self) -> bool:
        return self._bus is not None and bool(self._bus.connected)

    async def connect(self) -> None:
        """Connect, unless it is connected, and from then on do so again whenever the bus is lost."""
        await self._reach()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_reached())

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self.drop()

    def drop(self) -> None:
        """Let go of the connection. What is in flight on it fails, and it is made anew."""
        bus, self._bus, self._systemd = self._bus, None, ""
        if bus is not None and bus.connected:
            bus.disconnect()

    async def call(
        self,
        asked: str,
        member: str,
        signature: str = "",
        *body: object,
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        destination: str = SYSTEMD,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """One method call, and the body of its answer. `asked` begins the message of an error."""
        message = self._library.Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=self._library.MessageFlag.NO_AUTOSTART,  # the bus cannot start systemd, and would wait for it
        )
        async with self._in_flight:
            bus = self._bus
            if bus is None or not bus.connected:
                raise ManagerUnavailable(f"{asked}: the bus of systemd is not connected")
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await bus.call(message)
            except TimeoutError:
                raise ManagerUnavailable(f"{asked}: systemd did not answer within {timeout_s:g} s") from None
            except (EOFError, OSError, *self._errors) as error:
                raise ManagerUnavailable(f"{asked}: the bus of systemd was lost: {error!r}") from error
        if reply is None:
            raise ManagerUnavailable(f"{asked}: the bus of systemd was lost")
        if reply.message_type is self._library.MessageType.ERROR:
            raise _error(asked, reply.error_name, str(reply.body[0]) if reply.body else reply.error_name)
        return list(reply.body)

    async def get(self, name: str, *properties: str) -> list[Any]:
        """Properties of one unit, each as `<Interface>.<Property>`. systemd loads the unit to answer."""
        return await asyncio.gather(*(self.get_one(object_path(name), each, f"look at {name}") for each in properties))

    async def get_one(self, path: str, qualified: str, asked: str) -> Any:
        """One property, as `<Interface>.<Property>`, of the object at this path."""
        interface, _, member = qualified.partition(".")
        body = await self.call(asked, "Get", "ss", f"{SYSTEMD}.{interface}", member, path=path, interface=PROPERTIES)
        return body[0].value

    async def _reach(self) -> None:
        async with self._reaching:
            if self.is_reached:
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
                await self._on_reached()
            except BaseException:
                self.drop()  # half a connection would look like a whole one
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

    async def _keep_reached(self) -> None:
        backoff = Backoff(RETRY_FIRST_S, RETRY_LONGEST_S)
        while True:
            if self._bus is not None:
                await asyncio.gather(self._bus.wait_for_disconnect(), return_exceptions=True)
            try:
                await self._reach()
                backoff.reset()
            except (ServiceManagerError, OSError):  # whatever it is, it is not for ever
                await asyncio.sleep(backoff.next_s())

    def _receive(self, bus: Any, message: Any) -> None:
        if message.message_type is not self._library.MessageType.SIGNAL or bus is not self._bus:
            return
        signal = (message.interface, message.member)
        expected_sender = BUS if signal == _OWNER_CHANGED else self._systemd
        if message.sender != expected_sender or message.signature != _SIGNATURES.get(signal):
            if self._systemd and message.sender != BUS:  # the bus also says what our own name is
                metrics.DBUS_DROPPED.inc()
        elif signal != _OWNER_CHANGED:
            self._on_signal(message.path, message.member, message.body)
        elif message.body[0] == SYSTEMD and message.body[2] != self._systemd:
            # systemd has executed itself anew, and may no longer know us: begin anew as well.
            self.drop()
