"""content_change.py against a real systemd: a change for which it asks for a reload at most is in force after one, and
the process stays. For each option, `systemctl show` says the same of a changed unit as of one that was started with the
new value."""

from collections.abc import Iterator, Mapping

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.model.content import Content
from fleetd.model.content_change import RELOADED, Impact, impact
from tests.cluster.operator import SLEEPER

# Option → two values. Each option that content_change.py takes as a reload is here, and some that it takes as nothing.
VALUES = {
    "OnFailure": ("a.service", "b.service c.service"),
    "OnFailureJobMode": ("replace", "fail"),
    "StartLimitIntervalSec": ("20s", "30s"),
    "StartLimitInterval": ("20s", "30s"),
    "StartLimitBurst": ("7", "9"),
    "StartLimitAction": ("none", "reboot"),
    "CPUAccounting": ("yes", "no"),
    "CPUWeight": ("200", "300"),
    "StartupCPUWeight": ("200", "300"),
    "CPUQuota": ("50%", "20%"),
    "CPUQuotaPeriodSec": ("50ms", "20ms"),
    "MemoryAccounting": ("yes", "no"),
    "MemoryMin": ("1M", "2M"),
    "MemoryLow": ("1M", "2M"),
    "MemoryHigh": ("300M", "200M"),
    "MemoryMax": ("300M", "200M"),
    "MemorySwapMax": ("300M", "200M"),
    "TasksAccounting": ("yes", "no"),
    "TasksMax": ("60", "50"),
    "IOAccounting": ("yes", "no"),
    "IOWeight": ("200", "300"),
    "StartupIOWeight": ("200", "300"),
    "TimeoutSec": ("20s", "30s"),
    "TimeoutStopSec": ("20s", "30s"),
    "KillMode": ("mixed", "process"),
    "KillSignal": ("SIGINT", "SIGHUP"),
    "SendSIGHUP": ("yes", "no"),
    "SendSIGKILL": ("no", "yes"),
    "FinalKillSignal": ("SIGABRT", "SIGQUIT"),
    "Restart": ("always", "on-failure"),
    "RestartSec": ("2s", "3s"),
    "RestartPreventExitStatus": ("1", "2"),
    "RestartForceExitStatus": ("1", "2"),
    "RestartKillSignal": ("SIGINT", "SIGHUP"),
    "TimeoutStartSec": ("20s", "30s"),
    "TimeoutAbortSec": ("20s", "30s"),
    "TimeoutStartFailureMode": ("abort", "kill"),
    "TimeoutStopFailureMode": ("abort", "kill"),
    "ExecStop": ("/bin/true", "/bin/false"),
    "ExecStopPost": ("/bin/true", "/bin/false"),
    "ExecReload": ("/bin/true", "/bin/false"),
    "Description": ("a", "b"),
    "Documentation": ("man:a", "man:b"),
    "WantedBy": ("a.target", "b.target"),
    "MaxUnavailable": ("1", "2"),
    "X-Note": ("a", "b"),
}
NEEDED = {"CPUQuotaPeriodSec": "CPUQuota=10%\n"}  # options without which the tested one is not shown
# Properties of this unit or of its present run, whatever its file says.
OWN = frozenset(
    (
        *("Id", "Names", "Description", "FragmentPath", "ControlGroup", "ControlGroupId", "Slice", "NRestarts"),
        *("InvocationID", "MainPID", "ExecMainPID", "ExecStart", "ExecStartEx", "WatchdogTimestamp"),
        *("MemoryCurrent", "MemoryAvailable", "CPUUsageNSec", "TasksCurrent"),
    )
)
BODIES = {
    "Service": ("service", SLEEPER),
    "Socket": ("socket", "[Socket]\nListenStream=/run/{name}.sock\nService=any.service\n"),
    "Mount": ("mount", "[Mount]\nWhat=tmpfs\nWhere=/{name}\nType=tmpfs\n"),
    "Slice": ("slice", "[Slice]\n"),
}
CASES = [(section, option) for section in BODIES for option in sorted(RELOADED[section])]
CASES += [("Unit", option) for option in sorted(RELOADED["Unit"])]
NONE_CASES = [
    ("Unit", "Description"),
    ("Unit", "Documentation"),
    ("Unit", "X-Note"),
    ("Service", "X-Note"),
    ("Install", "WantedBy"),
    ("X-Fleet", "MaxUnavailable"),
]
CASES += NONE_CASES


