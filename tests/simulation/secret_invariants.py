"""What must hold of the secrets of units."""

from collections.abc import Sequence

import msgspec

from fleetd.trust.credentials_wire import Delivered
from tests.simulation.checker import Checker


class SecretsComeFirst(Checker):
    """No unit is started before systemd gets its secrets on that machine."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        found = self.world.machines[machine]
        for name in names if verb in ("start", "restart") else ():
            placement = self.records.placements.get((found.id, name))
            for ref in placement.secrets if placement else ():
                file = found.directory / "credentials" / name / ref.name
                if not file.exists():
                    self.fail(f"{machine} starts {name} without its secret {ref.name}")
                elif not msgspec.json.decode(file.read_bytes(), type=Delivered).version:
                    self.fail(f"{machine} starts {name} with a secret {ref.name} that there is not")
