"""The files that were fetched for units (Fetch=), below a directory that root alone may change.

`.sha256/HEX` holds each of them once, whichever units need it; `UNIT/NAME` is the same file, where the unit finds it. A
unit's names change when something is done for the unit, and not before: what runs finds what it was started with.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fleetd.model.download import Download


class FetchedFiles:
    """The files below `directory`, which is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._has_any = directory.is_dir()

    def path_of(self, download: Download) -> Path:
        """Where the file is once it was fetched."""
        return self.directory / ".sha256" / download.sha256

    def has(self, download: Download) -> bool:
        """True if the file is here as it came, when it was compared with its hash. What a unit that is root has written
        to since, as a RootImage= that it has mounted, is of no use to others."""
        try:
            return self.path_of(download).stat().st_mtime_ns == 0
        except OSError:
            return False

    def make_room(self) -> None:
        """Make the directory in which files are put. Raises OSError."""
        (self.directory / ".sha256").mkdir(mode=0o755, parents=True, exist_ok=True)
        self._has_any = True

    def prepare(self, unit: str, downloads: Sequence[Download]) -> None:
        """Have these files, which are here, under their names in the unit's directory, and no others there. Raises
        OSError."""
        files = {each.name: self.path_of(each) for each in downloads if each.sha256}
        if not files:
            self.forget(unit)
            return
        place = self.directory / unit
        place.mkdir(mode=0o755, exist_ok=True)
        for name, path in files.items():
            if not (place / name).exists() or not path.samefile(place / name):
                new = place / f".{name}.new"
                new.unlink(missing_ok=True)
                os.link(path, new)
                new.replace(place / name)
        for name in os.listdir(place):
            if name not in files:
                (place / name).unlink()

    def forget(self, unit: str) -> None:
        """Remove the names of a unit that needs none any more. The files stay for a while (DownloadAccount)."""
        if self._has_any:
            shutil.rmtree(self.directory / unit, ignore_errors=True)

    def delete(self, download: Download) -> None:
        """Delete a file that no unit here names. Raises OSError."""
        self.path_of(download).unlink(missing_ok=True)
