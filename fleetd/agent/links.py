"""Makes and removes the links that the [Install] sections of this machine's units ask for (model/install.py plans
them), and keeps them in the ledger.
"""

import logging
import platform
from collections.abc import Mapping

from fleetd.agent.ledger import Ledger
from fleetd.model.admission import refuse_name
from fleetd.model.content import Content
from fleetd.model.install import Install, InvalidInstall, parse_install, plan_links
from fleetd.model.names import parse_name
from fleetd.model.unitfile import UnitFileError
from fleetd.systemd.protocol import ServiceManager

log = logging.getLogger(__name__)


def has_install(content: Content) -> bool:
    """True if the content may have a section [Install]: the others need not be parsed."""
    return any("[Install]" in text for text in (content.text, *(dropin.text for dropin in content.dropins)))


class Links:
    """One machine's links. Call `read` with all units' contents, then `put` and `forget` for changes, then `follow`."""

    def __init__(self, machine_id: str, systemd: ServiceManager, ledger: Ledger) -> None:
        self._systemd = systemd
        self._ledger = ledger
        host = platform.node()
        self._specifiers = {"H": host, "l": host.partition(".")[0], "v": platform.release(), "m": machine_id}
        self._units: dict[str, Install | str | None] = {}  # unit → its [Install], why that is invalid, or None
        self._complaints: dict[str, tuple[str, ...]] = {}
        self._is_due = True
        self._must_verify = True  # links that the ledger has may be missing

    def read(self, contents: Mapping[str, Content]) -> None:
        """Take the contents of all of the machine's units."""
        self._units = {}
        self._must_verify = True
        for name, content in contents.items():
            self.put(name, content)

    def put(self, name: str, content: Content) -> None:
        """Take the content of one unit."""
        self._units[name] = self._parse(name, content) if has_install(content) else None
        self._is_due = True

    def forget(self, name: str) -> None:
        """The unit's file was removed."""
        self._units.pop(name, None)
        self._is_due = True

    def note(self, name: str) -> str:
        """Return which parts of the unit's [Install] have no effect here, and why; '' if all of it has."""
        return "; ".join(self._complaints.get(name, ()))

    async def follow(self) -> tuple[str, ...]:
        """Make and remove links until they are as the units ask. Returns the units whose `note` has changed.

        A link that cannot be made holds up no unit: it is noted, and retried the next time. Raises ManagerUnavailable.
        """
        if not self._is_due:
            return ()
        held = self._systemd.find_links() if self._ledger.links is None else self._ledger.links
        installs = {name: install for name, install in self._units.items() if isinstance(install, Install)}
        plan = plan_links(installs, self._units, held, lambda name: refuse_name(name, self._systemd.shadows))
        drop = {link: unit for link, unit in held.items() if plan.links.get(link) != unit}
        make = {link: unit for link, unit in plan.links.items() if self._must_verify or held.get(link) != unit}
        self._must_verify = True  # from here on the ledger holds intended links, too
        try:
            self._ledger.put_links({**plan.links, **drop})  # first: a crash must not leave an unknown link
            failures = await self._systemd.link(make, drop) if make or drop else {}
            not_dropped = {link: unit for link, unit in drop.items() if link in failures}
            made = {link: unit for link, unit in plan.links.items() if link not in failures}
            self._ledger.put_links({**made, **not_dropped})
        except OSError as error:
            log.warning("cannot record the links for [Install] in the ledger, retrying with the next pass: %s", error)
            return ()
        self._is_due, self._must_verify = bool(failures), False
        complaints: dict[str, tuple[str, ...]] = dict(plan.complaints)
        complaints |= {name: (fault,) for name, fault in self._units.items() if isinstance(fault, str)}
        for link, failure in failures.items():
            owner = plan.links.get(link) or drop[link]
            complaints[owner] = (*complaints.get(owner, ()), str(failure))
        return self._take(complaints)

    def _take(self, complaints: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Store these complaints, log the new ones, and return the units whose complaints changed."""
        before, self._complaints = self._complaints, dict(complaints)
        for name, sentences in complaints.items():
            for sentence in sentences:
                if sentence not in before.get(name, ()):
                    log.warning("%s: %s", name, sentence)
        return tuple(name for name in {**before, **complaints} if before.get(name) != complaints.get(name))

    def _parse(self, name: str, content: Content) -> Install | str:
        """Return the unit's [Install], or why it is invalid (for a unit accepted by a fleetd that did not check it)."""
        try:
            return parse_install(content.options(), parse_name(name), self._specifiers)
        except (InvalidInstall, UnitFileError) as error:
            return f"[Install] has no effect: {error}"
