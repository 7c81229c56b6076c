"""update: resolve the image of a container anew, and roll it out."""

from fleetctl import output
from fleetctl.client import Client
from fleetctl.command_line import flag, new_command, unit_arguments
from fleetctl.commands.apply import finish, open_patiently
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.images import ask
from fleetctl.listing import TABLE
from fleetctl.local_files import parse_argument
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.source import resolved_image, sources_of
from fleetd.model.quadlet.translation import image_to_resolve, with_image
from fleetd.model.unitfile import UnitFileError, render_unit_file


@new_command("update", usage="[--plan] [--no-block] UNIT", completes=("units",))
@flag("--plan", text="only say whether the image has changed")
@flag("--no-block", text="do not wait for the rollout")
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], plan: bool, no_block: bool) -> int:
    """Asks the registry which image the tag of a container (Image= in hello.container) means now. If that is another
    one than the unit runs, prints the digests of both, and rolls out the new one as apply does: the instances of a
    template one after the other, as the options of their group say.

    Exits with 0 if the image is the same, or once the new one is rolled out; with 1 and the reason if it cannot be
    resolved, or the rollout fails: then it is reverted, unless the group says otherwise.
    """
    if len(units) != 1:
        raise CommandFailed("One unit must be provided")
    name = parse_argument(units[0]).name.full
    client = open_patiently(settings)
    content = _fetch(client, name)
    image = image_to_resolve(content.options)
    if not image:
        raise CommandFailed(f"Unit {name} cannot be updated: its file names no image by a tag that a registry resolves")
    try:
        resolved, why = ask(client, name, image)
    except CommandFailed as error:
        raise CommandFailed(str(error).removeprefix("Error creating units: failed creating unit ")) from error
    if not resolved:
        raise CommandFailed(f"Unit {name} cannot be updated: {why}")
    before = resolved_image(content.options)
    if resolved == before:
        output.result(f"Unit {name}: {image} is {_digest(resolved)} as before")
        return 0
    output.result(f"Unit {name}: {image} was {_digest(before)}, and is {_digest(resolved)} now")
    if plan:
        return 0
    return _roll_out(client, content, image, resolved, no_block)


def _fetch(client: Client, name: str) -> schema.UnitContent:
    with failing_as(f"Error retrieving Unit {name}: "):
        content = client.content(name)
    if content is None:
        raise CommandFailed(f"Unit {name} not found{suggest_unit(client, name)}")
    if not sources_of(content.options):
        raise CommandFailed(f"Unit {name} cannot be updated: it is no container (it was made of no .container file)")
    return content


def _digest(image: str) -> str:
    return output.printable(image.partition("@")[2]) or "not resolved"


def _roll_out(client: Client, content: schema.UnitContent, image: str, resolved: str, no_block: bool) -> int:
    """Change the unit, and its instances, to this image. Returns the exit status."""
    name = content.name
    try:
        text = render_unit_file(with_image(content.options, resolved))
    except (InvalidQuadlet, UnitFileError) as error:
        raise CommandFailed(f"Unit {name} cannot be updated: {error}") from error
    unit = schema.AppliedUnit(name, text, content.dropins)
    request = schema.Apply((unit,), edit=True, generation=content.generation, note=f"update: {image}")
    with failing_as(f"Error updating unit {name}: "):
        answer = client.apply(request)
    return finish(client, name, answer, TABLE, False, no_block)
