"""What a container, volume or network file is refused with."""

from fleetd.model.names import visible


class InvalidQuadlet(ValueError):
    """A file that no service can be made of. The message names the file or the key, the cause and the remedy; control
    characters in it are escaped, since files come from others, too."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))
