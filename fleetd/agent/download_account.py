"""What fleet has downloaded on this machine, and when a placement last needed it: a file that outlives fleetd and
reboots, so that it goes in time, and nothing else does."""

import logging
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.model.download import Download
from fleetd.small_files import replace_file

log = logging.getLogger(__name__)

KEPT_S = 24 * 3600.0  # after the last placement that needed it


class _Kept(msgspec.Struct, frozen=True):
    """A download, and when (Unix time) a placement last needed it."""

    download: Download
    needed_at: float


class DownloadAccount:
    """The account in a file. One that cannot be read is begun anew: what it named stays then, until it is downloaded
    again. `unix_now` is the wall clock."""

    def __init__(self, path: Path, unix_now: Callable[[], float]) -> None:
        self._path = path
        self._unix_now = unix_now
        self._kept = self._read()

    def __bool__(self) -> bool:
        return bool(self._kept)

    def note(self, *downloads: Download) -> None:
        """These were downloaded, or are needed."""
        self._kept |= dict.fromkeys(downloads, self._unix_now())
        self._write()

    def forget(self, download: Download) -> None:
        """It is here no longer, or is others' now."""
        if self._kept.pop(download, None) is not None:
            self._write()

    def find_old(self, needed: Collection[Download]) -> list[Download]:
        """What nothing has needed for KEPT_S. `needed` are those that placements name now."""
        if still := [each for each in self._kept if each in needed]:
            self.note(*still)
        now = self._unix_now()
        for each, at in self._kept.items():  # the clock was set back
            self._kept[each] = min(at, now)
        return [each for each, at in self._kept.items() if at + KEPT_S <= now]

    def _read(self) -> dict[Download, float]:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=tuple[_Kept, ...])
        except FileNotFoundError:
            return {}
        except (OSError, *UNREADABLE) as error:
            log.warning("cannot read what was downloaded here (%s), so that it is not deleted: %s", self._path, error)
            return {}
        return {each.download: each.needed_at for each in kept}

    def _write(self) -> None:
        try:
            replace_file(self._path, msgspec.json.encode([_Kept(each, at) for each, at in self._kept.items()]))
        except OSError as error:
            log.warning("cannot note what was downloaded here: %s", error)
