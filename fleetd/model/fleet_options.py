"""The options of the section [X-Fleet].

`OPTIONS` is the one table of them: parsing, validation, fleetctl's warnings and the manual fleet.unit(5) use it. They
are parsed in constraints.py, those that say how a group of units is changed in group.py.
"""

import msgspec

FLEET_SECTION = "X-Fleet"
COREOS, OWN = "CoreOS fleet", "2.0.0"  # values of XFleetOption.since


class XFleetOption(msgspec.Struct, frozen=True, kw_only=True):
    """One option of [X-Fleet].

    `syntax` stands for the value in the manual, `units` says which units the option is for. `deprecated` are older
    spellings, `excludes` the options that cannot be used beside this one (each pair is listed once). `of_group`: it
    says how the units of a group are changed (group.py). `since` is the first version that reads the option.
    `has_effect`: something acts on it; if nothing does yet, it is checked, and the manual and fleetctl say so.
    """

    name: str
    syntax: str
    meaning: str
    units: str = "all"
    is_list: bool = False
    deprecated: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    of_group: bool = False
    since: str = COREOS
    has_effect: bool = True

    @property
    def spellings(self) -> tuple[str, ...]:
        """All spellings in the order in which CoreOS fleet reads them: of a list, the deprecated ones come first."""
        return (*self.deprecated, self.name) if self.is_list else (self.name, *self.deprecated)


