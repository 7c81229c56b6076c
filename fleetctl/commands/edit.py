"""edit: edit a drop-in of a unit in the cluster, as systemctl edit does on one machine."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import click

from fleetctl import output
from fleetctl.client import Client
from fleetctl.command_line import blocking_options, bound_s, flag, new_command, unit_arguments
from fleetctl.commands.apply import finish, open_patiently
from fleetctl.commands.cat import dropin_path, render_content
from fleetctl.commands.start import LOAD, START, wait_for
from fleetctl.commands.submit import warn
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.images import open_client_for, resolve
from fleetctl.listing import TABLE
from fleetctl.local_files import parse_argument
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetctl.wait_outcome import on_every_machine
from fleetd.api import schema
from fleetd.model.constraints import parse_requirements
from fleetd.model.content import Content, InvalidDropIn, check_dropin_name, make_dropins
from fleetd.model.names import parse_name
from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.source import parse_quadlet_file, resolved_image, sources_of
from fleetd.model.quadlet.translation import image_to_resolve, translate, with_image
from fleetd.model.unitfile import UnitFile, UnitFileError, decode_unit_file, parse_unit_file, render_unit_file

OVERRIDE = "override.conf"
BEGIN = "### Anything between here and the comment below will become the new contents of the file"
END = "### Lines below this comment will be discarded"
_EDITORS = ("editor", "nano", "vim", "vi")  # as systemctl edit tries them


@new_command(
    "edit",
    usage="[--drop-in=NAME] [--full] [--stdin] [--no-block|--block-attempts=N] UNIT",
    completes=("units",),
)
@click.option("--drop-in", "drop_in", default=OVERRIDE, help="the drop-in to edit; .conf is added if missing")
@flag("--full", text="edit the unit file instead of a drop-in")
@flag("--stdin", text="take the new text from standard input instead of an editor")
@blocking_options
@unit_arguments
def command(
    settings: Settings,
    units: tuple[str, ...],
    drop_in: str,
    full: bool,
    stdin: bool,
    no_block: bool,
    block_attempts: int,
) -> int:
    """Opens a drop-in of the unit in an editor ($SYSTEMD_EDITOR, $EDITOR or $VISUAL), and submits what you leave there;
    an empty text removes the drop-in. Options of a drop-in are added to those of the unit file, or replace them:
    systemd.unit(5) says which, and how an empty value resets a list.

    The change applies at once, on all machines of the unit: by a daemon-reload where that is enough (MemoryMax=, for
    example), else by a restart. That of a template reaches its instances, too, one after the other as with apply; they
    keep the drop-ins that they have of their own.

    Exits with 0 once the unit is as it is to be, and with 1 and the reason if it has failed or systemd refuses it.
    """
    client = open_client_for(settings, units)
    if len(units) != 1:
        raise CommandFailed("One unit must be provided")
    name = parse_argument(units[0]).name.full
    if full and drop_in != OVERRIDE:
        raise CommandFailed("--full edits the unit file, and --drop-in names another file: give one of them")
    drop_in = "" if full else _complete(drop_in)
    content = _fetch(client, name)
    if stdin:
        return _submit(settings, client, content, drop_in, _read_stdin(), bound_s(block_attempts), no_block)
    page = _render_file(content) if full else render_page(content, drop_in)
    path = _open_editor(page, name, drop_in)
    try:
        text = path.read_text(encoding="utf-8")
        taken = text if full else take_text(text)
        status = _submit(settings, client, content, drop_in, taken, bound_s(block_attempts), no_block)
    except (CommandFailed, UnicodeDecodeError, OSError) as error:
        raise CommandFailed(f"{error}\nYour text is kept in {path}") from error
    path.unlink()
    return status


def _complete(drop_in: str) -> str:
    """The name of the drop-in's file. Raises CommandFailed if none may be named so."""
    name = drop_in if drop_in.endswith(".conf") else f"{drop_in}.conf"
    try:
        check_dropin_name(name)
    except InvalidDropIn as error:
        raise CommandFailed(str(error)) from error
    return name


def _fetch(client: Client, name: str) -> schema.UnitContent:
    with failing_as(f"Error retrieving Unit {name}: "):
        content = client.content(name)
    if content is None:
        raise CommandFailed(f"Unit {name} not found{suggest_unit(client, name)}")
    if not content.generation:
        raise CommandFailed(f"Unit {name} cannot be edited: this fleetd is older and has no drop-ins; upgrade it")
    return content


def _render_file(content: schema.UnitContent) -> str:
    """The unit file, or the container that it was made of."""
    files = sources_of(content.options)
    return files[0].text if files else render_unit_file(content.options)


def _text_of(content: schema.UnitContent, drop_in: str) -> str:
    return next((dropin.text for dropin in content.dropins if dropin.name == drop_in), "")


def render_page(content: schema.UnitContent, drop_in: str) -> str:
    """What the editor shows: the drop-in between two comments, and below them the rest of the unit as comments."""
    path = dropin_path(content.name, drop_in)
    whole = "".join(f"# {line}".rstrip() + "\n" for line in render_content(content).splitlines())
    return f"### Editing {path}\n{BEGIN}\n\n{_text_of(content, drop_in)}\n{END}\n\n{whole}"


def take_text(page: str) -> str:
    """The text of the drop-in in a page that was edited, also if one of the comments is gone."""
    _, begin, after = page.partition(BEGIN + "\n")
    return (after if begin else page).partition(END)[0]


def _read_stdin() -> str:
    try:
        with open(0, "rb", closefd=False) as stdin:
            return decode_unit_file(stdin.read())
    except OSError as error:
        raise CommandFailed(f"cannot read standard input: {error.strerror}") from error
    except UnitFileError as error:
        raise CommandFailed(f"Standard input: {error}") from error


