"""The exceptions of fleetctl."""

from collections.abc import Iterator
from contextlib import contextmanager


class CommandFailed(Exception):
    """Ends a command: prints the text ('' prints nothing) to stderr and exits with `status`."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class ClientError(Exception):
    """A request to the API failed. If it `may_pass`, a later try may succeed."""

    may_pass = False


class Unreachable(ClientError):
    """No answer arrived. The request may have been carried out all the same."""

    may_pass = True


class NotFleet(ClientError):
    """The server does not speak fleet's API; `code` is the HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class ApiError(ClientError):
    """The API refused the request; `code` is the HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.may_pass = code >= 500


class SshFailed(Exception):
    """An SSH connection failed or was lost; the text names user, host, cause and remedy."""


def cause_of(error: OSError) -> str:
    """What the system says of an error, as part of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()


@contextmanager
def failing_as(before: str, after: str = "") -> Iterator[None]:
    """Turn a ClientError into CommandFailed, with what the command was doing around its text."""
    try:
        yield
    except ClientError as error:
        raise CommandFailed(f"{before}{error}{after}") from error
