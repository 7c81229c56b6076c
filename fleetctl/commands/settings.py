"""settings: show or change the settings of the cluster."""

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetctl.suggestion import nearest, render_hint
from fleetd.api import schema
from fleetd.model.timespan import render_moment


def render_source(setting: schema.Setting, *, full: bool = False) -> str:
    """Where the value is from."""
    if setting.source == "fleet.conf":
        return f"fleet.conf of {output.short_id(setting.machine, full)}"
    if setting.source == "cluster":
        by = f" by {setting.by}" if setting.by else ""
        return f"set{by} on {render_moment(setting.at)}"
    return setting.source


COLUMNS: Columns[schema.Setting] = {
    "setting": lambda setting, full: setting.name,
    "value": lambda setting, full: setting.value or "-",
    "from": lambda setting, full: render_source(setting, full=full),
}
VALUES: Values[schema.Setting] = {
    "setting": lambda setting: setting.name,
    "value": lambda setting: setting.value,
    "from": lambda setting: setting.source,
    "machine": lambda setting: setting.machine or None,
    "by": lambda setting: setting.by or None,
    "at": lambda setting: setting.at or None,
}
LISTING = Listing(COLUMNS, VALUES, default="setting,value,from")
_USAGE = "[--no-legend] [--fields=FIELD,...] [--output=json] | get NAME | set NAME=VALUE... | unset NAME..."


@new_command("settings", usage=_USAGE, completes=("settings",))
@list_command(LISTING)
def command(settings: Settings, view: View[schema.Setting]) -> int:
    """Lists the settings of the cluster with their values, and where each is from; or gets, sets or unsets some.

    A setting of the cluster is an option of fleet.conf(5) that `set` overrides on every machine, at once and without a
    restart. Several are set all or none. Where it is not set,
    the fleet.conf counts of the machine that leads, or, for max_units and max_units_bytes, of the one whose API is
    asked.
    """
    verb, *words = view.names or ("list",)
    if verb not in _VERBS:
        raise CommandFailed(f"{output.printable(verb)} is neither get, set nor unset", status=2)
    if verb != "list" and not words:
        raise CommandFailed(f"settings {verb} needs the name of a setting", status=2)
    return _VERBS[verb](open_client(settings), view, words)


def _list(client: Client, view: View[schema.Setting], _: list[str]) -> int:
    view.show(_settings_of(client))
    return 0


def _get(client: Client, _: View[schema.Setting], words: list[str]) -> int:
    if len(words) > 1:
        raise CommandFailed("settings get takes one name", status=2)
    output.result(output.printable(_find(_settings_of(client), words[0]).value))
    return 0


def _set(client: Client, _: View[schema.Setting], words: list[str]) -> int:
    new: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise CommandFailed(f"{output.printable(word)} is not NAME=VALUE", status=2)
        if name in new:
            raise CommandFailed(f"{output.printable(name)} is given twice", status=2)
        new[name] = value
    _change(client, new, [])
    for name, value in new.items():
        output.result(f"Set {output.printable(name)}={output.printable(value)} for the cluster")
    return 0


def _unset(client: Client, _: View[schema.Setting], words: list[str]) -> int:
    _change(client, {}, words)
    settings = _settings_of(client)
    for name in dict.fromkeys(words):
        setting = next((setting for setting in settings if setting.name == name), None)
        now = ""
        if setting is not None:
            value = output.printable(setting.value) or "empty"
            now = f": now {value} ({output.printable(render_source(setting))})"
        output.result(f"Unset {output.printable(name)}{now}")
    return 0


_VERBS = {"list": _list, "get": _get, "set": _set, "unset": _unset}


def _settings_of(client: Client) -> list[schema.Setting]:
    with failing_as("Error retrieving the settings of the cluster: "):
        return client.settings()


def _find(settings: list[schema.Setting], name: str) -> schema.Setting:
    for setting in settings:
        if setting.name == name:
            return setting
    hint = render_hint(nearest(name, [setting.name for setting in settings]))
    raise CommandFailed(f"There is no setting {output.printable(name)}: fleetctl settings lists them{hint.rstrip()}")


def _change(client: Client, new: dict[str, str], unset: list[str]) -> None:
    with failing_as("Error changing the settings of the cluster: "):
        client.change_settings(new, unset)
