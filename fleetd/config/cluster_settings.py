"""What the settings of the cluster mean (model/cluster_settings.py): options of fleet.conf that win over it.

A setting is a row of OPTIONS with `of_cluster`. One whose name or value this fleetd does not understand, because a
later version wrote it, is passed over.
"""

from collections.abc import Mapping
from typing import Any

from fleetd.config.options import OPTIONS
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.machine import Machine
from fleetd.model.quota import Usage
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.reboot_policy import RebootPolicy

CLUSTER_OPTIONS = {option.name: option for option in OPTIONS if option.of_cluster}


def parse_settings(settings: ClusterSettings) -> Mapping[str, Any]:
    """The values by field of Config."""
    fields: dict[str, Any] = {}
    for name, setting in settings.values.items():
        if name in CLUSTER_OPTIONS and not refuse_value(name, setting.value):
            fields[CLUSTER_OPTIONS[name].field] = CLUSTER_OPTIONS[name].parse(setting.value)
    return fields


def refuse_value(name: str, value: str) -> str:
    """Why this is no value of the setting, in the words that fleet.conf gets; '' if it is one."""
    try:
        CLUSTER_OPTIONS[name].parse(value)
    except ValueError as error:
        return f"{name}: {error}"
    return ""


def failover_policy(settings: ClusterSettings, configured: FailoverPolicy) -> FailoverPolicy:
    """The policy of a leader whose fleet.conf has the `configured` one."""
    fields = parse_settings(settings)
    return FailoverPolicy(
        fields.get("failover_delay_s", configured.delay_s),
        fields.get("rerun_after_failover", configured.rerun),
        fields.get("handover_timeout_s", configured.handover_timeout_s),
    )


def reboot_policy(settings: ClusterSettings, configured: RebootPolicy) -> RebootPolicy:
    """The same for reboots."""
    fields = parse_settings(settings)
    return RebootPolicy(
        fields.get("reboot_window", configured.windows),
        fields.get("reboot_slots", configured.slots),
        fields.get("reboot_when_required", configured.when_required),
    )


def policy_of_leader(settings: ClusterSettings, leading: Machine | None) -> FailoverPolicy:
    """The policy of this leader, as another machine knows it; with defaults where there is none."""
    configured = {name: ClusterSetting(value) for name, value in (leading.configured if leading else {}).items()}
    return failover_policy(ClusterSettings({**configured, **settings.values}), FailoverPolicy())


def allowed_usage(settings: ClusterSettings, configured: Usage) -> Usage:
    """The limits of an API whose fleet.conf has the `configured` ones."""
    fields = parse_settings(settings)
    return Usage(fields.get("max_units", configured.units), fields.get("max_units_bytes", configured.text_bytes))
