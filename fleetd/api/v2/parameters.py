"""Parameters of a query: the same rules and words wherever they are read. An empty value counts as none."""

import re

from fleetd.api.http import ApiError, Request
from fleetd.model.machine_request import LAST_S

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_TIME = re.compile(r"[0-9]{1,12}([.][0-9]{1,9})?", re.ASCII)


def read_all(request: Request, name: str) -> list[str]:
    """The values of a parameter that may be repeated, each once, in order."""
    return [value for value in dict.fromkeys(request.query_values(name)) if value]


def read_one(request: Request, name: str) -> str:
    """The value of a parameter that may be given once; '' if it is not given. Raises ApiError."""
    values = request.query_values(name)
    if len(values) > 1:
        raise ApiError(400, f"{name} is given {len(values)} times: once is enough")
    return values[0] if values else ""


def read_truth(request: Request, name: str, default: bool) -> bool:
    """A parameter that is true or false. Raises ApiError."""
    text = read_one(request, name)
    if text not in ("", "true", "false"):
        raise _refuse(name, text, "write true or false")
    return text == "true" if text else default


def read_number(request: Request, name: str, default: int) -> int:
    """A parameter that is a whole number, not a negative one. Raises ApiError."""
    text = read_one(request, name)
    if text and not _NUMBER.fullmatch(text):
        raise _refuse(name, text, "write a whole number")
    return int(text or default)


def read_time(request: Request, name: str) -> float:
    """A parameter that is a Unix time; 0 if it is not given. Raises ApiError."""
    text = read_one(request, name)
    if text and (not _TIME.fullmatch(text) or float(text) > LAST_S):
        raise _refuse(name, text, "write a Unix time in seconds")
    return float(text or 0)


def _refuse(name: str, text: str, remedy: str) -> ApiError:
    return ApiError(400, f"{name}={text[:80]}: {remedy}")
