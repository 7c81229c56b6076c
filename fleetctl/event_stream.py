"""Follows the events of the cluster across lost connections and restarts of fleetd, without missing one."""

import math
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from fleetctl.errors import ClientError
from fleetctl.wait import CLOCK, LONGEST_PAUSE_S, SILENCE_S
from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, BEHIND, END, GAP, MARK

if TYPE_CHECKING:
    from fleetctl.client import Client

Query = Sequence[tuple[str, str]]
_GONE = 410
_SINCE = "since"
RESTORED = "the store was restored: what has happened before that is not told"


def follow(
    client: "Client",
    query: Query = (),
    after: str = "",
    *,
    keep: Callable[[str], None] | None = None,
    silence_s: float = SILENCE_S,
) -> Generator[schema.Event, None, None]:
    """Yield what happens that the query selects, and first a `begin` once the stream is open: a list that is read then
    misses nothing. `after`: from this token, `0` from the oldest event. A `gap` says that something may be missing.

    Each event comes once. `keep` is called with the token behind what was yielded, once the next event is asked for;
    then an `after` of which nobody can say what followed it is a gap, too. Raises ClientError, if temporary only after
    `silence_s` without an answer.
    """
    clock, token, has_begun = CLOCK.get(), after, False
    silent_after = clock.now() + silence_s
    while True:
        moment: list[schema.Event] = []  # which the token stands behind: if the rest does not come, all comes again
        try:
            for event in client.events([*query, *([("after", token)] if token else [])]):
                silent_after = math.inf
                if event.kind in (BEHIND, END):
                    break
                if event.kind == BEGIN:
                    if not has_begun:
                        yield event
                    has_begun = True
                elif event.kind != MARK:
                    moment.append(event)
                if event.token and not (event.kind == BEGIN and any(name == _SINCE for name, _ in query)):
                    is_new, token = event.token != token, event.token
                    query = [pair for pair in query if pair[0] != _SINCE]
                    yield from moment
                    moment = []
                    if keep is not None and is_new:
                        keep(token)
        except ClientError as error:
            if getattr(error, "code", 0) == _GONE and (token != after or (token and keep is not None)):
                token = ""
                yield schema.Event(GAP, detail=RESTORED)
                continue
            if not error.may_pass or clock.now() >= silent_after:
                raise
        if math.isinf(silent_after):
            silent_after = clock.now() + silence_s
        clock.sleep(LONGEST_PAUSE_S)


def list_and_follow(
    client: "Client", read: Callable[[], None], query: Query = ()
) -> Generator[schema.Event, None, None]:
    """Call `read` once the stream of events is open, and again after each gap; yield each event that follows."""
    for event in follow(client, query):
        if event.kind in (BEGIN, GAP):
            read()
        else:
            yield event
