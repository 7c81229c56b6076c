"""The links that the [Install] sections of this machine's units ask for: made, taken away, and kept in the ledger.

Which links there should be is model/install.py's matter. Here is known what each unit asks for, what was made, and
whether there may be something to do.
"""

import logging
import platform
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from fleetd.agent.ledger import Ledger
from fleetd.model.admission import refuse_name
from fleetd.model.install import Install, InvalidInstall, parse_install, plan_links
from fleetd.model.names import parse_name
from fleetd.model.unitfile import UnitFileError, parse_unit_file
from fleetd.systemd.protocol import ServiceManager


def host_specifiers() -> dict[str, str]:
    """What stands for systemd's specifiers of this machine in an [Install] section, by letter."""
    host = platform.node()
    return {
        "H": host,
        "l": host.partition(".")[0],
        "v": platform.release(),
        "m": _read_machine_id(),
    }


def _read_machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


class Links:
    """One machine's links. `read` all units' texts first, then `put` and `forget` what changes, then `follow`."""

    def __init__(
        self,
        systemd: ServiceManager,
        ledger: Ledger,
        logger: logging.Logger,
        host: Callable[[], Mapping[str, str]] = host_specifiers,
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._log = logger
        self._host = host()
        self._units: dict[str, Install | str | None] = {}  # every unit of ours, and what it asks for, if anything
        self._complaints: dict[str, tuple[str, ...]] = {}
        self._is_due = True
        self._has_to_look = True  # whether links may not be there that the ledger has

    def read(self, texts: Mapping[str, str]) -> None:
        """These are the machine's unit files."""
        self._units = {}
        self._has_to_look = True
        for name, text in texts.items():
            self.put(name, text)

    def put(self, name: str, text: str) -> None:
        """The unit has this file."""
        self._units[name] = self._parse(name, text) if "[Install]" in text else None
        self._is_due = True

    def forget(self, name: str) -> None:
        """The unit is here no more."""
        self._units.pop(name, None)
        self._is_due = True

    def note(self, name: str) -> str:
        """What of this unit's [Install] has no effect here, and why; '' where all has."""
        return "; ".join(self._complaints.get(name, ()))

    async def follow(self) -> tuple[str, ...]:
        """Bring the links to what the units ask for; the units of which there is something else to note than before.
        What cannot be made hinders no unit: it is said, and tried again the next time. Raises ManagerUnavailable."""
        if not self._is_due:
            return ()
        held = self._systemd.find_links() if self._ledger.links is None else self._ledger.links
        installs = {name: install for name, install in self._units.items() if isinstance(install, Install)}
        plan = plan_links(installs, self._units, held, lambda name: refuse_name(name, self._systemd.shadows))
        drop = {link: unit for link, unit in held.items() if plan.links.get(link) != unit}
        make = {link: unit for link, unit in plan.links.items() if self._has_to_look or held.get(link) != unit}
        self._has_to_look = True  # until all is done: the ledger says from here on what is only intended
        try:
            self._ledger.put_links({**plan.links, **drop})  # before: a crash must leave no link that nobody knows of
            failures = await self._systemd.link(make, drop) if make or drop else {}
            self._ledger.put_links({**_without(plan.links, failures), **_only(drop, failures)})
        except OSError as error:
            self._log.warning("what links there are for [Install] cannot be written down, trying on: %s", error)
            return ()
        self._is_due, self._has_to_look = bool(failures), False
        complaints: dict[str, tuple[str, ...]] = dict(plan.complaints)
        complaints |= {name: (fault,) for name, fault in self._units.items() if isinstance(fault, str)}
        for link, failure in failures.items():
            owner = plan.links.get(link) or drop[link]
            complaints[owner] = (*complaints.get(owner, ()), str(failure))
        return self._take(complaints)

    def _take(self, complaints: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Keep these complaints, and log those that are new."""
        before, self._complaints = self._complaints, dict(complaints)
        for name, sentences in complaints.items():
            for sentence in sentences:
                if sentence not in before.get(name, ()):
                    self._log.warning("%s: %s", name, sentence)
        return tuple(name for name in {**before, **complaints} if before.get(name) != complaints.get(name))

    def _parse(self, name: str, text: str) -> Install | str:
        """What the unit asks for; in words, why that cannot be: of a unit that was taken before this was refused."""
        try:
            return parse_install(parse_unit_file(text), parse_name(name), self._host)
        except (InvalidInstall, UnitFileError) as error:
            return f"[Install] has no effect: {error}"


def _without(links: Mapping[str, str], others: Collection[str]) -> dict[str, str]:
    return {link: unit for link, unit in links.items() if link not in others}


def _only(links: Mapping[str, str], others: Collection[str]) -> dict[str, str]:
    return {link: unit for link, unit in links.items() if link in others}
