"""A name table of three machines, which announce ten instances of web."""

from fleetd.model.announcement import Announcement
from fleetd.model.name_table import NamedMachine, NameTable

MACHINES = tuple(f"{number}" * 32 for number in (1, 2, 3))


def web(number: int) -> Announcement:
    """One of the instances."""
    at = number % len(MACHINES)
    return Announcement("web", f"web@{number}.service", MACHINES[at], f"10.0.0.{at + 1}", 8000 + number, "tcp")


def make_table(instances: int = 10, listen: tuple[str, ...] = (), domain: str = "fleet.internal") -> NameTable:
    """The table of the first machine."""
    machines = tuple(NamedMachine(machine, f"10.0.0.{at}") for at, machine in enumerate(MACHINES, 1))
    return NameTable(domain, listen, MACHINES[0], "", machines, tuple(map(web, range(instances))))