def _open_editor(page: str, name: str, drop_in: str) -> Path:
    """Let the user edit this page. Returns the file with the result. Raises CommandFailed."""
    handle, path = tempfile.mkstemp(prefix=f"{name.replace('/', '-')}.", suffix=f".{drop_in or name}")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(page)
    editors = [shlex.split(words) for words in map(os.environ.get, ("SYSTEMD_EDITOR", "EDITOR", "VISUAL")) if words]
    for editor in [*editors[:1], *([word] for word in _EDITORS if not editors)]:
        try:
            status = subprocess.run([*editor, path], check=False).returncode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CommandFailed(f"{editor[0]} cannot be run: {error.strerror}; set EDITOR to an editor") from error
        if status:
            Path(path).unlink()
            raise CommandFailed(f"{editor[0]} ended with exit status {status}: nothing is changed")
        return Path(path)
    Path(path).unlink()
    raise CommandFailed("No editor is found: set EDITOR to one, or use --stdin")


def _submit(
    settings: Settings,
    client: Client,
    content: schema.UnitContent,
    drop_in: str,
    text: str,
    longest_s: float,
    no_block: bool,
) -> int:
    """Submit the new text of the drop-in ('': of the unit file), and wait for the unit. Returns the exit status."""
    name = content.name
    operation, what = (
        _plan_dropin(content, drop_in, text)
        if drop_in
        else (_plan_file(client, content, text), "its unit file is replaced")
    )
    if operation is None:
        output.result(f"Unit {name} is not changed")
        return 0
    if parse_name(name).is_template:
        return _apply(settings, content, operation, what, no_block)
    with failing_as(f"Error editing unit {name}: "):
        for refusal in client.carry_out([operation]).values():
            raise refusal
    output.result(f"Unit {name}: {what}")
    verb = {str(verb.target): verb for verb in (LOAD, START)}.get(content.desired_state)
    if verb is None or no_block:
        return 0
    check = on_every_machine(verb.check) if _is_global(content) else verb.check
    return wait_for(client, [name], verb.target, check, longest_s)


def _apply(
    settings: Settings, content: schema.UnitContent, operation: schema.UnitOperation, what: str, no_block: bool
) -> int:
    """Change a template together with its instances, one after the other. Returns the exit status."""
    name = content.name
    dropins = content.dropins if operation.dropins is None else operation.dropins
    unit = schema.AppliedUnit(name, render_unit_file(operation.options or content.options), dropins)
    client = open_patiently(settings)
    with failing_as(f"Error editing unit {name}: "):
        answer = client.apply(schema.Apply((unit,), edit=True, generation=content.generation, note=f"edit: {what}"))
    output.result(f"Unit {name}: {what}")
    return finish(client, name, answer, TABLE, False, no_block)


def _plan_file(client: Client, content: schema.UnitContent, text: str) -> schema.UnitOperation | None:
    """The operation that replaces the unit file, None if that is the same. Raises CommandFailed."""
    try:
        file = _parse_file(client, content, text)
    except (UnitFileError, InvalidQuadlet) as error:
        where = f"line {error.line}: " if isinstance(error, UnitFileError) and error.line else ""
        raise CommandFailed(f"The unit file of {content.name} cannot be read: {where}{error}") from error
    if not file.options:
        raise CommandFailed(f"The unit file of {content.name} has no options: nothing is changed")
    if file.options == content.options:
        return None
    warn(content.name, file)
    return schema.UnitOperation(
        content.name, file.options, desired_state=content.desired_state, generation=content.generation
    )


def _parse_file(client: Client, content: schema.UnitContent, text: str) -> UnitFile:
    """The new unit file; of a container, the service that is made of this text and the volumes and networks that the
    unit has, with the image that it has unless another one is named. Raises UnitFileError and InvalidQuadlet."""
    files = sources_of(content.options)
    if not files or not (options := parse_quadlet_file(text)):
        return UnitFile.parse(text)
    others = {file.name: parse_unit_file(file.text) for file in files}
    made = translate(files[0].name, options, others.get)
    image = resolved_image(content.options)
    if image and image_to_resolve(made) == image_to_resolve(content.options):
        return UnitFile.from_options(with_image(made, image))
    return resolve(client, content.name, UnitFile.from_options(made))


def _plan_dropin(content: schema.UnitContent, drop_in: str, text: str) -> tuple[schema.UnitOperation | None, str]:
    """The operation that sets the drop-in, None if it is so already, and what it does. Raises CommandFailed."""
    others = [(dropin.name, dropin.text) for dropin in content.dropins if dropin.name != drop_in]
    try:
        [new] = make_dropins([(drop_in, text)])
        added = [(drop_in, text)] if new.text else []
        dropins = tuple(schema.DropIn(each.name, each.text) for each in make_dropins([*others, *added]))
    except InvalidDropIn as error:
        raise CommandFailed(str(error)) from error
    if dropins == content.dropins:
        return None, ""
    exists = any(dropin.name == drop_in for dropin in content.dropins)
    done = "removed" if not added else "replaced" if exists else "added"
    operation = schema.UnitOperation(content.name, dropins=dropins, generation=content.generation)
    return operation, f"drop-in {drop_in} is {done}"


def _is_global(content: schema.UnitContent) -> bool:
    dropins = make_dropins((dropin.name, dropin.text) for dropin in content.dropins)
    options = Content(render_unit_file(content.options), dropins).options()
    return parse_requirements(options, parse_name(content.name)).is_global
