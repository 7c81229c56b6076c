"""The unit files of the simulated operators: one of each kind that the cluster treats differently.

Each has editions with different content, so that replacing one is an operation: an edition with an even number needs a
restart of a running unit, the third one a daemon-reload. The same holds for the editions of a drop-in.
"""

from fleetd.model.content import DropIn, make_dropins
from fleetd.model.quadlet.translation import translate
from fleetd.model.unitfile import parse_unit_file, render_unit_file

EDITIONS = 3

_SERVICE = "[Service]\nExecStart=/bin/daemon\n"
BOXED = "boxed.service"

UNITS = {
    "web@1.service": _SERVICE,
    "web@2.service": _SERVICE,
    "web@3.service": _SERVICE,
    "left.service": f"{_SERVICE}[X-Fleet]\nConflicts=right.service\n",
    "right.service": f"{_SERVICE}[X-Fleet]\nConflicts=left.service\n",
    "beside.service": f"{_SERVICE}[X-Fleet]\nMachineOf=left.service\n",
    "picky.service": f"{_SERVICE}[X-Fleet]\nMachineMetadata=disk=ssd\n",
    "pinned.service": f"{_SERVICE}[X-Fleet]\nMachineID={'1' * 32}\n",
    "everywhere.service": f"{_SERVICE}[X-Fleet]\nGlobal=true\n",
    "pusher.service": f"{_SERVICE}[X-Fleet]\nReplaces=web@1.service\n",
    "slow.service": "[Service]\nExecStart=/bin/daemon\nExecStop=/bin/sleep 20\n",
    "once.service": "[Service]\nType=oneshot\nExecStart=/bin/sleep 15\n",
    "needy.service": f"[Unit]\nAfter=web@2.service\n{_SERVICE}[X-Fleet]\nMachineOf=web@2.service\n",
    "patient.service": f"{_SERVICE}[X-Fleet]\nFailoverDelay=2min\n",
    "rooted.service": f"{_SERVICE}[X-Fleet]\nFailoverDelay=infinity\n",
    "follower.service": f"{_SERVICE}[X-Fleet]\nMachineOf=patient.service\n",
    "again.service": "[Service]\nType=oneshot\nExecStart=/bin/sleep 15\n[X-Fleet]\nRerunAfterFailover=true\n",
    "broken.service": "[Service]\nType=simple\n",  # nothing to execute: systemd reports a bad setting
    "twice.service": (  # two of it may run for a moment
        f"{_SERVICE}[X-Fleet]\nHandover=start-first\nUpdateSettleSec=2s\nUpdateDeadlineSec=30s\nConflicts=slow.service\n"
    ),
    "talk.socket": "[Socket]\nListenStream=7000\nAccept=yes\n",
    "talk@.service": "[Service]\nExecStart=/bin/talk\nStandardInput=socket\n[X-Fleet]\nMachineMetadata=disk=none\n",
    "secret.service": (
        "[Service]\nExecStart=/bin/daemon\nLoadCredential=db.pw:/run/fleet/credentials.sock\n"
        "[X-Fleet]\nSecret=db.pw\nUpdateSettleSec=2s\nUpdateDeadlineSec=30s\n"
    ),
    BOXED: "[Container]\nImage=registry:5000/boxed:1\n",  # each edition has another image
    "local.service": _SERVICE,  # machine 2 has a unit of this name of its own
    "named.service": f"{_SERVICE}[X-Fleet]\nAnnounce=8080\nCheck=tcp:8080\n",
    "plain.service": f"{_SERVICE}[X-Fleet]\nAnnounce=named 8081\nMachineOf=named.service\n",
    "called.service": f"{_SERVICE}[X-Fleet]\nGlobal=true\n",  # each edition announces another name
}

# For scenarios alone. Whether tied.service runs fleet does not decide: systemd stops it with its requirement.
TIED = {
    "tied.service": (
        f"[Unit]\nRequires=web@3.service\nAfter=web@3.service\n{_SERVICE}[X-Fleet]\nMachineOf=web@3.service\n"
    ),
}

