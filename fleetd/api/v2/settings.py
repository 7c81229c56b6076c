"""The settings of the cluster: show them with where they are from, and change them."""

from collections.abc import Callable, Mapping

from fleetd.api import schema
from fleetd.api.audit import asked_of
from fleetd.api.capabilities import check_capability
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.config.cluster_settings import CLUSTER_OPTIONS, refuse_value
from fleetd.config.options import ConfigOption
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings, edit_settings
from fleetd.model.machine import Capability, Machine
from fleetd.registry.records import CLUSTER_SETTINGS, LEADER, MACHINES
from fleetd.registry.registry import Registry


def describe_settings(
    settings: ClusterSettings, configured: Mapping[str, Machine | None]
) -> tuple[schema.Setting, ...]:
    """All settings in order of names, also those that only a later version knows. `configured` are the machines whose
    fleet.conf counts, by ConfigOption.of_cluster; None: it is not known."""
    names = sorted({*CLUSTER_OPTIONS, *settings.values})
    return tuple(_describe(name, settings.values.get(name), configured) for name in names)


def _describe(name: str, setting: ClusterSetting | None, configured: Mapping[str, Machine | None]) -> schema.Setting:
    if setting is not None:
        return schema.Setting(name, setting.value, "cluster", by=setting.by, at=setting.at)
    option: ConfigOption = CLUSTER_OPTIONS[name]
    machine = configured[option.of_cluster]
    if machine is not None and name in machine.configured:
        return schema.Setting(name, machine.configured[name], "fleet.conf", machine=machine.id)
    return schema.Setting(name, option.default, "default")


class Settings:
    """The resource. `machine()` is this machine, `unix_now` the wall clock."""

    def __init__(self, registry: Registry, machine: Callable[[], Machine], unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._machine = machine
        self._unix_now = unix_now

    async def get_all(self, _: Request, __: str) -> Response:
        """Show the settings of the cluster, and where each is from."""
        reader = self._registry.at_one_revision()
        settings = (await reader.get_many(CLUSTER_SETTINGS, [()])).get((), ClusterSettings())
        leader = (await reader.get_many(LEADER, [()])).get(())
        machines = await reader.get_many(MACHINES, [(leader.machine,)]) if leader else {}
        leading = machines.get((leader.machine,)) if leader else None
        return render_json(schema.Settings(describe_settings(settings, {"leader": leading, "api": self._machine()})))

    async def patch(self, request: Request, _: str) -> Response:
        """Set and unset settings of the cluster, all or none."""
        asked = parse_json(request.body, schema.SettingChanges)
        new = {name: ClusterSetting(value, request.user, self._unix_now()) for name, value in asked.set.items()}
        for name, value in asked.set.items():
            _check_name(name, CLUSTER_OPTIONS)
            if refusal := refuse_value(name, value):
                raise ApiError(400, refusal)
        if both := sorted(set(asked.unset) & set(new)):
            raise ApiError(400, f"{', '.join(both)}: either set it or unset it")

        def change(settings: ClusterSettings) -> ClusterSettings:
            for name in asked.unset:
                _check_name(name, {**CLUSTER_OPTIONS, **settings.values})
            return edit_settings(settings, new, asked.unset)

        if new:
            await check_capability(self._registry, Capability.CLUSTER_SETTINGS)
        events = [asked_of(request.user, "set", name) for name in new]
        events += [asked_of(request.user, "unset", name) for name in asked.unset]
        await self._registry.change_cluster_settings(change, *events)
        return Response(204)


def _check_name(name: str, known: Mapping[str, object]) -> None:
    """Raises ApiError for an unknown setting."""
    if name not in known:
        raise ApiError(400, f'unknown setting "{name}": there are {", ".join(sorted(known))}')
