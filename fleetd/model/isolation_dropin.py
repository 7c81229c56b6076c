"""The drop-in with which a machine has systemd hold a unit back: one with IsolationSec= or Lock= in [X-Fleet].

systemd stops such units when the machine's lease service ends (systemd/isolation.py), and leaves a mark. While that is
there, nothing starts them: not their sockets and timers, and no person either. A unit with Lock= needs a permit beside.
"""

from collections.abc import Iterable

from fleetd.model.content import Content, DropIn
from fleetd.model.isolation import IsolationOptions
from fleetd.model.isolation_options import isolation_options_of

DROPIN_NAME = "~fleet-isolation.conf"  # sorts after every name that check_dropin_name allows
TARGET = "fleet-isolated.target"
# Below the runtime directory, which is systemd's %t.
MARK = "fleet/isolation/isolated"
PERMITS = "fleet/isolation/permits"


def isolating_dropins(name: str, content: Content) -> tuple[DropIn, ...]:
    """The drop-in for a unit of this name and content; none for one that has neither option."""
    options = isolation_options_of(content, name)
    return (_dropin(name, options),) if options.is_set else ()


def without_isolating(name: str, content: Content) -> Content:
    """The content as it was placed, without that drop-in, if it has the one that it is to have."""
    if not content.dropins or content.dropins[-1].name != DROPIN_NAME:
        return content
    bare = Content(content.text, content.dropins[:-1])
    return bare if isolating_dropins(name, bare) == content.dropins[-1:] else content


def _dropin(name: str, options: IsolationOptions) -> DropIn:
    lines = ["[Unit]", f"Conflicts={TARGET}", f"ConditionPathExists=!%t/{MARK}"]
    if options.lock is not None:
        lines.append(f"ConditionPathExists=%t/{PERMITS}/{name}")
    return DropIn(DROPIN_NAME, "".join(f"{line}\n" for line in lines))


def find_isolating(contents: Iterable[tuple[str, Content]]) -> dict[str, IsolationOptions]:
    """The units of these contents that are to be stopped, with their options."""
    found = ((name, isolation_options_of(content, name)) for name, content in contents)
    return {name: options for name, options in found if options.is_set}
