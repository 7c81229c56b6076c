"""What is fuzzed: one function a border. It takes any bytes, and returns where they are read or refused as documented.

Whatever else it raises is a bug: an AssertionError says which promise is broken. The same functions are the properties
of the test suite, over bytes of hypothesis' own and over the corpus that is kept beside this module.
"""

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from fleetd.api.http import ApiError, Request
from fleetd.api.pagination import TOKEN, parse_page, render_token
from fleetd.config.config import ConfigError, parse_config
from fleetd.config.options import OPTIONS, VARIABLE_PREFIX
from fleetd.model.admission import refuse_unit
from fleetd.model.constraints import InvalidRequirements, parse_requirements, validate_requirements
from fleetd.model.names import InvalidName, compile_glob, parse_name
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import UnitFile, UnitFileError, check_options, decode_unit_file, surprising_lines
from fleetd.registry.records import DEFAULT_PREFIX, MalformedRecord, encode
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.planner import plan_cluster
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store import etcd_wire as wire
from fleetd.store.failures import EndpointFailed
from fleetd.store.protocol import Compacted, KeyValue, Store

_PARSERS: tuple[Callable[[bytes], object], ...] = (
    wire.parse_range,
    wire.parse_txn,
    wire.parse_lease_grant,
    wire.parse_lease_time_to_live,
    wire.parse_keep_alive,
    wire.parse_empty,
    wire.parse_authenticate,
)
_NAME = parse_name("web@eu.service")
_TOKEN_LIMIT = 100
_REGISTRY = Registry(cast(Store, None))  # nothing but its keys and records is asked for


def check_unit_file(data: bytes) -> None:
    """The file of a unit, as `fleetctl` reads it and the API is given it."""
    try:
        text = decode_unit_file(data)
        once = UnitFile.parse(text)
        surprising_lines(text)
    except UnitFileError as error:
        assert error.line is None or 1 <= error.line <= data.count(b"\n") + 1, "a line that the file has not"  # noqa: PT017 (what it says is the promise)
        return
    with suppress(UnitFileError):
        check_options(once.options)
        again = UnitFile.parse(once.text)
        assert (again.text, again.hash) == (once.text, once.hash), "a content that changes as it is stored"
    assert all(sentence.isprintable() for sentence in advise(_NAME.full, once.options)), "a command to a terminal"
    refuse_unit(_NAME.full, once.options)
    with suppress(InvalidRequirements):
        validate_requirements(once.options)
    required = parse_requirements(once.options, _NAME)
    for pattern in required.conflicts + required.replaces:
        compile_glob(pattern)


def check_name(data: bytes) -> None:
    """A unit's name, and a glob over names."""
    text = data.decode("utf-8", "replace")
    compile_glob(text)
    with suppress(InvalidName):
        name = parse_name(text)
        assert f"{name.stem}.{name.suffix}" == name.full == text, "a name that is not its parts"


def check_page_token(data: bytes) -> None:
    """A page token: the bytes as they stand, or (after a zero) what they are in base64, which few bytes are."""
    text = base64.urlsafe_b64encode(data[1:]).decode() if data[:1] == b"\0" else data.decode("utf-8", "surrogateescape")
    try:
        page = parse_page(Request("GET", "/", ((TOKEN, text),)), _TOKEN_LIMIT)
    except ApiError as refusal:
        assert refusal.status == 400  # noqa: PT017 (what it says is the promise)
        return
    assert page.limit == _TOKEN_LIMIT
    assert page.skip >= 0
    assert not page.after or render_token(page.revision, page.after) == text, "a token that is not the one given out"


def check_etcd(data: bytes) -> None:
    """An answer of etcd's; the first byte says to what. Several lines are the answers of one watch, in turn."""
    choice, body = data[:1] or b"\0", data[1:]
    status = 400 + choice[0]
    assert str(wire.parse_refusal(status, body)), "a refusal without a word"
    if choice[0] < len(_PARSERS):
        with suppress(EndpointFailed):
            _PARSERS[choice[0]](body)
        return
    position = wire.WatchPosition(DEFAULT_PREFIX, 5)
    with suppress(EndpointFailed, Compacted):
        for line in body.split(b"\n"):
            before = position.revision
            changes = position.take(wire.parse_line(wire.WATCH, line))
            assert position.revision >= before, "a watch that goes back"
            assert changes is None or changes.events, "changes without an event"


def check_record(data: bytes) -> None:
    """What stands in the store: lines of `KIND/NAMES VALUE`, which the leader takes in one by one, planning each time.
    What cannot be read counts as absent, and what can be read can be written again."""
    view = Snapshot()
    for number, line in enumerate(data.split(b"\n")[:20], start=1):
        key, _, value = line.partition(b" ")
        item = KeyValue(DEFAULT_PREFIX + key.decode("utf-8", "replace"), value, number, number)
        try:
            change = _REGISTRY.change(item.key, item, number)
        except MalformedRecord as error:
            assert item.key in str(error), "a complaint that names no key"  # noqa: PT017 (what it says is the promise)
            change = _REGISTRY.change(item.key, None, number)
        if change is None:
            continue
        if change.record is not None:
            encode(change.record)
        plan_cluster(view, apply_record(view, change.key.kind, change.key.names, change.record))
    plan_cluster(view)


def check_config(data: bytes) -> None:
    """fleet.conf, and every option by itself as a variable."""
    text = data.decode("utf-8", "replace")
    for environ in ({}, *({f"{VARIABLE_PREFIX}{option.name.upper()}": text} for option in OPTIONS)):
        with suppress(ConfigError):
            config, notices = parse_config(text if not environ else "", "fleet.conf", environ, {})
            assert all(str(notice) for notice in notices)
            assert config.agent_ttl_s >= 1, "a time to live below its bound"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "unitfile": check_unit_file,
    "name": check_name,
    "pagetoken": check_page_token,
    "etcd": check_etcd,
    "record": check_record,
    "config": check_config,
}
