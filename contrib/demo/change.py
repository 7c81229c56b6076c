"""The act `change`: apply a folder, change it under traffic, see a bad change undone, and take a machine out of use."""

from itertools import pairwise

from contrib.demo import stage
from contrib.demo.act import check
from contrib.demo.client import Client
from contrib.demo.site import SITES, TEMPLATE, SiteAct
from contrib.demo.witness import is_active
from contrib.testbed import Machine

SETTLE_S = 2.0  # UpdateSettleSec= of the template
FIRST, SECOND = "Instance", "Version 2, instance"


class Change(SiteAct):
    """Changes of a running cluster, while a client sends requests all the time."""

    def play(self) -> None:
        with self.copy_of_deploy():
            self.apply()
            with self.client() as client:
                self.change(client)
                self.change_badly(client)
                self.mend(client)
                self.drain(client)
            check(not client.failures, f"all in all, none of {client.requests} requests has failed")

    def apply(self) -> None:
        stage.explain("A folder holds units that belong together: here among them a template, with three instances.")
        self.run("ls deploy deploy/site@.service.d")
        self.run("tail -n 6 deploy/site@.service")
        self.run("fleetctl apply deploy")
        self.run("fleetctl list-units")
        check(len({machine.name for machine in self.sites().values()}) == len(SITES), "each machine has an instance")
        self.request_all(FIRST)
        stage.explain("Applied again, it changes nothing.")
        self.run("fleetctl apply deploy")

    def change(self, client: Client) -> None:
        stage.explain(
            "From now on a client sends requests without end, as a load balancer does: to the three in turn, and to "
            "the next one where one does not answer."
        )
        stage.explain("A change reaches them one after the other: the next one when the one before has proven itself.")
        self.run(f"sed -i 's/{FIRST} %i/{SECOND} %i/' deploy/site@.service")
        self.run("fleetctl diff deploy", status=1)
        self.run("fleetctl apply deploy")
        began = sorted(self._active_since(name, machine) for name, machine in self.sites().items())
        apart = [later - earlier for earlier, later in pairwise(began)]
        check(min(apart) >= SETTLE_S, f"they were started at least {SETTLE_S:.0f} s apart, says systemd")
        self.request_all(SECOND)
        self.check_requests(client)

    def change_badly(self, client: Client) -> None:
        stage.explain("A bad change: the server would look for its page in a directory that there is not.")
        before = self._pids()
        self.run("sed -i 's|/site-%i 8090|/sites-%i 8090|' deploy/site@.service")
        output = self.run("fleetctl apply deploy", status=1)
        check("reverted to the former content because" in output, "it was undone, with the reason")
        self.run(f"fleetctl rollout {TEMPLATE}")
        after = self._pids()
        check(sum(before[name] != after[name] for name in SITES) == 1, "only the first instance was touched")
        self.request_all(SECOND)
        self.check_requests(client)

    def mend(self, client: Client) -> None:
        stage.explain("The folder is mended. All instances run that content already, so none is restarted.")
        before = self._pids()
        self.run("sed -i 's|/sites-%i 8090|/site-%i 8090|' deploy/site@.service")
        self.run("fleetctl apply deploy")
        check(self._pids() == before, "every instance has kept its process")
        self.check_requests(client)

    def drain(self, client: Client) -> None:
        stage.explain("Two instances are enough for a while: the third one is destroyed.")
        self.run(f"fleetctl scale {TEMPLATE} 2")
        machine = max(self.sites().values(), key=lambda each: len(self.witness.units_of(each)))
        stage.explain(f"{machine.name} is to be opened. Its instance moves to the machine that has none now.")
        self.run(f"fleetctl drain --why='new disk' {machine.id[:8]}")
        self.run("fleetctl list-units")
        check(not self.witness.units_of(machine), f"nothing is left on {machine.name} but what runs on every machine")
        sites = self.sites()
        check(all(is_active(where, name) for name, where in sites.items()), "both instances run elsewhere")
        self.check_requests(client)
        stage.explain(f"{machine.name} is back: it may take new units again. No unit moves back.")
        self.run("fleetctl list-machines")
        self.run(f"fleetctl uncordon {machine.id[:8]}")
        check(self.sites() == sites, "both instances are where they were")

    def _pids(self) -> dict[str, int]:
        """Instance → its main process."""
        return {name: machine.main_pid(name) for name, machine in self.sites().items()}

    def _active_since(self, name: str, machine: Machine) -> float:
        """When the instance became active, in seconds of the clock that all machines share."""
        return int(machine.show(name, "ActiveEnterTimestampMonotonic")) / 1e6
