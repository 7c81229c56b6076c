"""Images of containers: their tags are resolved to digests when a unit is submitted, so that all machines run the same.

A container that the cluster has already, made of the same files, keeps its image: only `update` resolves it anew.
"""

from collections.abc import Sequence

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.errors import ApiError, CommandFailed, NotFleet, failing_as
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.image import refuse_image
from fleetd.model.machine_request import ANSWER_S
from fleetd.model.quadlet.names import CONTAINER_SUFFIX
from fleetd.model.quadlet.source import sources_of
from fleetd.model.quadlet.translation import image_to_resolve, with_image
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFile, parse_unit_file, render_unit_file

Options = Sequence[UnitOption]


def open_client_for(settings: Settings, units: Sequence[str]) -> Client:
    """A client for a command that submits these. It waits longer if registries are asked for a container among them:
    this machine asks first, then others do."""
    if any(unit.endswith(CONTAINER_SUFFIX) for unit in units):
        timeout_s = settings.request_timeout_s + 2 * ANSWER_S
        settings = msgspec.structs.replace(settings, request_timeout_s=timeout_s)
    return open_client(settings)


def resolve(client: Client, name: str, content: UnitFile) -> UnitFile:
    """The content with the image by its digest; as it is for a unit that was made of no container, or whose image
    cannot be resolved: a warning says why. Raises CommandFailed if the registry does not give the image."""
    image = image_to_resolve(content.options)
    if not image:
        return content
    resolved, why = ask(client, name, image)
    if not resolved:
        output.warning(
            f"warning: Unit {name}: each machine resolves the image {output.printable(image)} by itself: {why}"
        )
        return content
    return UnitFile.from_options(with_image(content.options, resolved))


def ask(client: Client, name: str, image: str) -> tuple[str, str]:
    """The image by its digest, or '' and why it cannot be resolved. Raises CommandFailed if the registry does not give
    it."""
    if refusal := refuse_image(image):
        return "", refusal
    try:
        answer = client.resolve_image(image)
    except NotFleet:
        return "", "this fleetd is older, and cannot ask registries"
    except ApiError as error:
        raise CommandFailed(f"Error creating units: failed creating unit {name}: {error}") from error
    return answer.resolved, output.printable(answer.reason)


def keep_image(stored: Options, content: UnitFile) -> UnitFile | None:
    """What the cluster has of a unit, if it was made of the same files; None if not."""
    files = sources_of(content.options)
    return UnitFile.from_options(stored) if files and sources_of(stored) == files else None


def resolve_folder(client: Client, request: schema.Apply, *, asks: bool = True) -> schema.Apply:
    """The request with the images of its containers by their digests; without `asks`, only of those that the cluster
    has, made of the same files. Raises CommandFailed."""
    if not any(sources_of(parse_unit_file(unit.text)) for unit in request.units):
        return request
    units = tuple(_resolve_unit(client, unit, asks) for unit in request.units)
    return msgspec.structs.replace(request, units=units)


def _resolve_unit(client: Client, unit: schema.AppliedUnit, asks: bool) -> schema.AppliedUnit:
    content = UnitFile.parse(unit.text)
    if not sources_of(content.options):
        return unit
    with failing_as(f"Error retrieving Unit {unit.name}: "):
        stored = client.content(unit.name)
    kept = keep_image(stored.options, content) if stored else None
    if kept is None and asks:
        kept = resolve(client, unit.name, content)
    return msgspec.structs.replace(unit, text=render_unit_file((kept or content).options))
