"""Folders on real machines: units/site is applied, changed under traffic, spoilt, and taken back."""

import shutil
import threading
import urllib.request
from pathlib import Path

import pytest

from contrib.testbed.root import CHECKOUT
from tests.cluster.operator import Operator

SITES = tuple(f"site@{number}.service" for number in (1, 2, 3))
PORT = 8090
PATIENCE_S = 120.0


class Visitors:
    """While entered, asks every machine for the site again and again. `least` is on how few it ever answered."""

    def __init__(self, operator: Operator) -> None:
        self.least = len(operator.cluster.machines)
        self._urls = [f"http://{machine.address}:{PORT}/" for machine in operator.cluster.machines]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Visitors":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.least = min(self.least, len(self.answers()))

    def answers(self) -> list[str]:
        """What the machines that answer say."""
        found = []
        for url in self._urls:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    found.append(answer.read().decode().strip())
            except OSError:
                continue
        return found


@pytest.fixture
def deploy(operator: Operator) -> Path:
    """A copy of units/site, applied."""
    folder = operator.folder / "deploy"
    shutil.copytree(CHECKOUT / "units/site", folder)
    told = apply(operator, folder)
    assert told[-1] == 0, told
    return folder


def apply(operator: Operator, folder: Path, *flags: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit status of an apply."""
    done = operator.cluster.fleetctl("apply", *flags, str(folder), timeout_s=PATIENCE_S, check=False)
    return done.stdout, done.stderr, done.returncode


def edit(folder: Path, name: str, before: str, after: str) -> None:
    path = folder / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.covers("C.6")
def test_the_example_runs_and_applying_it_again_touches_nothing(operator: Operator, deploy: Path) -> None:
    placed = operator.placed()
    assert len({placed[site][0] for site in SITES}) == 3
    assert len(placed["load.service"]) == 3
    assert placed["check.timer"]
    assert operator.reports()["check.service"]["target"] == "loaded"
    assert sorted(answer.split(",")[0] for answer in Visitors(operator).answers()) == [
        f"Instance {number}" for number in (1, 2, 3)
    ]
    revision = operator.cluster.etcd.etcdctl("get", "--prefix", "/fleet/units/", "--write-out=json")
    assert apply(operator, deploy) == ("deploy: nothing to do (7 unchanged)\n", "", 0)
    assert operator.cluster.etcd.etcdctl("get", "--prefix", "/fleet/units/", "--write-out=json") == revision


def test_a_limit_changes_without_a_restart_and_a_command_one_by_one(operator: Operator, deploy: Path) -> None:
    pids = operator.pids(*SITES)
    edit(deploy, "site@.service.d/10-limits.conf", "MemoryMax=64M", "MemoryMax=96M")
    out, err, status = apply(operator, deploy)
    assert (status, err) == (0, "")
    assert "3 instances: daemon-reload is enough (MemoryMax= changed)" in out
    assert operator.pids(*SITES) == pids
    machine = operator.machine_of(SITES[0])
    shown = machine.run(["systemctl", "show", "--value", "--property=MemoryMax", SITES[0]]).stdout
    assert shown.strip() == str(96 * 1024 * 1024)

    edit(deploy, "site@.service", "http.server", "http.server --protocol HTTP/1.1")
    with Visitors(operator) as visitors:
        out, err, status = apply(operator, deploy)
    assert (status, err) == (0, "")
    assert all(pids[site] != pid for site, pid in operator.pids(*SITES).items())
    assert visitors.least >= 2
    assert [line.split(" on ")[0] for line in out.splitlines() if " proven after " in line] == list(SITES)


def test_a_bad_change_is_reverted_by_itself_and_said_again(operator: Operator, deploy: Path) -> None:
    edit(deploy, "site@.service", "ExecStart=/usr/bin/python3 -m http.server", "ExecStart=/bin/false")
    with Visitors(operator) as visitors:
        _, err, status = apply(operator, deploy)
    assert status == 1
    assert "site@.service: reverted" in err
    assert visitors.least >= 2
    assert len(visitors.answers()) == 3
    _, err, status = apply(operator, deploy)
    assert (status, "without --retry" in err) == (1, True)
    for number in ("2", "3"):
        operator.cluster.fleetctl("scale", "site@.service", number)
    operator.cluster.fleetctl("stop", SITES[1])
    operator.cluster.fleetctl("start", SITES[1])
    assert len(visitors.answers()) == 3, "new ones and those started again run the content reverted to"
    pids = operator.pids(*SITES)
    shutil.rmtree(deploy)
    shutil.copytree(CHECKOUT / "units/site", deploy)
    out, _, status = apply(operator, deploy)
    assert (status, "3 instances: nothing restarts: this runs already" in out) == (0, True)
    assert operator.pids(*SITES) == pids
    assert len(visitors.answers()) == 3


def test_what_the_folder_no_longer_has_goes_with_prune_alone(operator: Operator, deploy: Path) -> None:
    operator.start({"mine.service": "[Service]\nExecStart=/bin/sleep infinity\n"})
    edit(deploy, "site@.service", "Instances=3", "Instances=2")
    (deploy / "load.service").unlink()
    out, err, status = apply(operator, deploy)
    assert (status, err) == (0, "")
    assert "Destroyed site@3.service" in out
    assert "load.service" in operator.placed()
    _, err, status = apply(operator, deploy, "--prune")
    assert (status, err) == (0, "")
    assert set(operator.placed()) == {"site@1.service", "site@2.service", "check.timer", "mine.service"}
