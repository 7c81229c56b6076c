"""The file that fleetd writes, as fleet-dns reads it."""

import os
from collections.abc import Callable
from pathlib import Path

from fleetd.model.name_table import NameTable, decode

_Mark = tuple[int, int, int]


class TableFile:
    """Reads the table again whenever the file was replaced. `table` is the last one that could be read."""

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        """Raises OSError and ValueError if there is no table to begin with. `complain` is told of one later that cannot
        be read, once; the former is kept then."""
        self._path = path
        self.complain = complain
        self._mark = self._look()
        self.table = self._read()

    def was_replaced(self) -> bool:
        """Look at the file, and read it if it is another. True if `table` is a new one. Raises FileNotFoundError if the
        file is gone: names are not to be answered any more."""
        mark = self._look()
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            self.table = self._read()
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            self.complain(f"{self._path}: {error}; the names known before are answered")
            return False
        return True

    def _look(self) -> _Mark:
        found = os.stat(self._path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> NameTable:
        return decode(self._path.read_bytes())