# For scenarios alone: units that need a file, one of which replaces the other where it may be itself.
FETCHING = {
    "fetching.service": (
        f"{_SERVICE}[X-Fleet]\nMachineMetadata=disk=ssd\nFetch=https://files/one sha256:{'1' * 64} one\n"
    ),
    "replacer.service": (
        f"{_SERVICE}[X-Fleet]\nMachineMetadata=spot=one\nReplaces=fetching.service\n"
        f"Fetch=https://files/two sha256:{'2' * 64} two\n"
    ),
    "beside-fetching.service": (
        f"{_SERVICE}[X-Fleet]\nMachineOf=fetching.service\nFetch=https://files/three sha256:{'3' * 64} three\n"
    ),
}

# For scenarios, and for seeds of their own: what must not run twice.
ISOLATED = {
    "single.service": f"{_SERVICE}[X-Fleet]\nIsolationSec=20s\n",
    "stubborn.service": (
        "[Service]\nExecStart=/bin/daemon\nExecStop=/bin/sleep 40\n[X-Fleet]\nIsolationSec=12s\nIsolationStopSec=5s\n"
    ),
    "beside-single.service": f"{_SERVICE}[X-Fleet]\nMachineOf=single.service\n",
    "alone@1.service": f"{_SERVICE}[X-Fleet]\nIsolationSec=30s\nFailoverDelay=1min\n",
}

# The same for what runs under a lock. Two units share one; of the global one, one machine runs it.
LOCKED = {
    "locked-single.service": f"{_SERVICE}[X-Fleet]\nLock=one\nIsolationSec=20s\nFailoverDelay=1min\n",
    "locked.service": f"{_SERVICE}[X-Fleet]\nLock=one\n",
    "pool-1.service": f"{_SERVICE}[X-Fleet]\nLock=pool 2\n",
    "pool-2.service": f"{_SERVICE}[X-Fleet]\nLock=pool 2\n",
    "pool-3.service": "[Service]\nExecStart=/bin/daemon\nExecStop=/bin/sleep 20\n[X-Fleet]\nLock=pool 2\n",
    "chosen.service": f"{_SERVICE}[X-Fleet]\nGlobal=true\nLock=chosen\n",
}

SECRET = "db.pw"  # what secret.service names

ROLLED = "roll@.service"  # a group that is changed one member after the other
ROLLED_UNITS = ("roll@1.service", "roll@2.service", "roll@3.service")
_ROLLED = "Instances=3\nUpdateSettleSec=2s\nUpdateDeadlineSec=30s\n"

BROKEN = 4  # an edition that systemd refuses to start
NAMED = 5  # it, and those after it, differ in Environment= alone, and announce the name "roll"

_LINES = {2: "Environment=EDITION=2", 3: "MemoryMax=1G"}
_CALLED = {1: "Announce=8082", 2: "Announce=another 8082\nCheck=http:8082/", 3: "Announce=8082\nAnnounce=other 8083"}


def unit_dropins(edition: int = 1) -> tuple[DropIn, ...]:
    """The drop-ins of this edition: none in the first."""
    line = _LINES.get(edition)
    return make_dropins([("edition.conf", f"[Service]\n{line}\n")]) if line else ()


def unit_text(name: str, edition: int = 1) -> str:
    """The unit file of this name, as fleet renders it."""
    line = _LINES.get(edition, "")
    described = (UNITS | TIED | FETCHING | ISOLATED | LOCKED)[name]
    announced = f"[X-Fleet]\n{_CALLED[edition]}\n" if name == "called.service" else ""
    options = parse_unit_file(f"[Unit]\nDescription=edition {edition}\n{described}{announced}[Service]\n{line}\n")
    if name == BOXED:
        options = translate("boxed.container", options, lambda _: None, image_of(edition))
    return render_unit_file(options)


def image_of(edition: int) -> str:
    """The image that this edition of boxed.service needs."""
    return f"registry:5000/boxed@sha256:{edition:064x}"


def rolled_text(edition: int) -> str:
    """The unit file of the template whose instances are changed one after the other. Those of the second edition start
    where they move before they stop where they were; those of the third one announce themselves."""
    line = _LINES.get(edition, "")
    announced = "Announce=909%i\nCheck=tcp:909%i\n" if edition == 3 else ""
    service = "[Service]\nType=simple\n" if edition == BROKEN else _SERVICE
    handover = "Handover=start-first\n" if edition == 2 else ""
    if edition >= NAMED:
        line, announced = f"Environment=EDITION={edition}", "Announce=8080\nCheck=tcp:8080\n"
    return f"[Unit]\nDescription=edition {edition}\n{service}{line}\n[X-Fleet]\n{_ROLLED}{handover}{announced}"