# In the order in which validation looks at what they exclude.
OPTIONS = (
    XFleetOption(
        name="MachineID",
        syntax="ID",
        meaning="Run only on the machine with this id, given in full or by its first eight digits. If repeated, the "
        "first value counts.",
        deprecated=("X-ConditionMachineID", "X-ConditionMachineBootID"),
        excludes=("MachineOf", "Conflicts", "Global", "Replaces"),
    ),
    XFleetOption(
        name="MachineOf",
        syntax="UNIT",
        meaning="Run only on the machine of this unit. If repeated, all must hold; at most 128 values.",
        is_list=True,
        deprecated=("X-ConditionMachineOf",),
    ),
    XFleetOption(
        name="MachineMetadata",
        syntax="KEY=VALUE",
        meaning="Run only on machines with this `metadata` (see fleet.conf(5)). If repeated, values of one key are "
        "alternatives, and different keys must all hold. A value that is not one key, one `=` and one value restricts "
        "nothing; fleetctl warns of it.",
        is_list=True,
        deprecated=("X-ConditionMachineMetadata",),
    ),
    XFleetOption(
        name="Global",
        syntax="BOOLEAN",
        meaning="Run on every machine that meets the other constraints; true, yes, 1, on or t enable it. Commands do "
        "not wait for global units.",
        excludes=("MachineOf", "Replaces", "FailoverDelay", "RerunAfterFailover"),
    ),
    XFleetOption(
        name="Conflicts",
        syntax="GLOB",
        meaning="Never run on a machine with a unit whose name matches, whichever of the two was placed first. May be "
        "repeated, and a value may hold several globs separated by whitespace; at most 128 globs, of which at most 8 "
        "may begin with `*`, `?` or `[`.",
        is_list=True,
        deprecated=("X-Conflicts",),
        excludes=("Replaces",),
    ),
    XFleetOption(
        name="Replaces",
        syntax="GLOB",
        meaning="Units whose name matches move to another machine when this unit is placed on theirs. May be repeated, "
        "and a value may hold several globs separated by whitespace; bounds as for `Conflicts`.",
        is_list=True,
    ),
    XFleetOption(
        name="FailoverDelay",
        syntax="TIME",
        meaning="How long a launched unit waits for its dead machine to return before it is started elsewhere: a time "
        "span as in systemd.time(7), or `infinity` to wait until an operator acts. Default: `failover_delay` of "
        "fleet.conf(5). See below.",
        units="all but global units",
        since=OWN,
    ),
    XFleetOption(
        name="RerunAfterFailover",
        syntax="BOOLEAN",
        meaning="Whether a oneshot that has completed runs again elsewhere when its machine dies or leaves: true, yes, "
        "1, on, t or false, no, 0, off, f. Default: `rerun_after_failover` of fleet.conf(5).",
        units="services of Type=oneshot that are not global",
        since=OWN,
    ),
    XFleetOption(
        name="Secret",
        syntax="NAME",
        meaning="A secret that the unit is given where it runs (`fleetctl secret set NAME`). Beside it, the unit says "
        "where systemd gets it: `LoadCredential=NAME:/run/fleet/credentials.sock` in [Service]; the service reads "
        "`$CREDENTIALS_DIRECTORY/NAME`. May be repeated, and a value may hold several names separated by whitespace; "
        "at most 32. A unit whose secret is missing is not placed. See below.",
        is_list=True,
        since=OWN,
    ),
    XFleetOption(
        name="Fetch",
        syntax="URL sha256:HEX [NAME]",
        meaning="A file that its machine downloads (http or https) before the unit starts there, and before it is "
        "stopped for other content: the unit finds it as `/var/lib/fleet/fetched/%n/NAME`, which root alone may read. "
        "What has another hash than this one is not taken. The name is by default the last one in the URL. May be "
        "repeated, at most 16 times. See below.",
        is_list=True,
        since=OWN,
    ),
    XFleetOption(
        name="Announce",
        syntax="[NAME] PORT[/PROTOCOL]",
        meaning="While the unit is at work, its machine announces that it answers to this name at this port; `fleetctl "
        "services` lists that. The name is a label of a DNS name (lower-case letters, digits, `-`), by default the "
        "unit's name before `@` and `.`; the protocol is tcp or udp. May be repeated, at most 16 times. Several units "
        "may announce one name, also at different ports. See below.",
        is_list=True,
        since=OWN,
    ),
    XFleetOption(
        name="AnnounceDelay",
        syntax="TIME",
        meaning="For so long the unit goes on after its names were withdrawn, before it is stopped or restarted: "
        "others may have looked them up just before. At most 60s. Default: 3s.",
        units="units with Announce",
        since=OWN,
    ),
    XFleetOption(
        name="Check",
        syntax="http:PORT/PATH|tcp:PORT|exec:/PROGRAM ARGUMENT...|container",
        meaning="How the machine finds out whether the unit works, beside being active. `http`: a GET of the path at "
        "this port of the machine is answered with a status from 200 to 399; `tcp`: a connection is taken; `exec`: the "
        "program, run as root, exits with 0. A check that takes longer than `CheckInterval`, or 10s, has failed. "
        "`container`: podman calls the unit's container healthy, by `HealthCmd` of its file or a check of the image, "
        "as often as `HealthInterval` says.",
        units="units with Announce",
        since=OWN,
    ),
    XFleetOption(
        name="CheckInterval",
        syntax="TIME",
        meaning="How often it is checked: 1s to 1h. Until it passes for the first time, each second. Default: 5s.",
        units="units with Check",
        since=OWN,
    ),
    XFleetOption(
        name="CheckFailures",
        syntax="NUMBER",
        meaning="After how many failures in a row the unit is not announced any more. One that has failed several "
        "times in five minutes has to pass 2, 4, 8, then 16 times in a row before it is announced again. Default: 2.",
        units="units with Check",
        since=OWN,
    ),
    XFleetOption(
        name="IsolationSec",
        syntax="TIME",
        meaning="The unit never runs twice, whatever happens to networks and the store: where its machine is cut off "
        "from the store, systemd stops it so long after the last heartbeat that was answered, and it is started "
        "elsewhere only `IsolationStopSec` and 5s later. An outage of the store stops it everywhere. 3s to 2min, and "
        "not less than `agent_ttl` of fleet.conf(5). Beside `Lock`: how long it runs on after the last renewal. "
        "See below.",
        units="services that are not global, or have Lock",
        since=OWN,
    ),
    XFleetOption(
        name="IsolationStopSec",
        syntax="TIME",
        meaning="How long a unit that is stopped for that may take before it is killed, whatever TimeoutStopSec= says: "
        "1s to 1min. Default: 10s.",
        units="services with IsolationSec or Lock",
        since=OWN,
    ),
    XFleetOption(
        name="Lock",
        syntax="NAME [SLOTS]",
        meaning="The unit runs only while it holds this lock (`fleetctl locks`), which so many may hold at a time "
        "(default: 1). Its machine takes the lock before it starts the unit, and systemd stops the unit if the lock "
        "cannot be renewed for `IsolationSec` (here 30s by default). The fencing token is in /run/fleet/locks/NAME.env "
        "as `FLEET_LOCK_TOKEN`. See below.",
        units="services",
        since=OWN,
    ),
    XFleetOption(
        name="Instances",
        syntax="NUMBER|NAME...",
        meaning="Which instances of the template there are: a number, for `1` up to it, or the names themselves; "
        "at most 1000.",
        units="templates",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="MaxUnavailable",
        syntax="NUMBER|PERCENTAGE",
        meaning="The disruption budget of the group. While so many of its members are unavailable, for whatever cause, "
        "a rollout changes or restarts no member that is available. A percentage is rounded down, to no less than 1. "
        "Default: 1.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateSettleSec",
        syntax="TIME",
        meaning="How long a unit that a rollout has changed has to be active without a restart to be proven; then the "
        "next one is changed. Default: 10s.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateDeadlineSec",
        syntax="TIME",
        meaning="A unit that is not proven so long after it was changed has failed (a oneshot may take longer), and a "
        "rollout that other unavailable units have kept from going on for so long is paused. Longer than "
        "`UpdateSettleSec`. Default: 5min.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateFailure",
        syntax="revert|pause|continue",
        meaning="What follows when a changed unit fails: `revert` gives each changed unit its former content back, "
        "within the budget (a restart without other content is paused instead), `pause` changes no further unit until "
        "`fleetctl rollout resume`, `continue` goes on with the next. Default: revert.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateTolerate",
        syntax="NUMBER|PERCENTAGE",
        meaning="With how many failed units a rollout goes on all the same; they do not count for `MaxUnavailable` any "
        "more. Percentages are rounded down. Default: 0.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateCanary",
        syntax="NUMBER",
        meaning="How many units are changed first; the others follow after `fleetctl rollout continue`, or "
        "`UpdateCanarySec` after these are proven. More than the group has are all of it. Default: 0.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateCanarySec",
        syntax="TIME",
        meaning="How long the first units (`UpdateCanary`) run, proven, before others are changed; `infinity` waits "
        "for an operator. Default: infinity.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="UpdateAction",
        syntax="auto|restart|reload|none",
        meaning="What any change of content does to a unit that runs. `auto`: no more than the changed options need, a "
        "daemon-reload or a restart. `restart`: a restart. `reload`: a daemon-reload, and `systemctl reload` if the "
        "unit can reload (`ExecReload=`, `Type=notify-reload`; one that fails is a failure of the change), but no "
        "restart. `none`: systemd reads the new files, and that is all. With `reload` and `none`, what a running "
        "process cannot take over counts from the unit's next start; the unit is proven when it stays active, which "
        "says nothing of that. A restart that somebody asks for is made all the same. Default: auto.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="DesiredState",
        syntax="launched|loaded|inactive",
        meaning="The target state that a unit is given when it is created by applying a folder. Default: launched.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="Handover",
        syntax="stop-first|start-first",
        meaning="When a drain or an operator moves a unit to another machine: `stop-first` stops it before it starts "
        "there; `start-first` stops it only when it is proven there (`UpdateSettleSec`), so that it runs twice for a "
        "moment. One that fails there, or is not proven within `UpdateDeadlineSec`, stays where it is; a drain tries "
        "that once. start-first takes nothing from `MaxUnavailable`. It cannot be used with `Global`, with "
        "`MachineOf` on either side (a unit that another one names in spite of that stops first), nor with "
        "Type=oneshot. Default: stop-first.",
        of_group=True,
        since=OWN,
    ),
    XFleetOption(
        name="Movable",
        syntax="BOOLEAN",
        meaning="Whether `fleetctl rebalance` may move units of the group to machines with fewer of them. Default: "
        "true.",
        of_group=True,
        since=OWN,
    ),
)
