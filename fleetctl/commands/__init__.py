"""One module a verb, imported when the verb is run; each has a `command`. What verbs share lies beside this package."""

SUMMARIES = {
    "__complete": "Say what may stand at the end of a command line, for the completion of shells",
    "cat": "Print the unit file of a unit in the cluster",
    "destroy": "Stop units and remove them from the cluster",
    "fd-forward": "Join standard input and output to a unix socket; what --tunnel runs at the other end",
    "forget-machine": "Give up machines whose fleetd was stopped; their units are started elsewhere",
    "help": "Show the commands, or what one of them does",
    "journal": "Show the log of a unit, from the machines that it is on",
    "list-machines": "List the machines of the cluster",
    "list-unit-files": "List the units of the cluster, and what is wanted of them",
    "list-units": "List the units that are on machines, as systemd sees them",
    "load": "Put units on machines without starting them",
    "restart": "Stop units and start them again",
    "ssh": "Log in to a machine, or to that of a unit, or run a command there",
    "start": "Start units, and submit those that the cluster does not have",
    "status": "Show what systemd says of units, on the machines that they are on",
    "stop": "Stop units, and leave them on their machines",
    "submit": "Hand unit files to the cluster without starting them",
    "unload": "Stop units and take them off their machines",
    "verify": "Check unit files as submit would, without the cluster",
    "version": "Print the version of fleetctl",
}
HIDDEN = frozenset({"__complete"})
