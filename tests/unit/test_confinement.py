"""Which units a machine takes that accepts only some, or confines them: what could become root is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.confinement import (
    DROPIN_NAME,
    NO_LIMITS,
    Judgement,
    Limits,
    Privileges,
    confined,
    is_confined,
    judge,
    limits_of,
    refuse,
    refuse_privileges,
    unconfined,
    user_of,
)
from fleetd.model.content import Content, DropIn, make_dropins
from fleetd.model.machine import Machine

NAME = "web@1.service"
CONFINING = Limits(confine=True)

TAKEN = [
    "[Service]\nExecStart=/usr/bin/web\n",
    "[Service]\nExecStart=\nExecStart=-@:/usr/bin/web web --port=%i\n",
    "[Service]\nType=oneshot\nExecStart=/bin/a ; /bin/b ; c\n",
    "[Service]\nExecStart=/bin/sh -c 'while true; do sleep 1; done'\n",
    "[Service]\nExecStart=/usr/bin/web \\\n  --port=80 \\\n  --verbose\n",
    "# a comment\n\n  [Unit]  \n ; another\n\tDescription = a b\n[Service]\nExecStart=/bin/a + ! !!\n",
    "[Unit]\nAfter=dbus.socket %p-db@%i.service dev-disk-by\\x2did-1.device\n",
    "[Unit]\nAfter=docker.service\nRequisite=docker.service\nPartOf=a.service\nWants=network-online.target\n",
    "[Service]\nStateDirectory=confined/web confined/web/%i\nStateDirectoryMode=0700\nRuntimeDirectory=\n",
    "[Service]\nEnvironmentFile=-/etc/environment\nEnvironment=A=b\n",
    "[Service]\nLoadCredential=db.pw:/run/fleet/credentials.sock\n[X-Fleet]\nSecret=db.pw\nGlobal=true\n",
    "[Service]\nX-User=root\nDynamicUser=yes\nNice=+5\nOOMScoreAdjust=500\nStandardOutput=journal\n",
    "[Service]\nProtectSystem=full\nPrivateTmp=yes\nMemoryMax=1G\nRestart=always\nKillMode=mixed\n",
    "[Install]\nWantedBy=multi-user.target\n[X-Other]\nUser=root\nany line\\=\n",
]
REFUSED = [
    # Another user, or rights of root.
    ("[Service]\nUser=root\n", "User= is not allowed in [Service]: the unit runs as a user of its own"),
    ("[Service]\nUser=\n", "User="),
    ("[Service]\n  User = root\n", "User="),
    ("[Service]\nGroup=docker\n", "Group="),
    ("[Service]\nSupplementaryGroups=docker\n", "SupplementaryGroups="),
    ("[Service]\nDynamicUser=no\n", "DynamicUser=no"),
    ("[Service]\nNoNewPrivileges=false\n", "NoNewPrivileges=false"),
    ("[Service]\nAmbientCapabilities=CAP_SYS_ADMIN\n", "AmbientCapabilities="),
    ("[Service]\nPermissionsStartOnly=yes\n", "commands would run as root"),
    ("[Service]\nPAMName=login\n", "PAMName="),
    ("[Service]\nuser=root\n", "user="),
    # Prefixes of commands.
    ("[Service]\nExecStart=+/bin/sh\n", "prefix"),
    ("[Service]\nExecStart=!/bin/sh\n", "prefix"),
    ("[Service]\nExecStart=!!/bin/sh\n", "prefix"),
    ("[Service]\nExecStart=-@:+/bin/sh\n", "prefix"),
    ("[Service]\nExecStart=|+/bin/sh\n", "without quotes"),
    ('[Service]\nExecStart="+/bin/sh"\n', "without quotes"),
    ("[Service]\nExecStart='+/bin/sh'\n", "without quotes"),
    ('[Service]\nExecStart=-"+/bin/sh"\n', "without quotes"),
    ("[Service]\nExecStart=\\x2b/bin/sh\n", "without quotes"),
    ("[Service]\nExecStart=%i/bin/sh\n", "without quotes"),
    ("[Service]\nType=oneshot\nExecStart=/bin/true ; +/bin/sh\n", "prefix"),
    ('[Service]\nType=oneshot\nExecStart=/bin/true\t;\t"+/bin/sh"\n', "without quotes"),
    ("[Service]\nExecStart=/bin/true ; ; +/bin/sh\n", "without quotes"),
    ("[Service]\nExecStart=\\\n  +/bin/sh\n", "prefix"),
    *((f"[Service]\n{key}=+/bin/sh\n", key) for key in ("ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop")),
    *((f"[Service]\n{key}=+/bin/sh\n", key) for key in ("ExecCondition", "ExecStopPost")),
    # What systemd reads or writes as root.
    ("[Service]\nEnvironmentFile=/etc/shadow\n", "systemd reads it as root"),
    ("[Service]\nLoadCredential=a:/etc/shadow\n", "systemd reads it as root"),
    ("[Service]\nLoadCredential=a:/run/fleet/credentials.sock/../../etc/shadow\n", "LoadCredential="),
    ("[Service]\nStandardInput=file:/etc/shadow\n", "systemd opens files as root"),
    ("[Service]\nStandardOutput=append:/etc/passwd\n", "systemd opens files as root"),
    ("[Service]\nOpenFile=/etc/shadow\n", "OpenFile="),
    ("[Service]\nBindPaths=/etc:/x\n", "BindPaths="),
    ("[Service]\nRootImage=/x\n", "RootImage="),
    ("[Service]\nPIDFile=/run/x\n", "PIDFile="),
    ("[Service]\nStateDirectory=fleet\n", "only directories below confined/"),
    ("[Service]\nStateDirectory=confined\n", "confined/"),
    ("[Service]\nStateDirectory=confined/../fleet\n", "confined/"),
    ("[Service]\nStateDirectory=confined/a:fleet\n", "confined/"),
    ("[Service]\nStateDirectory=confined/%I\n", "confined/"),
    ('[Service]\nRuntimeDirectory="fleet"\n', "confined/"),
    ("[Service]\nStateDirectoryMode=4777\n", "StateDirectoryMode="),
    ("[Service]\nConfigurationDirectory=ssl\n", "ConfigurationDirectory="),
    # Other units, and the machine.
    ("[Unit]\nWants=debug-shell.target\n", "services of fleet are"),
    ("[Unit]\nRequires=systemd-poweroff.service\n", "Requires="),
    ("[Unit]\nRequires=user@0.service\n", "Requires="),
    ("[Unit]\nBindsTo=fleet.service\n", "BindsTo="),
    ("[Unit]\nWants=%j.service\n", "Wants="),
    # Fleet's own units, which stop others where the machine is cut off.
    ("[Unit]\nWants=fleet-isolate.service\n", "Wants="),
    ("[Unit]\nBindsTo=fleet-isolated.target\n", "BindsTo="),
    ("[Unit]\nAfter=network.target fleet-isolate.service\n", "After=fleet-isolate.service"),
    ("[Unit]\nAfter=fleet-isolated.target\n", "After="),
    ('[Unit]\nAfter="fleet-lease.service"\n', "After="),
    ("[Unit]\nAfter='fleet-lease.service'\n", "After="),
    ("[Unit]\nAfter=fleet-%j.service\n", "After="),
    ("[Unit]\nPartOf=fleet.service\n", "PartOf="),
    ("[Unit]\nRequisite=fleet-lease.service\n", "Requisite="),
    ("[Unit]\nConflicts=sshd.service\n", "Conflicts="),
    ("[Unit]\nOnFailure=a.service\n", "OnFailure="),
    ("[Unit]\nUpholds=a.service\n", "Upholds="),
    ("[Unit]\nFailureAction=reboot\n", "FailureAction="),
    ("[Unit]\nJoinsNamespaceOf=a.service\n", "JoinsNamespaceOf="),
    ("[Unit]\nRefuseManualStop=yes\n", "RefuseManualStop="),
    ("[Service]\nSlice=user.slice\n", "Slice="),
    ("[Service]\nSockets=sshd.socket\n", "Sockets="),
    ("[Service]\nType=dbus\n", "Type=dbus"),
    ("[Service]\nOOMScoreAdjust=-1000\n", "OOMScoreAdjust="),
    ("[Install]\nAlias=sshd.service\n", "Alias= is not allowed in [Install]"),
    ("[Install]\nRequiredBy=sshd.service\n", "RequiredBy="),
    ("[Socket]\nListenStream=22\n", "section [Socket] is not allowed"),
    # What fleet and systemd might read differently.
    ("[Service]\r\nUser=root\n", "not printable"),
    ("[Service]\nDescription=a\x85User=root\n", "not printable"),
    ("[X-Fleet]\nA=b\\\n\n[Service]\nUser=root\n", "ends in a backslash"),
    ("[X-Fleet]\nA=b\\\n# c\n[Service]\nUser=root\n", "ends in a backslash"),
    ("[Service]\nEnvironment=A=\\\n[X-Fleet]\nUser=root\n", "User="),
    ("[X-Fleet]\nA=b\\", "ends in a backslash"),
    ("[X-Fleet] garbage\n", "section"),
    ("[X-Fleet\n]\nUser=root\n", "section"),
    ("[Service]]\nUser=root\n", "section"),
    ("\ufeff[Service]\nUser=root\n", "not printable"),
    ("User=root\n", "is no setting of a section"),
    ("[Service]\nUser\n", "is no setting of a section"),
]


@pytest.mark.parametrize("text", TAKEN)
def test_a_service_of_harmless_options_is_taken(text: str) -> None:
    assert judge(NAME, Content(text)).refusal == ""
    assert refuse(CONFINING, NAME, Content(text)) == ""


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_what_could_become_root_is_refused_in_the_file_and_in_a_drop_in(text: str, why: str) -> None:
    assert why in judge(NAME, Content(text)).refusal
    assert why in judge(NAME, Content(TAKEN[0], (DropIn("a.conf", text),))).refusal
    assert refuse(CONFINING, NAME, Content(text)).startswith("confines its units: ")
    assert refuse(NO_LIMITS, NAME, Content(text)) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("web.socket", "services only"),
        ("web.timer", "services only"),
        ("web", "services only"),
        ("a/../../b.service", "services only"),
        ("web@.service", "template"),
        ("web-.service", "other units"),
        ("web-@1.service", "other units"),
    ],
)
def test_other_names_than_those_of_services_are_refused(name: str, why: str) -> None:
    assert why in judge(name, Content(TAKEN[0])).refusal


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "~zz.conf", "x", ".a.conf", DROPIN_NAME])
def test_a_drop_in_that_is_no_file_of_the_units_folder_is_refused(name: str) -> None:
    assert "is no name of a drop-in" in judge(NAME, Content(TAKEN[0], (DropIn(name, "[Service]\n"),))).refusal


def test_the_services_that_a_unit_starts_are_named_so_that_they_can_be_looked_up() -> None:
    text = "[Unit]\nWants=network.target db@%i.service\nRequires=a.service a.service\n"
    assert judge(NAME, Content(text)) == Judgement(starts=("db@1.service", "a.service"))


@given(st.text("az-_.~zZ09:@\\", min_size=1, max_size=40))
def test_the_drop_in_of_fleet_comes_last(stem: str) -> None:
    content = Content(TAKEN[0], (DropIn(f"{stem}.conf", "[Service]\n"),))
    if judge(NAME, content).refusal == "":
        assert make_dropins([(f"{stem}.conf", "")])[0].name < DROPIN_NAME


def test_confining_adds_one_drop_in_that_can_be_taken_off_again() -> None:
    content = Content(TAKEN[0], (DropIn("a.conf", "[Service]\n"),))
    there = confined(NAME, content)
    assert not is_confined(NAME, content)
    assert is_confined(NAME, there)
    assert not is_confined("b.service", there)
    assert unconfined(there) == content
    assert "DynamicUser=yes\nNoNewPrivileges=yes\nProtectSystem=strict\n" in there.dropins[-1].text
    assert f"User={user_of(NAME)}\n" in there.dropins[-1].text


@pytest.mark.parametrize("name", ["root.service", "docker.service", "x" * 247 + ".service", "ünknown.service"])
def test_a_confined_unit_runs_as_a_user_that_no_machine_has(name: str) -> None:
    user = user_of(name)
    assert len(user) <= 31
    assert user.startswith("fleet-")
    assert user != user_of("other.service")


# The patterns of accept=.


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("web-1.service", "", ""),
        ("db.service", "", ""),
        ("cache.service", "", "accepts only web-*, db.service"),
        ("web-1.service", "[Install]\nAlias=web-2.service\n", ""),
        (
            "web-1.service",
            "[Install]\nAlias=cache.service\n",
            "accepts only web-*, db.service, and not the alias",
        ),
        ("web-1.service", "[Install]\nAlias=cache.socket\n", ""),
        ("web-1", "Alias", ""),
    ],
)
def test_a_machine_takes_names_that_match_alone(name: str, text: str, why: str) -> None:
    found = refuse(Limits(("web-*", "db.service")), name, Content(text))
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_long_list_of_patterns_is_cut() -> None:
    assert refuse(Limits(("a", "b", "c", "d")), "web.service", Content("")) == "accepts only a, b, c, …"


def test_a_machine_publishes_its_limits() -> None:
    assert limits_of(Machine("m")) is NO_LIMITS
    assert limits_of(Machine("m", accept=("a*",), confine=True)) == Limits(("a*",), True)


# What systemd makes of it.

GOOD = Privileges(NAME, True, True, user_of(NAME), "", (), True, True, "strict", 0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, ""),
        ({"group": user_of(NAME)}, ""),
        ({"flags": frozenset(["ignore-failure"])}, ""),
        ({"name": "b.service"}, "another unit's"),
        ({"is_ours": False}, "another unit's"),
        ({"is_read": False}, "has not read"),
        ({"user": "root"}, "User="),
        ({"user": ""}, "User="),
        ({"group": "docker"}, "Group="),
        ({"groups": ("docker",)}, "SupplementaryGroups="),
        ({"dynamic_user": False}, "DynamicUser="),
        ({"no_new_privileges": False}, "NoNewPrivileges="),
        ({"protect_system": "full"}, "ProtectSystem="),
        ({"ambient_capabilities": 1 << 21}, "AmbientCapabilities="),
        ({"as_root_before": True}, "PermissionsStartOnly="),
        ({"pam_name": "login"}, "PAMName="),
        ({"flags": frozenset(["privileged"])}, "the prefix of a command"),
        ({"flags": frozenset(["no-setuid"])}, "the prefix of a command"),
        ({"flags": frozenset(["something-new"])}, "the prefix of a command"),
    ],
)
def test_a_unit_is_started_only_with_what_it_is_to_have(change: dict[str, object], what: str) -> None:
    found = refuse_privileges(NAME, msgspec.structs.replace(GOOD, **change))
    assert what in found
    assert bool(found) == bool(what)


# The rule must hold for any text: what systemd would read of it is among what is allowed.


def _as_systemd(text: str) -> list[tuple[str, str, str]]:
    """What systemd's config_parse reads (shared/conf-parser.c), told by its code and not by ours."""
    found, section, pending = [], "", None
    for raw in text.encode().split(b"\n"):
        line = raw.rstrip(b"\r").decode(errors="replace").removeprefix("\ufeff")
        if line.lstrip(" \t\n\r")[:1] in ("#", ";") and line.lstrip(" \t\n\r"):
            continue
        joined = line if pending is None else pending + line.lstrip(" \t\n\r")
        escaped = False
        for char in joined:
            escaped = char == "\\" and not escaped
        if escaped:
            pending = joined[:-1] + " "
            continue
        pending = None
        stripped = joined.strip(" \t\n\r")
        if stripped.startswith("["):
            if stripped.endswith("]"):
                section = stripped[1:-1]
        elif "=" in stripped and section and not section.startswith("X-"):
            key, _, value = stripped.partition("=")
            found.append((section, key.strip(" \t\n\r"), value.strip(" \t\n\r")))
    return found


