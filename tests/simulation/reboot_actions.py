"""The actions of scenarios about reboots that operators ask for."""

from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def ask_reboot(world: World, action: Action) -> None:
    """`ask-reboot all|MACHINE... [now] [SECONDS]`: one after the other, drained before; SECONDS may the drain take."""
    words = [word for word in action.args if word not in world.machines and word not in ("all", "now")]
    names = list(world.machines) if "all" in action.args else [name for name in action.args if name in world.machines]
    within_s = sum(map(float, words))
    for name in names:
        id_ = world.machines[name].id
        world.spawn(world.operators.reboot(id_, is_now="now" in action.args, within_s=within_s or None))


@verb
def cancel_reboot(world: World, action: Action) -> None:
    """`cancel-reboot MACHINE`: refused once it was told to reboot."""
    world.spawn(world.operators.cancel_reboot(world.machines[action.args[0]].id))


@verb
def inhibit(world: World, action: Action) -> None:
    """`inhibit MACHINE [for SECONDS]`: a program keeps the machine from being rebooted."""
    machine = world.machines[action.args[0]]
    machine.systemd.inhibit("backup", "a backup runs")
    world.begin(f"inhibitor on {machine.name}", action.for_s, lambda: machine.systemd.inhibit("backup", ""))
