"""What is read with journalctl and systemctl, of programs that stand for them."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from fleetd.model.machine_request import MAX_ENTRY_BYTES, MAX_TEXT_BYTES, ImageAnswer, JournalQuery
from fleetd.systemd.inspector import (
    MAX_LINE_BYTES,
    Entries,
    InspectionFailed,
    Inspector,
    journal_command,
    parse_properties,
    show_command,
)

WEB = JournalQuery(("web.service",))


def _program(folder: Path, script: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def _printing(folder: Path, *lines: str) -> Inspector:
    (folder / "output").write_text("".join(f"{line}\n" for line in lines))
    return Inspector(user=False, journalctl=_program(folder, f"cat {folder}/output"))


def _line(number: int, size: int = 0) -> str:
    return json.dumps({"MESSAGE": str(number), "PAD": "x" * size})


def _numbers(entries: Entries) -> list[int]:
    return [int(json.loads(line)["MESSAGE"]) for line in entries.lines]


@pytest.mark.parametrize(
    ("query", "user", "has", "has_not"),
    [
        (
            WEB,
            False,
            ["--unit=web.service", "--lines=10", "--output=json", "--all"],
            ["--reverse", "--since", "--grep"],
        ),
        (WEB, True, ["--user-unit=web.service"], ["--unit"]),
        (JournalQuery(("-x.service", "b.service")), False, ["--unit=-x.service", "--unit=b.service"], []),
        (JournalQuery(WEB.units, since_s=1.5), False, ["--since=@1.500000"], []),
        (JournalQuery(WEB.units, grep="--x"), False, ["--grep=--x", "--reverse"], []),
        (
            JournalQuery(WEB.units, 5, 1.5, "x", "s=1"),
            False,
            ["--lines=all", "--after-cursor=s=1"],
            ["--since", "--rev"],
        ),
    ],
)
def test_journalctl_is_asked(query: JournalQuery, user: bool, has: list[str], has_not: list[str]) -> None:
    command = journal_command("journalctl", query, user=user)
    assert set(has) <= set(command)
    assert not [each for each in command if each.startswith(tuple(has_not) or ("nothing",))]


def test_systemctl_is_asked() -> None:
    assert show_command("systemctl", ["-a.service"], user=True)[:3] == ["systemctl", "--user", "show"]
    assert show_command("systemctl", ["-a.service"], user=False)[-2:] == ["--", "-a.service"]


async def test_the_last_lines_are_kept_in_order(tmp_path: Path) -> None:
    inspector = _printing(tmp_path, *map(_line, range(5)))
    assert _numbers(await inspector.read_journal(WEB)) == [0, 1, 2, 3, 4]
    last = await inspector.read_journal(JournalQuery(WEB.units, 2))
    assert (_numbers(last), last.is_cut) == ([3, 4], True)


async def test_the_first_lines_after_a_cursor_are_kept(tmp_path: Path) -> None:
    found = await _printing(tmp_path, *map(_line, range(5))).read_journal(JournalQuery(WEB.units, 2, after="s=1"))
    assert (_numbers(found), found.is_cut) == ([0, 1], True)


async def test_lines_with_a_pattern_come_last_first_and_are_put_in_order(tmp_path: Path) -> None:
    found = await _printing(tmp_path, *map(_line, (4, 3, 2))).read_journal(JournalQuery(WEB.units, 2, grep="x"))
    assert (_numbers(found), found.is_cut) == ([3, 4], True)


async def test_no_lines_are_asked_for(tmp_path: Path) -> None:
    assert await Inspector(user=False, journalctl="/nowhere").read_journal(JournalQuery(WEB.units, 0)) == Entries()


async def test_entries_take_a_bounded_amount_of_room(tmp_path: Path) -> None:
    inspector = _printing(tmp_path, *(_line(number, MAX_ENTRY_BYTES - 200) for number in range(100)))
    last = await inspector.read_journal(JournalQuery(WEB.units, 1000))
    first = await inspector.read_journal(JournalQuery(WEB.units, 1000, after="s=1"))
    for found in (last, first):
        assert found.is_cut
        assert MAX_TEXT_BYTES - MAX_ENTRY_BYTES < sum(map(len, found.lines)) <= MAX_TEXT_BYTES
    assert _numbers(last)[-1] == 99
    assert _numbers(first)[0] == 0


async def test_lines_that_are_too_long_or_no_entries_are_left_out(tmp_path: Path) -> None:
    inspector = _printing(tmp_path, _line(0), _line(1, 3 * MAX_LINE_BYTES), "-- Boot 1 --", _line(2), _line(3))
    assert _numbers(await inspector.read_journal(WEB)) == [0, 2, 3]


async def test_a_last_line_without_end_counts(tmp_path: Path) -> None:
    inspector = Inspector(user=False, journalctl=_program(tmp_path, """printf '{"MESSAGE":"7"}'"""))
    assert _numbers(await inspector.read_journal(WEB)) == [7]


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo first >&2; echo Failed to seek to cursor >&2; exit 1", "fails: Failed to seek to cursor"),
        ("exit 3", "fails: exit status 3"),
    ],
)
async def test_a_program_that_fails_is_named_with_its_error(tmp_path: Path, script: str, cause: str) -> None:
    with pytest.raises(InspectionFailed, match=cause):
        await Inspector(user=False, journalctl=_program(tmp_path, script)).read_journal(WEB)


async def test_nothing_that_matches_is_no_error(tmp_path: Path) -> None:
    assert await Inspector(user=False, journalctl=_program(tmp_path, "exit 1")).read_journal(WEB) == Entries()


async def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(InspectionFailed, match="cannot run /nowhere: No such file"):
        await Inspector(user=False, journalctl="/nowhere").read_journal(WEB)


async def test_the_program_is_killed_when_nobody_waits(tmp_path: Path) -> None:
    program = _program(tmp_path, f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600")
    task = asyncio.create_task(Inspector(user=False, journalctl=program).read_journal(WEB))
    while not (tmp_path / "pid").exists():  # noqa: ASYNC110 (nothing says that a program has begun)
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_properties_of_units_are_read(tmp_path: Path) -> None:
    script = r"printf 'Id=a.service\nResult=\nTasksCurrent=[not set]\nStatusText=a=b\n\nId=b.service\n'"
    inspector = Inspector(user=False, systemctl=_program(tmp_path, script))
    first, second = await inspector.show_units(["a.service", "b.service"])
    assert first.properties == {"Id": "a.service", "StatusText": "a=b"}
    assert (second.unit, second.properties) == ("b.service", {"Id": "b.service"})
    with pytest.raises(InspectionFailed, match="describes 2 of 1 units"):
        await inspector.show_units(["a.service"])


def test_blocks_of_properties_are_told_apart() -> None:
    assert parse_properties(["", "Id=a", "", "", "Id=b", "X="]) == [{"Id": "a"}, {"Id": "b"}]


DIGEST = "sha256:" + "0123456789abcdef" * 4
FATAL = r"""time="2026-01-01T00:00:00Z" level=fatal msg="manifest 2 in \"reg\": manifest unknown" """


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        (f"echo {DIGEST}", ImageAnswer(DIGEST)),
        ("echo", ImageAnswer(failure="skopeo says no digest")),
        ("true", ImageAnswer(failure="skopeo says no digest")),
        (
            f"cat >&2 <<'END'\n{FATAL}\nEND\nexit 1",
            ImageAnswer(failure='manifest 2 in "reg": manifest unknown'),
        ),
    ],
)
async def test_the_digest_of_an_image_is_asked_of_its_registry(
    tmp_path: Path, script: str, answer: ImageAnswer
) -> None:
    program = _program(tmp_path, f'echo "$@" > {tmp_path}/arguments\n{script}')
    assert await Inspector(user=False, skopeo=program).resolve_image("reg.example/hello:1") == answer
    words = (tmp_path / "arguments").read_text()
    assert words == "inspect --no-tags --format {{.Digest}} docker://reg.example/hello:1\n"


async def test_a_registry_cannot_be_asked_without_skopeo_or_in_other_words(tmp_path: Path) -> None:
    answer = await Inspector(user=False, skopeo="/nowhere").resolve_image("reg.example/hello:1")
    assert answer == ImageAnswer(failure="cannot run /nowhere: No such file or directory", cannot_ask=True)
    answer = await Inspector(user=False, skopeo=str(tmp_path)).resolve_image("reg.example/hello:1")
    assert answer == ImageAnswer(failure=f"cannot run {tmp_path}: Permission denied")