_PIECES = st.sampled_from(
    [
        *("[Service]", "[X-Fleet]", "[Unit]", "]", "[", "\n", "\\\n", "\\", " ", "\t", "\r", "\r\n", "\x85", "\v", "#"),
        *("User=root", "ExecStart=", "+", "!", "/bin/sh", '"', "'", "\\x2b", "@", "-", ":", " ; ", "=", "a", "%i"),
        *("Description=", "Environment=A=", "\ufeff", "\u2028", "EnvironmentFile=/etc/shadow", "\n\n", "\n# \\\n", ";"),
    ]
)


@given(st.lists(_PIECES, max_size=14).map("".join), st.lists(_PIECES, max_size=6).map("".join))
def test_what_is_taken_gives_systemd_no_user_no_foreign_file_and_no_privileged_command(one: str, two: str) -> None:
    command, other = f"[Service]\nExecStart={one}\n{two}", f"[X-Fleet]\nA={one}\n[Service]\n{two}"
    for text in (one, f"[Service]\n{one}", command, other):
        if judge(NAME, Content(text)).refusal:
            continue
        for section, key, value in _as_systemd(text):
            assert (section, key) not in (("Service", "User"), ("Service", "EnvironmentFile")), text
            if key == "ExecStart":
                assert not _has_privileged_command(value), text


def _has_privileged_command(value: str) -> bool:
    """True if a command of the line has a prefix with + or !, after quotes and escapes are taken away."""
    is_first = True
    for word in value.split():
        plain = word.replace('"', "").replace("'", "").replace("\\x2b", "+")
        if is_first and ("+" in plain[: len(plain) - len(plain.lstrip("-@:+!|"))] or plain.lstrip("-@:+")[:1] == "!"):
            return True
        is_first = word == ";"
    return False
