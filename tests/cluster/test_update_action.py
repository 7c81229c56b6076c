"""UpdateAction= on real machines: the process stays, and systemd reloads the unit."""

from pathlib import Path

from tests.cluster.operator import SLEEPER, Operator

UNITS = ("web@1.service", "web@2.service")
FLEET = "[X-Fleet]\nInstances=2\nUpdateSettleSec=1s\nUpdateAction={}\n"


def template(action: str, *service: str) -> str:
    return "\n".join((SLEEPER.rstrip("\n"), *service)) + f"\n{FLEET.format(action)}"


def apply(operator: Operator, folder: Path, text: str, *, check: bool = True) -> str:
    """Apply a folder of one template; returns all that was printed."""
    (folder / "web@.service").write_text(text)
    result = operator.cluster.fleetctl("apply", str(folder), check=check)
    assert (result.returncode == 0) is check
    return f"{result.stdout}{result.stderr}"


def test_a_unit_is_reloaded_and_keeps_its_process(operator: Operator, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    folder.mkdir()
    apply(operator, folder, template("reload", "Environment=A=1"))
    operator.wait_until_placed(*UNITS)
    pids = operator.pids(*UNITS)

    reloads = "ExecReload=/bin/touch /var/lib/reloaded-%i"
    told = apply(operator, folder, template("reload", "Environment=A=2", reloads))
    assert "2 instances: reload without a restart (UpdateAction=reload)" in told
    assert operator.pids(*UNITS) == pids
    for number, unit in enumerate(UNITS, start=1):
        machine = operator.machine_of(unit)
        assert (machine.root / f"var/lib/reloaded-{number}").exists()
        assert machine.show(unit, "Environment") == "A=2"

    told = apply(operator, folder, template("reload", "Environment=A=3", "ExecReload=/bin/false"), check=False)
    assert "web@1.service failed on " in told
    assert "its reload ended with: failed" in told
    assert operator.pids(*UNITS) == pids
    assert operator.machine_of(UNITS[0]).show(UNITS[0], "Environment") == "A=2"


def test_content_that_is_put_off_counts_from_the_next_start(operator: Operator, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    folder.mkdir()
    apply(operator, folder, template("none", "Environment=A=1"))
    operator.wait_until_placed(*UNITS)
    pids = operator.pids(*UNITS)
    told = apply(operator, folder, template("none", "Environment=A=2"))
    assert "2 instances: the new content counts from its next start (UpdateAction=none)" in told
    assert operator.pids(*UNITS) == pids
    operator.cluster.fleetctl("rollout", "restart", "web@.service")
    after = operator.pids(*UNITS)
    for unit in UNITS:
        assert pids[unit] != after[unit]
        machine = operator.machine_of(unit)
        environment = machine.run(["cat", f"/proc/{after[unit]}/environ"]).stdout
        assert "A=2" in environment
