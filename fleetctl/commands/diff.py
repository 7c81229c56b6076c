"""diff: show what applying a folder would change."""

from fleetctl import output
from fleetctl.command_line import new_command
from fleetctl.commands.apply import folder_options, make_request, open_patiently, output_option, send
from fleetctl.errors import CommandFailed
from fleetctl.images import resolve_folder
from fleetctl.listing import JSON, render_json
from fleetctl.plan_lines import GONE
from fleetctl.settings import Settings

TROUBLE = 2  # as diff(1)


@new_command("diff", usage="[--set=NAME] [--prune] [--take-over] [--output=json] DIR", completes=("folders",))
@folder_options
@output_option("an array of objects, one for each unit that would change")
def command(settings: Settings, folder: str, set_: str, prune: bool, take_over: bool, form: str) -> int:
    """Compares the units of the folder with the cluster's, and prints what apply with the same options would change, as
    diff(1) does: unit files and drop-ins, each without comments, as the cluster keeps them. Instances that change as
    their template does are not repeated.

    Exits with 0 if nothing would change, with 1 if something would, and with 2 if that cannot be told.
    """
    from fleetctl.content_diff import describe_rest, diff_values, paint, render_differences  # difflib is slow to import

    try:
        found, request = make_request(folder, set_, prune=prune, take_over=take_over, plan=True, contents=True)
        client = open_patiently(settings)
        answer = send(client, folder, resolve_folder(client, request, asks=False))
    except CommandFailed as failure:
        raise CommandFailed(str(failure), TROUBLE) from failure
    if form == JSON:
        output.result(render_json(answer.units, diff_values(found.contents, folder)))
    else:
        for text in render_differences(answer.units, found.contents, folder):
            output.write_text(paint(text))
    for sentence in (*describe_rest(answer.units, found.contents, folder), *answer.refusals):
        output.warning(sentence)
    return 1 if any(unit.change != GONE for unit in answer.units) else 0
