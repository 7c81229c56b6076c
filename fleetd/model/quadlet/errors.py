"""What a container, volume or network file is refused with."""


class InvalidQuadlet(ValueError):
    """A file that no service can be made of. The message names the file or the key, the cause and the remedy."""
