"""Settings of the whole cluster, which operators keep in the store: they win over fleet.conf of whichever machine."""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import structs

from fleetd.model.decoding import FORMAT


class ClusterSetting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of one setting, as it would be written in fleet.conf; who set it ('' if not told), and when (Unix
    time)."""

    value: str
    by: str = ""
    at: float = 0.0


class ClusterSettings(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """The settings that operators have made, by name. Stored under `cluster-settings` until they unset all of them."""

    values: dict[str, ClusterSetting] = {}


def edit_settings(
    settings: ClusterSettings, new: Mapping[str, ClusterSetting], unset: Iterable[str]
) -> ClusterSettings:
    """The settings with these set, and those unset. One that is set to the value that it has stays as it is."""
    gone = frozenset(unset)
    kept = {name: setting for name, setting in settings.values.items() if name not in gone}
    other = {name: setting for name, setting in new.items() if name not in kept or kept[name].value != setting.value}
    return structs.replace(settings, values={name: (kept | other)[name] for name in sorted(kept | other)})
