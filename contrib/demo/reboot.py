"""The act `reboot`: all machines are rebooted, one after the other, while their service answers."""

from contrib.demo import stage
from contrib.demo.act import check
from contrib.demo.site import SITES, SiteAct
from contrib.demo.witness import is_active

LONG_S = 150.0  # a command that reboots three machines may take


class Reboot(SiteAct):
    """Reboots of all machines, while a client sends requests all the time."""

    def play(self) -> None:
        with self.copy_of_deploy():
            stage.explain("A web server on each of three machines, and a unit that runs on every machine.")
            self.run("fleetctl apply deploy")
            machine = self.cluster.machines[1]
            stage.explain(f"A new kernel is installed on {machine.name}, and the distribution says so in a file.")
            machine.path("/run/reboot-required").touch()
            machine.path("/run/reboot-required.pkgs").write_text("linux-image-amd64\n")
            need = f"{machine.name} wants a reboot"
            self.wait_for(need, lambda: "wants to be rebooted" in self.cluster.fleetctl("list-machines").stderr)
            self.run("fleetctl list-machines")
            with self.client() as client:
                self.reboot_all()
            self.check_requests(client)
            self.request_all("Instance")
            self.run("fleetctl list-machines")

    def reboot_all(self) -> None:
        stage.explain(
            "All three are rebooted, while a client sends requests without end. A machine goes when the units that can "
            "have left it, and the next one when it is back and serves."
        )
        before, sites = {machine.name: machine.boot_id for machine in self.cluster.machines}, self.sites()
        self.run("fleetctl reboot --all", timeout_s=LONG_S)
        now = {machine.name: machine.boot_id for machine in self.cluster.machines}
        check(all(before[name] != now[name] != "" for name in before), "each machine has booted anew")
        check(self.sites() == sites, "each instance is where it was: all machines had one, so none could take another")
        check(all(is_active(sites[name], name) for name in SITES), "all three run")
