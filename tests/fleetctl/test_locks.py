"""lock, elect, locks and unlock, as users run them: commands in processes of their own against a served API."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleetd.api.http import Request, Response, StreamedResponse, render_error
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl

CHECKOUT = Path(__file__).parents[2]
PATIENCE_S = 60.0
RENEWALS = "/fleet/v2/lock-sessions/"


class Served:
    """The API with locks, on a unix socket. While it is `silent`, renewals are not answered."""

    def __init__(self, loop: BackgroundLoop, directory: Path) -> None:
        self.unix = f"unix://{directory}/fleet.sock"
        self.silent = False
        self._loop = loop
        loop.do(self._open(f"{directory}/fleet.sock"))

    async def _open(self, path: str) -> None:
        now = asyncio.get_running_loop().time
        self._store = EmbeddedStore(":memory:", offload=inline)
        registry = Registry(self._store)
        epoch = StoreEpoch(registry, "m1", now=now)
        epoch.accept(await epoch.check(0, await self._store.revision()))
        self._api = Api(registry, epoch=epoch, now=now)
        self._server = Server(self)
        await self._server.start([Address(path=path)], insecure=False)

    async def handle(self, request: Request) -> Response | StreamedResponse:
        if self.silent and request.path.startswith(RENEWALS):
            return render_error(503, "out of order")
        return await self._api.handle(request)

    def close(self) -> None:
        async def close() -> None:
            await self._server.stop()
            await self._store.close()

        self._loop.do(close())

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        """fleetctl in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "fleetctl.cli", *words],
            env={**os.environ, "FLEETCTL_ENDPOINT": self.unix, **environment},
            cwd=CHECKOUT,  # fleet is not installed in every environment of tests
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def served(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(background, tmp_path_factory.mktemp("s"))
    yield served
    served.close()


@pytest.fixture
def run(served: Served) -> Callable[..., tuple[int, str, str]]:
    """Runs fleetctl: status, standard output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        process = served.start(*words)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        return process.returncode, stdout, stderr

    return run


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def list_locks(fleetctl: Fleetctl) -> list[dict[str, object]]:
    return list(json.loads(fleetctl("locks", "--output=json").stdout))


@pytest.fixture
def here(bare_fleetctl: Fleetctl, served: Served) -> Fleetctl:
    return lambda *words: bare_fleetctl(f"--endpoint={served.unix}", *words)


def is_running(pid_file: Path) -> bool:
    try:
        pid = int(pid_file.read_text())
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError, ValueError):  # ValueError: the file is there, and empty yet
        return False


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 3"], 3),
        (["true"], 0),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_status_is_that_of_the_command(
    run: Callable[..., tuple[int, str, str]], command: list[str], status: int
) -> None:
    assert run("lock", "backup", "--", *command)[0] == status
    assert run("lock", "--try", "backup", "true")[0] == 0  # it was released


def test_the_command_has_the_token_which_rises(run: Callable[..., tuple[int, str, str]]) -> None:
    tokens = [run("lock", "backup", "--", "sh", "-c", "echo $FLEET_LOCK_TOKEN $FLEET_LOCK_NAME")[1] for _ in range(2)]
    assert tokens[0] < tokens[1]
    assert tokens[0].split()[1] == "backup"


def test_who_does_not_wait_is_told_who_has_it(
    served: Served, run: Callable[..., tuple[int, str, str]], here: Fleetctl, tmp_path: Path
) -> None:
    holder = served.start("lock", "backup", "--", "sh", "-c", f"touch {tmp_path}/on; exec sleep 600")
    wait_for((tmp_path / "on").exists)
    status, _, stderr = run("lock", "--try", "backup", "true")
    assert status == 1
    assert f"lock backup is not free: held by {os.uname().nodename}:{holder.pid}" in stderr
    status, _, stderr = run("lock", "-E", "75", "--wait=1s", "backup", "true")
    assert (status, "lock backup was not to be had in time: held by" in stderr) == (75, True)
    assert run("lock", "--slots=2", "backup", "true")[0] == 125
    (row,) = list_locks(here)
    assert (row["lock"], row["state"], row["holder"]) == ("backup", "held", f"{os.uname().nodename}:{holder.pid}")
    assert "backup" in here("locks").stdout
    holder.terminate()
    assert holder.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert list_locks(here) == []


def test_the_command_has_the_standard_streams(served: Served) -> None:
    command = [sys.executable, "-m", "fleetctl.cli", "lock", "backup", "--", "sh", "-c", "cat; echo said >&2"]
    environment = {**os.environ, "FLEETCTL_ENDPOINT": served.unix}
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, input="given", capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "given", "said\n")


def test_a_command_that_asks_for_the_lock_that_it_runs_with_is_told_so(served: Served, tmp_path: Path) -> None:
    inner = f"exec {sys.executable} -m fleetctl.cli lock backup true 2> {tmp_path}/said"
    holder = served.start("lock", "backup", "--", "sh", "-c", inner)
    said = tmp_path / "said"
    wait_for(lambda: said.exists() and "waiting for lock backup: held by" in said.read_text())
    assert "this runs with lock backup already: it waits for itself" in said.read_text()
    holder.kill()
    holder.communicate(timeout=PATIENCE_S)


def test_one_after_the_other_runs(served: Served, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"echo begin >> {log}; sleep 0.1; echo end >> {log}"
    running = [served.start("lock", "backup", "--", "sh", "-c", command) for _ in range(4)]
    assert [process.wait(PATIENCE_S) for process in running] == [0] * 4
    assert log.read_text().split() == ["begin", "end"] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_signals_are_passed_on(served: Served, tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap 'exit 42' {number.name[3:]}; touch {tmp_path}/on; while :; do sleep 0.05; done"
    holder = served.start("lock", "backup", "--", "sh", "-c", script)
    wait_for((tmp_path / "on").exists)
    holder.send_signal(number)
    assert holder.wait(PATIENCE_S) == 42


def test_a_lock_that_cannot_be_renewed_ends_the_command_and_what_it_has_started_before_the_ttl(
    served: Served, tmp_path: Path
) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done")
    script = f"sh {deaf} & sleep 600"
    holder = served.start("lock", "--ttl=9s", "backup", "--", "sh", "-c", script)
    wait_for(lambda: is_running(tmp_path / "pid"))
    served.silent = True
    began = time.monotonic()
    _, stderr = holder.communicate(timeout=PATIENCE_S)
    assert holder.returncode == 124
    assert "lock backup is lost, and the command was ended: it could not be renewed in time" in stderr
    assert "out of order" in stderr
    assert not is_running(tmp_path / "pid")
    assert time.monotonic() - began < PATIENCE_S


def test_a_lock_that_is_taken_away_ends_the_command(served: Served, here: Fleetctl, tmp_path: Path) -> None:
    holder = served.start("lock", "--ttl=9s", "backup", "--", "sh", "-c", f"touch {tmp_path}/on; exec sleep 600")
    wait_for((tmp_path / "on").exists)
    result = here("unlock", "backup")
    assert (result.status, "--force takes it away" in result.stderr) == (2, True)
    result = here("unlock", "--force", "backup")
    assert result.stdout.startswith(f"Took lock backup from {os.uname().nodename}:{holder.pid}; it is free in 9 s")
    assert holder.wait(PATIENCE_S) == 124
    result = here("unlock", "--force", "other")
    assert (result.status, "nobody holds lock other" in result.stderr) == (1, True)


def test_the_command_does_not_outlive_a_fleetctl_that_is_killed(served: Served, tmp_path: Path) -> None:
    holder = served.start("lock", "backup", "--", "sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    wait_for(lambda: is_running(tmp_path / "pid"))
    holder.kill()
    wait_for(lambda: not is_running(tmp_path / "pid"))


def test_who_loses_an_election_is_up_for_it_again(served: Served, here: Fleetctl, tmp_path: Path) -> None:
    script = f"echo on >> {tmp_path}/on; exec sleep 600"
    leader = served.start("elect", "--ttl=9s", "main", "--", "sh", "-c", script)
    wait_for((tmp_path / "on").exists)
    here("unlock", "--force", "main")
    wait_for(lambda: (tmp_path / "on").read_text() == "on\non\n")
    leader.terminate()
    _, stderr = leader.communicate(timeout=PATIENCE_S)
    assert leader.returncode == 128 + signal.SIGTERM
    assert "it does not lead main any more, and waits again" in stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lock"], "the name of a lock is missing"),
        (["lock", "a/b", "true"], '"a/b" is no name of a lock'),
        (["lock", "backup"], "a command is missing: fleetctl lock backup -- COMMAND"),
        (["lock", "--ttl=1s", "backup", "true"], "a ttl of 1 s: it has to be from 3 to 300 s"),
        (["lock", "--slots=0", "backup", "true"], "0 slots"),
        (["lock", "--try", "--wait=3s", "backup", "true"], "--try does not wait"),
        (["elect"], "the name of a lock is missing: fleetctl elect NAME -- COMMAND"),
        (["elect", "main"], "a command is missing: fleetctl elect main -- COMMAND"),
        (["unlock", "--force", "a/b"], '"a/b" is no name of a lock'),
    ],
)
def test_what_is_mistyped_is_told(here: Fleetctl, words: Sequence[str], said: str) -> None:
    result = here(*words)
    assert (result.status, said in result.stderr) == (2, True), result.stderr


def test_without_fleetd_it_fails_at_once(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    result = bare_fleetctl(f"--endpoint=unix://{tmp_path}/none.sock", "lock", "backup", "true")
    assert (result.status, "cannot reach fleetd" in result.stderr) == (125, True)
