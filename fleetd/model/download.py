"""What a unit needs on its machine before it starts there: the image of its container, by digest."""

from collections.abc import Iterable

import msgspec

from fleetd.model.image import is_digest, refuse_image
from fleetd.model.quadlet.source import resolved_image, source_value
from fleetd.model.unit_option import UnitOption

MAX_CAUSE = 240  # characters


class Download(msgspec.Struct, frozen=True, order=True, gc=False):
    """An image as `REGISTRY/NAME@sha256:…`: whichever machine pulls it gets the same."""

    source: str

    def __str__(self) -> str:
        return f"the image {self.source}"


class FetchFailed(Exception):
    """A machine cannot have a download. The message says why, as a predicate of the machine."""


def downloads_of(options: Iterable[UnitOption]) -> tuple[Download, ...]:
    """What a unit with these options needs. An image without a digest may be another one at each pull, and so is left
    to podman."""
    options = tuple(options)
    image = resolved_image(options) or source_value(options, "Container", "Image")
    name, _, digest = image.partition("@")
    return (Download(image),) if is_digest(digest) and not refuse_image(name) else ()


# What programs say when a download fails, in small letters, and what to do about it; the first that is found counts.
_REMEDIES = (
    (
        ("manifest unknown", "not found", "name unknown", "404"),
        "push it there again, or have its tag resolved anew (fleetctl update)",
    ),
    (
        ("unauthorized", "authentication required", "denied", "401", "403"),
        "have registry_auth_file= in fleet.conf of the machine name a file with a login for it",
    ),
    (("no space left", "quota exceeded"), "make room on the machine, or take it to one with a larger disk"),
    (("no image found in", "architecture"), "push it for the architecture of the machine"),
    (("not installed",), "install it there, or have the unit require another machine (MachineMetadata=)"),
)
_AGAIN = "it is tried again in a while"


def describe_failure(download: Download, said: str) -> str:
    """Why a machine cannot have the download, as a predicate, by the last line that the program `said`: cause and
    remedy."""
    cause = said.strip().removeprefix("Error: ") or "it was not said why"
    if len(cause) > MAX_CAUSE:  # the end says most
        cause = f"…{cause[1 - MAX_CAUSE :]}"
    words = cause.lower()
    remedy = next((remedy for signs, remedy in _REMEDIES if any(sign in words for sign in signs)), _AGAIN)
    return f"cannot get {download}: {cause}: {remedy}"
