"""Section: the options of one section of a file, read as podman's Quadlet reads them."""

from collections.abc import Iterable

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.words import split_words
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import WHITESPACE, join_continued

YES = ("1", "yes", "y", "true", "t", "on")
_NO = ("0", "no", "n", "false", "f", "off")


class Section:
    """The options of the section `name`, in the file's order. Each method raises InvalidQuadlet for a value that
    cannot be read."""

    def __init__(self, name: str, options: Iterable[UnitOption]) -> None:
        self.name = name
        self._values = [(each.name, join_continued(each.value)) for each in options if each.section == name]

    @property
    def keys(self) -> list[str]:
        """The keys, each once."""
        return list(dict.fromkeys(key for key, _ in self._values))

    def last(self, key: str) -> str:
        """The last value of a key, without the quotes around it; '' if it is empty or there is none."""
        value = next((value for each, value in reversed(self._values) if each == key), "").rstrip(WHITESPACE)
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value

    def has(self, key: str) -> bool:
        """Whether the key is there, be its value empty."""
        return any(each == key for each, _ in self._values)

    def all(self, key: str) -> list[str]:
        """All values of a key. An empty one resets them."""
        values: list[str] = []
        for each, value in self._values:
            if each == key:
                values = [*values, value] if value else []
        return values

    def words(self, key: str) -> list[str]:
        """The words of all values of a key, quotes and escapes taken away."""
        return [word for value in self.all(key) for word in self._split(key, value)]

    def plain_words(self, key: str) -> list[str]:
        """The words of all values of a key, quotes taken away. A backslash is a character like others."""
        return [word for value in self.all(key) for word in split_words(value, unescape=False)]

    def last_words(self, key: str) -> list[str]:
        """The words of the last value of a key."""
        return self._split(key, next((value for each, value in reversed(self._values) if each == key), ""))

    def pairs(self, key: str) -> list[str]:
        """`NAME=VALUE` of all values of a key, by name; of a name that is given twice the last one."""
        found = {word.partition("=")[0]: word for word in self.words(key)}
        return [found[name] for name in sorted(found)]

    def boolean(self, key: str) -> bool | None:
        """The last value of a key as a boolean; None if there is none."""
        value = self.last(key).lower()
        if not value:
            return None
        if value not in (*YES, *_NO):
            raise InvalidQuadlet(f"[{self.name}] {key}={value} is neither yes nor no: write one of them")
        return value in YES

    def _split(self, key: str, value: str) -> list[str]:
        try:
            return split_words(value)
        except InvalidQuadlet as error:
            raise InvalidQuadlet(f"[{self.name}] {key}=: {error}") from error
