"""The health of containers, from a podman that says what a test has it say."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fleetd.agent.podman_health import NO_CHECK, NO_CONTAINER, PodmanHealth, through_systemd

PATIENCE_S = 60.0
UNIT, OTHER = "hello.service", "other.service"
UNHEALTHY = "podman says that its container is unhealthy"
STARTING = "podman says that its container is starting"
SCRIPT = """\
#!/bin/sh
cd {folder} || exit 1
case "$1" in
  --version) echo "podman version $(cat version)" ;;
  ps) echo "$@" >>asked; cat list ;;
  events) echo $$ >pid; exec tail -n +1 -f events ;;
esac
"""


class Podman:
    """A podman whose answers are files of a folder, and what follows it. `said` is what was said last of each unit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.program = folder / "podman"
        self.said: dict[str, str] = {}
        self.results = 0
        self.health = PodmanHealth(podman=str(self.program))
        self.list()
        self.end_events()
        self.install("5.4.2")

    def install(self, version: str) -> None:
        """Have this version of podman."""
        (self._folder / "version").write_text(version)
        self.program.write_text(SCRIPT.format(folder=self._folder))
        self.program.chmod(0o755)

    def list(self, *containers: tuple[str, str, str]) -> None:
        """Have podman list these: id, unit and status."""
        listed = [
            {"Id": id_, "Labels": {"PODMAN_SYSTEMD_UNIT": unit}, "Status": said} for id_, unit, said in containers
        ]
        self.answer(json.dumps([*listed, {"Id": "x", "Labels": None, "Status": "Up"}]))

    def answer(self, text: str) -> None:
        """Have podman list this."""
        (self._folder / "list").write_text(text)

    def tell(self, id_: str, unit: str, health: str) -> None:
        """Write an event."""
        event = {"ID": id_, "health_status": health, "Attributes": {"PODMAN_SYSTEMD_UNIT": unit}, "Type": "container"}
        self.write(json.dumps(event))

    def write(self, line: str) -> None:
        """Write a line of `podman events`."""
        with (self._folder / "events").open("a") as file:
            file.write(line + "\n")

    def end_events(self) -> None:
        """Have no events, for the next `podman events`."""
        (self._folder / "events").write_text("")

    @property
    def looked(self) -> int:
        """How often the containers were listed."""
        asked = self._folder / "asked"
        return len(asked.read_text().splitlines()) if asked.exists() else 0

    @property
    def pid(self) -> int:
        """The `podman events` that was started last; 0 for none. A list may be there before it."""
        file = self._folder / "pid"
        return int((file.exists() and file.read_text()) or 0)

    def follow(self, *units: str) -> None:
        """Follow the containers of these units."""
        for unit in units:
            self.health.follow(unit, self._noter(unit))

    def _noter(self, unit: str) -> Callable[[str], None]:
        def note(failure: str) -> None:
            self.said[unit] = failure
            self.results += 1

        return note

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  (what is waited for is in files and processes)
                await asyncio.sleep(0.02)


@pytest.fixture
async def podman(tmp_path: Path) -> AsyncIterator[Podman]:
    podman = Podman(tmp_path)
    yield podman
    podman.health.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*tasks, return_exceptions=True)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        ("Up 6 seconds ago (healthy)", ""),
        ("Up 2 hours (unhealthy)", UNHEALTHY),
        ("Up Less than a second ago (starting)", STARTING),
        ("Up 6 seconds ago", NO_CHECK),
    ],
)
async def test_how_a_container_is_at_first_is_looked_up(podman: Podman, status: str, failure: str) -> None:
    podman.list(("1", UNIT, status))
    podman.follow(UNIT, OTHER)
    await podman.until(lambda: podman.said == {UNIT: failure, OTHER: NO_CONTAINER})


async def test_events_tell_what_becomes_of_it(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (starting)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: STARTING})
    for health, failure in (("healthy", ""), ("unhealthy", UNHEALTHY), ("healthy", "")):
        podman.tell("9", OTHER, "healthy")
        podman.tell("1", UNIT, health)
        await podman.until(lambda failure=failure: podman.said == {UNIT: failure})
    assert podman.looked == 1


