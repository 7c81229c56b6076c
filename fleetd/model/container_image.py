"""The image that the container of a unit needs on its machine."""

from collections.abc import Sequence

from fleetd.model.download import Download
from fleetd.model.image import is_digest, refuse_image
from fleetd.model.quadlet.source import resolved_image, source_value
from fleetd.model.unit_option import UnitOption


def image_of(options: Sequence[UnitOption]) -> tuple[Download, ...]:
    """The image that a unit with these options needs. One without a digest may be another one at each pull, and so is
    left to podman."""
    image = resolved_image(options) or source_value(options, "Container", "Image")
    name, _, digest = image.partition("@")
    return (Download(image),) if is_digest(digest) and not refuse_image(name) else ()