def text(section: str, option: str, name: str, value: str) -> str:
    """A unit file with this value of the option; '' leaves the option out."""
    kind = section if section in BODIES else "Service"
    line = f"[{section}]\n{option}={value}\n" if value else ""
    needed = f"[{section}]\n{NEEDED[option]}" if option in NEEDED else ""
    return BODIES[kind][1].format(name=name) + needed + line


class Proposal:
    """One option with three units: changed from one value to another, without the option afterwards, and started anew
    as each of the results."""

    def __init__(self, section: str, option: str) -> None:
        old, new = VALUES[option]
        self.stem = f"{section}{option}".lower()
        self.suffix = BODIES.get(section, BODIES["Service"])[0]
        self.before = {self._name("changed"): old, self._name("dropped"): old}
        self.after = {self._name("changed"): new, self._name("dropped"): ""}
        self.models = {self._name("changed"): self._name("new"), self._name("dropped"): self._name("without")}
        self._section, self._option = section, option

    def _name(self, what: str) -> str:
        return f"{what}{self.stem}.{self.suffix}"

    def files(self, values: Mapping[str, str]) -> dict[str, str]:
        return {name: text(self._section, self._option, name.split(".")[0], value) for name, value in values.items()}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Cluster(machines=1, fleetd=False) as cluster:
        (machine,) = cluster.machines
        yield machine


def write(machine: Machine, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        machine.path(f"/run/systemd/system/{name}").write_text(content)


def show(machine: Machine, names: list[str]) -> dict[str, dict[str, str]]:
    """Unit → properties from systemctl show."""
    blocks = machine.run(["systemctl", "show", "--", *names]).stdout.rstrip("\n").split("\n\n")
    return {
        name: dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for name, block in zip(names, blocks, strict=True)
    }


def lasting(name: str, shown: Mapping[str, str]) -> dict[str, str]:
    """The properties that come from the unit's file: no times, no processes, not its name."""
    stem = name.split(".")[0]
    kept = {key: value for key, value in shown.items() if key not in OWN and "Timestamp" not in key}
    weights = ("IOAccounting", "IOWeight", "StartupIOWeight")
    lasting = {key: value for key, value in kept.items() if key in weights or not key.startswith(("IO", "IP"))}
    return {key: " ".join(sorted(value.replace(stem, "NAME").split())) for key, value in lasting.items()}


@pytest.fixture(scope="module")
def result(machine: Machine) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """The properties of all units before the change, and after the change and a daemon-reload."""
    trials = [Proposal(*case) for case in CASES]
    write(machine, {"any.service": SLEEPER})
    for trial in trials:
        write(machine, trial.files(trial.before))
        write(machine, trial.files({trial.models[name]: value for name, value in trial.after.items()}))
    machine.run(["systemctl", "daemon-reload"])
    names = [name for trial in trials for name in (*trial.before, *trial.models.values())]
    machine.run(["systemctl", "start", "--", *names], timeout_s=120)
    before = show(machine, names)
    for trial in trials:
        write(machine, trial.files(trial.after))
    machine.run(["systemctl", "daemon-reload"])
    return before, show(machine, names)


@pytest.mark.covers("C.5")
@pytest.mark.parametrize(("section", "option"), CASES)
def test_an_option_of_class_reload_is_in_force_after_a_daemon_reload(
    result: tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]], section: str, option: str
) -> None:
    before, after = result
    trial = Proposal(section, option)
    files, changed = trial.files(trial.before), trial.files(trial.after)
    for name, model in trial.models.items():
        expected = Impact.NONE if (section, option) in NONE_CASES else Impact.RELOAD
        assert impact(Content(files[name]), Content(changed[name]))[0] is expected
        assert before[name]["ActiveState"] == after[name]["ActiveState"] == "active"
        assert before[name].get("MainPID") == after[name].get("MainPID")
        assert before[name]["InvocationID"] == after[name]["InvocationID"]
        assert lasting(name, after[name]) == lasting(model, after[model])


@pytest.mark.covers("C.5")
def test_each_section_with_options_of_class_reload_is_tried() -> None:
    assert {*BODIES, "Unit"} == set(RELOADED)


def test_the_comparison_detects_a_value_that_is_not_in_force(
    result: tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]],
) -> None:
    before, after = result
    same = 0
    for case in CASES:
        trial = Proposal(*case)
        if case not in NONE_CASES and case[1] not in ("TasksAccounting", "StartLimitInterval"):
            same += sum(
                lasting(name, before[name]) == lasting(model, after[model]) for name, model in trial.models.items()
            )
    assert same <= len(CASES) // 5, "most changes show"
