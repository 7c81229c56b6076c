"""Events as lines for people. Pure."""

from fleetctl import output
from fleetd.api import schema
from fleetd.api.event_schema import GAP, STATE
from fleetd.model.event import EventKind, Step
from fleetd.model.timespan import render_moment

_MACHINE_WORDS = {
    EventKind.JOINED: "joined",
    EventKind.LOST: "is lost",
    EventKind.BACK: "is back",
    EventKind.LEFT: "left",
}


def render_event(event: schema.Event) -> str:
    """One line: when, and what has happened, with why."""
    return "  ".join(describe_event(event))


def describe_event(event: schema.Event) -> tuple[str, str]:
    """When, and what has happened, with why."""
    when = render_moment(event.at) if event.at else "-"
    why = event.message or event.detail
    text = _describe(event) + (f" by {event.by}" if event.by else "") + (f": {why}" if why else "")
    return when, output.printable(text)


def _describe(event: schema.Event) -> str:
    machine, former = event.machine[:8], event.former[:8]
    match event.kind:
        case EventKind.ASKED:
            about = event.unit or (f"machine {machine}" if machine else event.subject)
            return f"{event.action} of {about} was asked for" if about else f"{event.action} was asked for"
        case EventKind.PLACED:
            return f"{event.unit} placed on {machine}"
        case EventKind.MOVED:
            return f"{event.unit} moved from {former} to {machine}"
        case EventKind.UNPLACED:
            return f"{event.unit} taken off {former}" if former else f"{event.unit} fits nowhere"
        case EventKind.SUPERSEDED:
            return f"{event.unit} placed elsewhere, and may still run on {former}"
        case EventKind.ROLLOUT:
            units = f": {', '.join(event.units)}" if event.units else ""
            return f"rollout of {event.subject} {event.step}{units}{_because(event)}"
        case EventKind.DRAIN if event.step == Step.STAYS:
            return f"{event.unit} stays on {machine}, which is drained"
        case EventKind.DRAIN:
            return f"machine {machine} {event.step}"
        case EventKind.REBOOT:
            return f"reboot of machine {machine} {event.step}{_because(event)}"
        case EventKind.LOCK if event.step == Step.RESTORED:
            return f"lock {event.subject} is the first that is taken since the store was restored"
        case EventKind.LOCK:
            return f"lock {event.subject} was {event.step} without a release"
        case EventKind.JOINED | EventKind.LOST | EventKind.BACK | EventKind.LEFT:
            return f"machine {machine} {_MACHINE_WORDS[EventKind(event.kind)]}"
        case kind if kind == STATE:
            return f"{event.unit} {_state(event)} on {machine}"
        case kind if kind == GAP:
            return "gap"
    named = [word for word in (event.unit, machine, event.subject, event.step) if word]
    return " ".join([event.kind, *named])  # of a later version


def _because(event: schema.Event) -> str:
    return f" ({event.why})" if event.why else ""


def _state(event: schema.Event) -> str:
    if not event.load and not event.active:
        return "is not reported any more"
    return f"{event.active} ({event.sub})" + (f", {event.error.splitlines()[0]}" if event.error else "")
