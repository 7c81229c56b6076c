"""The commands, one module each, imported when the command runs; each has a `command`.

What a command does stands in its module. One that does part of another's work imports that from there: `load` from
`start`, `unload` from `stop`, everything that creates units from `submit`.
"""

SUMMARIES = {
    "__complete": "Complete a command line, for shells",
    "apply": "Make the units of a folder those of the cluster",
    "cat": "Print the unit file and the drop-ins of a unit in the cluster",
    "cluster": "Set a cluster up, show what it consists of, or replace its authority",
    "cordon": "Keep new units off machines",
    "destroy": "Stop units and remove them from the cluster",
    "diff": "Show what applying a folder would change",
    "drain": "Move the units of machines to others, as the disruption budget allows",
    "edit": "Edit a drop-in of a unit in the cluster",
    "events": "Show what has happened in the cluster, or follow what happens",
    "export": "Print the units, sets and settings of the cluster as a file",
    "explain": "Show why a unit is on its machine, and on no other",
    "fd-forward": "Connect standard input and output to a unix socket; used by --tunnel",
    "forget-machine": "Remove parked machines from the cluster; their units start elsewhere",
    "help": "Show the commands, or the help of one",
    "history": "Show what has happened to a unit",
    "import": "Give the cluster the units, sets and settings of an export",
    "journal": "Show the log of a unit, from its machines",
    "list-machines": "List the machines of the cluster",
    "list-unit-files": "List the units of the cluster, and their target states",
    "list-units": "List the units on machines, with their states in systemd",
    "load": "Put units on machines without starting them",
    "login": "Get a certificate for https, make one for a service, or revoke them",
    "machine": "Add machines to the cluster, or remove them",
    "move": "Move a unit to a machine, and wait for that",
    "plan": "Show what would happen if machines or units were changed, and change nothing",
    "rebalance": "Move units until they are distributed more evenly, one after the other",
    "reboot": "Reboot machines one after the other, each drained before, or show the queue",
    "restart": "Restart units, as systemctl does",
    "rollout": "Show and steer changes that reach the units of a group one after the other",
    "scale": "Set how many instances a template has",
    "secret": "List, set or remove secrets, which units get as credentials of systemd",
    "settings": "Show or change the settings of the cluster",
    "simulate": "Play what happens to a cluster when machines are drained or lost, or a folder is applied",
    "ssh": "Log in to a machine or the machine of a unit, or run a command there",
    "start": "Start units; submits those that the cluster does not have",
    "status": "Show systemctl status of units, from their machines",
    "stop": "Stop units; they stay on their machines",
    "submit": "Submit unit files without starting them",
    "uncordon": "Let cordoned machines take new units again",
    "unload": "Stop units and take them off their machines",
    "verify": "Check unit files as submit does, without the cluster",
    "version": "Print the version of fleetctl",
    "whoami": "Show who the cluster takes you for, and what you may do",
}
FORMER = {"lo": "load"}  # abbreviations of CoreOS fleet that are not unique any more
HIDDEN = frozenset({"__complete"})