async def test_a_container_that_is_not_known_is_looked_up(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (healthy)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: ""})
    podman.list(("2", UNIT, "Up (starting)"))
    podman.tell("2", UNIT, "healthy")
    await podman.until(lambda: podman.said == {UNIT: STARTING})
    podman.tell("2", UNIT, "healthy")
    await podman.until(lambda: podman.said == {UNIT: ""})


async def test_a_label_of_another_container_takes_no_failure_away(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (unhealthy)"), ("2", UNIT, "Up (healthy)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: UNHEALTHY})
    podman.tell("2", UNIT, "healthy")
    await podman.until(lambda: podman.looked == 2)
    assert podman.said == {UNIT: UNHEALTHY}


async def test_an_older_podman_is_asked_after_each_event(podman: Podman) -> None:
    """Its events tell the result of the check before."""
    podman.install("4.3.1")
    podman.list(("1", UNIT, "Up (healthy)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: ""})
    podman.list(("1", UNIT, "Up (unhealthy)"))
    podman.tell("1", UNIT, "healthy")
    await podman.until(lambda: podman.said == {UNIT: UNHEALTHY})


async def test_a_podman_that_is_not_there_is_said_and_found_when_it_is(
    podman: Podman, caplog: pytest.LogCaptureFixture
) -> None:
    podman.list(("1", UNIT, "Up (healthy)"))
    podman.program.unlink()
    podman.follow(UNIT)
    await podman.until(lambda: "podman cannot be asked: " in podman.said.get(UNIT, ""))
    assert podman.said[UNIT].endswith("cannot be started: No such file or directory")
    await podman.until(lambda: podman.results >= 2)
    podman.install("5.0.0")
    await podman.until(lambda: podman.said == {UNIT: ""})
    levels = [each.levelname for each in caplog.records if "podman" in each.message]
    assert levels.count("WARNING") == 1  # once, however often it is tried


async def test_events_that_end_are_begun_again_and_nothing_is_missed(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (healthy)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: ""})
    podman.list(("1", UNIT, "Up (unhealthy)"))
    await podman.until(lambda: podman.pid > 0)
    before = podman.pid
    podman.write("Error: it is over")
    await asyncio.create_subprocess_exec("kill", str(before))
    await podman.until(lambda: podman.said == {UNIT: UNHEALTHY})
    await podman.until(lambda: podman.pid not in (0, before))


async def test_a_podman_that_fails_takes_nothing_back(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (healthy)"))
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: ""})
    podman.answer("no list")
    podman.follow(OTHER)
    await podman.until(lambda: OTHER in podman.said)
    assert "podman ps says what is no list of containers" in podman.said[OTHER]
    assert podman.said[UNIT] == ""


async def test_a_podman_that_cannot_list_says_why(podman: Podman) -> None:
    case = '--version) echo "podman version x" ;; ps) echo "no room" >&2; exit 125 ;; *) exec sleep 60 ;;'
    podman.program.write_text(f'#!/bin/sh\ncase "$1" in {case} esac\n')
    podman.follow(UNIT)
    await podman.until(lambda: podman.said == {UNIT: "podman cannot be asked: no room"})


async def test_nothing_runs_for_units_that_nobody_follows(podman: Podman) -> None:
    podman.list(("1", UNIT, "Up (healthy)"), ("2", OTHER, "Up (healthy)"))
    podman.follow(UNIT, OTHER)
    await podman.until(lambda: len(podman.said) == 2)
    await podman.until(lambda: podman.pid > 0)
    pid = podman.pid
    podman.health.unfollow(OTHER)
    assert is_running(pid)
    podman.health.unfollow(UNIT)
    await podman.until(lambda: not is_running(pid))


def test_a_fleetd_in_a_unit_has_systemd_run_podman() -> None:
    assert through_systemd("", user=False)._prefix("events") == ()
    prefix = through_systemd("fleet.service", user=True)._prefix("events")
    assert prefix[:2] == ("systemd-run", "--user")
    assert "--unit=fleet-podman-events.service" in prefix
