"""KnownImages: which images podman has here, without asking it.

To ask podman takes longer than all else that fleet does before a start. So of an image that it has found once, it is
enough that its list of images still has that.
"""

from pathlib import Path

import msgspec

LIST = Path("/var/lib/containers/storage/overlay-images/images.json")


class _Image(msgspec.Struct):
    """An image in podman's list."""

    names: tuple[str, ...] | None = None


class KnownImages:
    """The images that podman has found since fleetd has started. `path` is its list, which for a user's is elsewhere,
    and then not `is_readable`."""

    def __init__(self, path: Path = LIST, *, is_readable: bool = True) -> None:
        self._path = path if is_readable else None
        self._found: dict[str, None] = {}

    def note(self, image: str, *, is_here: bool) -> None:
        """podman has been asked for this image."""
        if is_here:
            self._found[image] = None
        else:
            self._found.pop(image, None)

    def have(self, image: str) -> bool:
        """True if podman has found this image, and still has it; False if it has to be asked."""
        if self._path is None or image not in self._found:
            return False
        try:
            listed = msgspec.json.decode(self._path.read_bytes(), type=list[_Image])
        except (OSError, msgspec.DecodeError):
            return False
        return any(image in (each.names or ()) for each in listed)
