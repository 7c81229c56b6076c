"""A directory in which every write is a moment at which the writer can die: that is how far its disk is simulated."""

from pathlib import Path

from tests.simulation.wire import IsFatal

_Plain: type[Path] = type(Path())  # what this system makes of a Path


def watch_writes(directory: Path, is_fatal: IsFatal) -> Path:
    """The same directory. Of what is moved into place or deleted below it `is_fatal` is told just before and just after
    (fleetd/agent/ledger.py writes in no other way); the dead write nothing."""

    class WatchedPath(_Plain):  # type: ignore[valid-type,misc]
        def replace(self, target: Path) -> Path:  # type: ignore[override]
            if is_fatal(f"before it keeps {target.name}"):
                raise OSError("who writes is dead")
            kept: Path = super().replace(target)
            is_fatal(f"after it has kept {target.name}")
            return kept

        def unlink(self, missing_ok: bool = False) -> None:
            if is_fatal(f"before it forgets {self.name}"):
                raise OSError("who deletes is dead")
            super().unlink(missing_ok)
            is_fatal(f"after it has forgotten {self.name}")

    return WatchedPath(directory)
