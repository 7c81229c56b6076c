"""How a command fails: one exception that carries what the user reads, and the one way to say what was being done."""

from collections.abc import Iterator
from contextlib import contextmanager


class CommandFailed(Exception):
    """Ends a command: the text ('' says nothing) goes to stderr, `status` becomes the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class ClientError(Exception):
    """The API could not be asked, or refused. `may_pass` says that asking again later may help."""

    may_pass = False


class SshFailed(Exception):
    """A machine was not reached over SSH, or the connection was lost: the text names who, where, why, what to do."""


@contextmanager
def failing_as(before: str, after: str = "") -> Iterator[None]:
    """Turn an error of the client into the failure of the command, framed by what the command was doing."""
    try:
        yield
    except ClientError as error:
        raise CommandFailed(f"{before}{error}{after}") from error
