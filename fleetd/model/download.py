"""What a unit needs on its machine before it starts there: the image of its container, by digest, and the files that it
names (Fetch=)."""

import re
from collections.abc import Iterable

import msgspec

FETCH = "Fetch"
MAX_FETCHES = 16  # of one unit
MAX_CAUSE = 240  # characters
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}", re.ASCII)
_URL = re.compile(
    r"https?://(?: [A-Za-z0-9._-]+ | \[[0-9A-Fa-f:.]+\] )(?: :[0-9]{1,5} )?(?: / (?P<path>[!-~]*) )?",
    re.ASCII | re.VERBOSE,
)
_USER = re.compile("[a-z]+://[^/]*@", re.ASCII)
MAX_URL = 2048  # characters


class Download(msgspec.Struct, frozen=True, order=True, gc=False):
    """An image as `REGISTRY/NAME@sha256:…`; or, with `sha256`, the file at the URL `source` that has this hash (in
    hex), and the name by which the unit finds it. Whichever machine gets it gets the same."""

    source: str
    sha256: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"the file {self.source}" if self.sha256 else f"the image {self.source}"


class FetchFailed(Exception):
    """A machine cannot have a download. The message says why, as a predicate of the machine."""


def parse_fetch(text: str) -> Download:
    """The file of a value of Fetch=, `URL sha256:HEX [NAME]`. Raises ValueError."""
    words = text.split()
    if len(words) not in (2, 3):
        raise ValueError(f"{text!r} is not URL sha256:HEX [NAME]")
    url, digest, *rest = words
    if _USER.match(url):
        raise ValueError("a user or password in a URL would be seen by all who may see the unit: take it out")
    parts = _URL.fullmatch(url)
    if parts is None or len(url) > MAX_URL:
        raise ValueError(f"{url[:MAX_URL]!r} is no URL of http or https")
    found = _SHA256.fullmatch(digest)
    if not found:
        raise ValueError(f"{digest!r} is not sha256: and 64 hex digits in small letters (sha256sum FILE prints them)")
    name = rest[0] if rest else re.split("[?#]", parts["path"] or "")[0].rpartition("/")[2]
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a file here: write one of letters, digits and _.+@- behind the hash"
        )
    return Download(url, found[1], name)


def refuse_fetches(values: Iterable[str]) -> str:
    """Why a unit may not have these values of Fetch=, specifiers replaced; '' if it may."""
    names: dict[str, None] = {}
    for text in values:
        try:
            name = parse_fetch(text).name
        except ValueError as error:
            return f"{FETCH}: {error}"
        if name in names:
            return f"{FETCH}: two files have the name {name}: write another one behind the hash"
        names[name] = None
    if len(names) > MAX_FETCHES:
        return f"{FETCH} has {len(names)} values, and at most {MAX_FETCHES} are allowed"
    return ""


def fetches_of(values: Iterable[str]) -> tuple[Download, ...]:
    """The files of these values of Fetch=, specifiers expanded; without those that no unit may have."""
    found: dict[str, Download] = {}
    for text in values:
        try:
            download = parse_fetch(text)
        except ValueError:
            continue
        found[download.name] = download
    return tuple(found.values())


# What programs say when a download fails, in small letters, and what to do about it; the first that is found counts.
_REMEDIES = (
    (
        ("manifest unknown", "not found", "name unknown", "404"),
        "push it there again, or have its tag resolved anew (fleetctl update)",
        "put it there again, or name another place in Fetch=",
    ),
    (
        ("unauthorized", "authentication required", "denied", "401", "403", "forbidden"),
        "have registry_auth_file= in fleet.conf of the machine name a file with a login for it",
        "let machines have it without a login",
    ),
    (("no space left", "quota exceeded"), "make room on the machine, or take it to one with a larger disk", ""),
    (("no image found in", "architecture"), "push it for the architecture of the machine", ""),
    (("another hash",), "", "give Fetch= the hash of what is there now, or put there what was meant"),
    (("not installed",), "install it there, or have the unit require another machine (MachineMetadata=)", ""),
)
_AGAIN = "it is tried again in a while"


def describe_failure(download: Download, said: str) -> str:
    """Why a machine cannot have the download, as a predicate, by the last line that the program `said`: cause and
    remedy."""
    cause = said.strip().removeprefix("Error: ") or "it was not said why"
    if len(cause) > MAX_CAUSE:  # the end says most
        cause = f"…{cause[1 - MAX_CAUSE :]}"
    words = cause.lower()
    of_image, of_file = next(
        ((image, file) for signs, image, file in _REMEDIES if any(sign in words for sign in signs)), ("", "")
    )
    remedy = (of_file if download.sha256 else "") or of_image or _AGAIN
    return f"cannot get {download}: {cause}: {remedy}"
