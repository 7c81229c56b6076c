"""How a machine gets images and files: by programs in transient units, which are scripts here."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest

from fleetd.agent.download_account import KEPT_S, DownloadAccount
from fleetd.agent.fetched_files import FetchedFiles
from fleetd.agent.fetcher import HostFetcher, LeftToPodman, unit_of
from fleetd.model.download import Download, FetchFailed

IMAGE = Download(f"registry:5000/hello@sha256:{'a' * 64}")
CONTENT = b"content"
FILE = Download("http://host/app.raw", hashlib.sha256(CONTENT).hexdigest(), "app.raw")
DAY_S = 24 * 3600.0

# Runs what is behind `--`, with the programs of its folder.
SYSTEMD_RUN = """\
#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
while [ "$1" != -- ]; do shift; done; shift
PATH="$(dirname "$0"):$PATH"
[ "$1" != podman ] || [ -x "$(dirname "$0")/podman" ] || fails=yes
[ -z "$fails" ] || { echo "Failed to find executable $1: No such file or directory" >&2; exit 1; }
exec "$@"
"""
# Its images are files of its folder.
PODMAN = """\
#!/bin/sh
here="$(dirname "$0")"
for last; do :; done
image="$here/images/$(echo "$last" | tr / _)"
case "$1" in
image) cat "$image" 2>/dev/null || { echo "Error: no such image" >&2; exit 125; } ;;
pull) [ -e "$here/fails" ] && { cat "$here/fails" >&2; exit 125; }; cat "$here/arch" > "$image" ;;
rmi) [ -e "$here/used" ] && { echo "Error: image is in use" >&2; exit 2; }; rm "$image" ;;
esac
"""
SYSTEMCTL = """\
#!/bin/sh
echo "systemctl $@" >> "$(dirname "$0")/calls"
cat "$(dirname "$0")/state" 2>/dev/null && rm "$(dirname "$0")/state"
exit 0
"""


class Host:
    """A machine with these programs, and its fetcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_700_000_000.0
        (folder / "images").mkdir()
        (folder / "arch").write_text({"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "?"))
        for name, text in (("systemd-run", SYSTEMD_RUN), ("podman", PODMAN), ("systemctl", SYSTEMCTL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.state = folder / "state-directory"
        self.state.mkdir()
        self.open()

    def open(self, **options: object) -> None:
        """fleetd is started."""
        run, ctl = str(self.folder / "systemd-run"), str(self.folder / "systemctl")
        self.fetcher = HostFetcher(self.state, unix_now=lambda: self.now, systemd_run=run, systemctl=ctl, **options)

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()

    def put_file(self) -> None:
        """The file was fetched."""
        files = FetchedFiles(self.state / "fetched")
        files.make_room()
        files.path_of(FILE).write_bytes(CONTENT)
        os.utime(files.path_of(FILE), (0, 0))
        self.open()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_an_image_is_pulled_in_a_unit_with_limits(host: Host) -> None:
    host.open(auth_file="/etc/auth.json")
    assert not await host.fetcher.find(IMAGE)
    await host.fetcher.fetch(IMAGE)
    assert await host.fetcher.find(IMAGE)
    pull = next(line for line in host.calls.splitlines() if "podman pull" in line)
    assert f"--unit={unit_of(IMAGE, 'pull')} " in pull
    assert unit_of(IMAGE, "pull").startswith("fleet-pull-")
    for words in ("--property=MemoryMax=1G", "RuntimeMaxSec=1800", "--authfile=/etc/auth.json", f"-- {IMAGE.source}"):
        assert words in pull


async def test_what_systemd_would_take_for_a_variable_is_passed_on_as_it_is(host: Host) -> None:
    with pytest.raises(FetchFailed):
        await host.fetcher.fetch(Download("http://[::1]:9/$$a-${HOME}", FILE.sha256, "app.raw"))
    assert "fleetd.process.fetch_command http://[::1]:9/$$$$a-$${HOME} " in host.calls


async def test_a_pull_that_fails_says_why(host: Host) -> None:
    (host.folder / "fails").write_text("Trying\nError: manifest unknown")
    with pytest.raises(FetchFailed, match=f"cannot get the image {IMAGE.source}: manifest unknown: push it"):
        await host.fetcher.fetch(IMAGE)
    assert not host.fetcher.keeps_any


async def test_an_image_of_another_architecture_is_of_no_use(host: Host) -> None:
    (host.folder / "arch").write_text("s390x")
    with pytest.raises(FetchFailed, match="it is for the architecture s390x, and not for"):
        await host.fetcher.fetch(IMAGE)


async def test_programs_that_are_missing_are_named(host: Host) -> None:
    (host.folder / "podman").rename(host.folder / "docker")
    with pytest.raises(FetchFailed, match="podman is not installed: install it there"):
        await host.fetcher.find(Download(IMAGE.source.replace("hello", "other")))
    (host.folder / "systemd-run").unlink()
    with pytest.raises(FetchFailed, match="systemd-run is not installed"):
        await host.fetcher.find(IMAGE)


async def test_a_download_of_an_earlier_fleetd_is_waited_for(host: Host) -> None:
    (host.folder / "state").write_text("activating\n")
    await host.fetcher.fetch(IMAGE)  # that one has failed
    assert host.calls.count("systemctl show") == 2
    assert host.calls.count("podman pull") == 1
    (host.folder / "state").write_text("deactivating\n")
    await host.fetcher.fetch(IMAGE)  # that one has not
    assert host.calls.count("podman pull") == 1
    (host.folder / "systemctl").unlink()
    await host.fetcher.fetch(IMAGE)
    assert host.calls.count("podman pull") == 2


async def test_nobody_waits_for_what_goes_on_in_its_unit(host: Host) -> None:
    """It holds the pipes of systemd-run, which has gone."""
    (host.folder / "systemd-run").write_text('#!/bin/sh\nsleep 20 &\necho $! > "$(dirname "$0")/pid"\nwait\n')
    os.mkfifo(host.folder / "pid")
    fetching = asyncio.create_task(host.fetcher.fetch(IMAGE))
    pid = int(await asyncio.to_thread((host.folder / "pid").read_text))
    fetching.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(fetching, return_exceptions=True)
    os.kill(pid, signal.SIGKILL)


async def test_a_download_that_nobody_waits_for_is_ended(host: Host) -> None:
    await host.fetcher.cancel(IMAGE)
    assert f"systemctl stop --no-block --quiet {unit_of(IMAGE, 'pull')}" in host.calls
    await host.fetcher.cancel(FILE)
    assert unit_of(FILE, "fetch").startswith("fleet-fetch-")
    assert f"--quiet {unit_of(FILE, 'fetch')}" in host.calls


async def test_a_file_is_fetched_in_a_confined_unit(host: Host) -> None:
    port = await _serve_once()
    download = Download(f"http://127.0.0.1:{port}/app.raw", FILE.sha256, "app.raw")
    assert not await host.fetcher.find(download)
    await host.fetcher.fetch(download)
    assert await host.fetcher.find(download)
    assert "--property=CapabilityBoundingSet= " in host.calls
    assert f"--property=ReadWritePaths={host.state}/fetched " in host.calls
    host.fetcher.prepare("web.service", (download,))
    assert (host.state / "fetched/web.service/app.raw").read_bytes() == CONTENT
    with pytest.raises(FetchFailed, match=r"cannot get the file http://127\.0\.0\.1:1/x: .*refused"):
        await host.fetcher.fetch(Download("http://127.0.0.1:1/x", "0" * 64, "x"))


async def _serve_once() -> int:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n" + CONTENT)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


def test_a_unit_finds_its_files_and_no_others(host: Host) -> None:
    host.put_file()
    other = Download("http://host/other", FILE.sha256, "other")
    host.fetcher.prepare("web.service", (IMAGE, FILE, other))
    place = host.state / "fetched/web.service"
    assert sorted(each.name for each in place.iterdir()) == ["app.raw", "other"]
    host.fetcher.prepare("db.service", (FILE,))
    assert (place / "app.raw").samefile(host.state / "fetched/db.service/app.raw")
    host.fetcher.prepare("web.service", (FILE,))
    assert [each.name for each in place.iterdir()] == ["app.raw"]
    host.fetcher.prepare("web.service", ())
    host.fetcher.forget("db.service")
    host.fetcher.forget("never.service")
    assert [each.name for each in (host.state / "fetched").iterdir()] == [".sha256"]


async def test_what_a_unit_has_written_to_is_of_no_use_to_others(host: Host) -> None:
    port = await _serve_once()
    download = Download(f"http://127.0.0.1:{port}/app.raw", FILE.sha256, "app.raw")
    host.put_file()
    host.fetcher.prepare("web.service", (download,))
    assert await host.fetcher.find(download)
    with open(host.state / "fetched/web.service/app.raw", "r+b") as file:
        file.write(b"evil")
    assert not await host.fetcher.find(download)
    await host.fetcher.fetch(download)
    host.fetcher.prepare("db.service", (download,))
    assert (host.state / "fetched/db.service/app.raw").read_bytes() == CONTENT
    assert (host.state / "fetched/web.service/app.raw").read_bytes() != CONTENT  # until it starts the next time
    host.fetcher.prepare("web.service", (download,))
    assert (host.state / "fetched/web.service/app.raw").read_bytes() == CONTENT


def test_another_file_takes_the_name(host: Host) -> None:
    host.put_file()
    host.fetcher.prepare("web.service", (FILE,))
    new = Download(FILE.source, "c" * 64, FILE.name)
    (host.state / "fetched/.sha256" / new.sha256).write_bytes(b"new")
    with open(host.state / "fetched/web.service/app.raw", "rb") as running:
        host.fetcher.prepare("web.service", (new,))
        assert running.read() == CONTENT  # what runs keeps what it has opened
    assert (host.state / "fetched/web.service/app.raw").read_bytes() == b"new"


async def test_what_is_not_needed_goes_after_a_day(host: Host) -> None:
    await host.fetcher.fetch(IMAGE)
    assert host.fetcher.keeps_any
    host.now += DAY_S - 1
    await host.fetcher.tidy(())
    assert await host.fetcher.find(IMAGE)
    await host.fetcher.tidy({IMAGE})
    host.open()
    host.now += DAY_S - 1
    await host.fetcher.tidy(())
    assert await host.fetcher.find(IMAGE)
    host.now += 2
    (host.folder / "used").touch()
    await host.fetcher.tidy(())
    assert await host.fetcher.find(IMAGE)
    (host.folder / "used").unlink()
    host.now += DAY_S
    await host.fetcher.tidy(())
    assert not await host.fetcher.find(IMAGE)
    assert not host.fetcher.keeps_any


async def test_a_file_that_is_not_needed_goes_and_others_are_left_alone(host: Host) -> None:
    host.put_file()
    mine = Download("http://host/mine", "d" * 64, "mine")
    (host.state / "fetched/.sha256" / mine.sha256).write_bytes(b"mine")
    DownloadAccount(host.state / "downloads.json", lambda: host.now).note(mine)
    host.open()
    host.now += DAY_S
    await host.fetcher.tidy(())
    assert [each.name for each in (host.state / "fetched/.sha256").iterdir()] == [FILE.sha256]


async def test_what_cannot_be_deleted_is_tried_again(host: Host) -> None:
    await host.fetcher.fetch(IMAGE)
    (host.folder / "systemd-run").unlink()
    host.now += DAY_S
    await host.fetcher.tidy(())
    assert host.fetcher.keeps_any


@pytest.mark.parametrize("content", [b"", b"nonsense", b'[{"download": 1}]'])
def test_an_account_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    account = DownloadAccount(tmp_path / "a", lambda: 0.0)
    assert not account
    account.note(IMAGE)
    assert DownloadAccount(tmp_path / "a", lambda: 0.0)


def test_an_account_lives_with_a_clock_that_is_set_back_and_a_full_disk(tmp_path: Path) -> None:
    now = 10 * KEPT_S
    account = DownloadAccount(tmp_path / "folder" / "a", lambda: now)
    account.note(IMAGE)  # it cannot be written
    now = KEPT_S
    assert account.find_old(()) == []
    now = 2 * KEPT_S
    assert account.find_old(()) == [IMAGE]
    account.forget(IMAGE)
    account.forget(IMAGE)
    assert not account


async def test_without_a_fetcher_all_is_left_to_podman() -> None:
    fetcher = LeftToPodman()
    assert await fetcher.find(IMAGE)
    await fetcher.fetch(IMAGE)
    await fetcher.cancel(IMAGE)
    fetcher.prepare("web.service", (IMAGE,))
    fetcher.forget("web.service")
    await fetcher.tidy(())
    assert not fetcher.keeps_any
