"""Follows logs of units as fleetd streams them, and over SSH on those machines whose fleetd cannot."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec

from fleetctl import output
from fleetctl.client import ApiError, Client, NotFleet
from fleetctl.errors import ClientError, CommandFailed
from fleetctl.logs import BAD_PATTERN, Entry, LogQuery, render_entry, why_not
from fleetctl.remote import FAILED_STATUS, End, Line, Remote
from fleetctl.request_paths import MAX_QUERY
from fleetctl.unit_locations import Location
from fleetd.model.decoding import UNREADABLE

SILENCE_S = 20.0  # of fleetd, which says something each five seconds


def follow_logs(
    client: Client, remote: Remote, query: LogQuery, places: Sequence[Location], command: str
) -> Iterator[Line | End]:
    """The entries on these machines, and those that come, as lines; and an End for each machine. `command` says the
    same on a machine itself: here, or over SSH where fleetd does not say it."""
    following = _Following(client, remote, query.form, command)
    elsewhere = [place for place in places if not remote.is_here(place)]
    for place in places:
        if place not in elsewhere:
            remote.begin(place, command, following.events.put)
    text = query.render(elsewhere) + "&follow=true"
    threading.Thread(target=following.run, args=(text, elsewhere), daemon=True).start()
    left = len(places)
    while left:
        event = following.events.get()
        left -= isinstance(event, End)
        with following.asking:
            yield event


class _Following:
    """`asking` is held while a question about a host key is on the screen."""

    def __init__(self, client: Client, remote: Remote, form: str, command: str) -> None:
        self.events: queue.SimpleQueue[Line | End] = queue.SimpleQueue()
        self.asking: AbstractContextManager[object] = nullcontext()
        self._client = client
        self._remote = remote
        self._form = form
        self._command = command
        self._left: dict[str, Location] = {}  # by machine; those that have not ended
        self._shown: set[str] = set()  # machines of which something was shown

    def run(self, query: str, places: Sequence[Location]) -> None:
        """Read the stream to its end, in a thread of its own."""
        self._left = {place.machine: place for place in places}
        if len(query) > MAX_QUERY:
            self._use_ssh(list(self._left), "more machines are followed than a request has room for")
            return
        why = "fleetd has ended its stream"
        try:
            for line in self._client.stream(f"journal?{query}", SILENCE_S):
                if line.strip():
                    self._take(msgspec.json.decode(line, type=dict[str, object]))
        except UNREADABLE:
            why = "what answers is no fleetd that shows logs"
        except (ApiError, NotFleet) as error:
            why = f"fleetd does not show logs: {error}"
        except ClientError as error:
            why = str(error)
        unshown = [machine for machine in self._left if machine not in self._shown]
        for machine in [machine for machine in self._left if machine in self._shown]:
            self._end(machine, why)
        self._use_ssh(unshown, why)

    def _take(self, entry: Entry) -> None:
        machine = str(entry.get("machine"))
        if machine not in self._left:
            return
        if not (why := why_not(entry)):
            self._shown.add(machine)
            for text in render_entry(entry, self._form):
                self.events.put(Line(self._left[machine], text.encode(errors="surrogateescape"), False))
        elif machine in self._shown or why.startswith(BAD_PATTERN):
            self._end(machine, why)
        else:
            self._use_ssh([machine], why)

    def _end(self, machine: str, why: str) -> None:
        place = self._left.pop(machine)
        output.error(f"The log of machine {place} is not followed any more: {why}")
        self.events.put(End(place, FAILED_STATUS))

    def _use_ssh(self, machines: Sequence[str], why: str) -> None:
        if not machines:
            return
        from fleetctl.ssh.connection import asking

        self.asking = asking
        places = [self._left.pop(machine) for machine in machines]
        output.note(f"Using SSH for {', '.join(map(str, places))}: {why}")
        try:
            self._remote.ask_for_host_keys([place for place in places if place.address])
        except CommandFailed as error:
            for place in places:
                self.events.put(End(place, FAILED_STATUS, str(error)))
            return
        for place in places:
            self._remote.begin(place, self._command, self.events.put)
