"""The table of routes: what each path and method is answered by, for whom, and with which types."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from fleetd.aio import Offload
from fleetd.api import schema
from fleetd.api.asking import Asking
from fleetd.api.audit import Audit
from fleetd.api.http import Route
from fleetd.api.quota import Quota
from fleetd.api.trust import Trust
from fleetd.api.v1.machines import Machines
from fleetd.api.v1.states import States
from fleetd.api.v1.units import Units
from fleetd.api.v2.applies import Applies
from fleetd.api.v2.clusters import Clusters
from fleetd.api.v2.consul import consul_routes
from fleetd.api.v2.contents import Contents
from fleetd.api.v2.cordons import Cordons
from fleetd.api.v2.drains import Drains
from fleetd.api.v2.events import Events
from fleetd.api.v2.explanations import Explanations
from fleetd.api.v2.host_keys import HostKeys
from fleetd.api.v2.images import Images
from fleetd.api.v2.insight import Insight
from fleetd.api.v2.joining import Joining
from fleetd.api.v2.locks import Locks
from fleetd.api.v2.logins import Logins
from fleetd.api.v2.moves import Moves
from fleetd.api.v2.operations import Operations
from fleetd.api.v2.plans import Plans
from fleetd.api.v2.reboots import Reboots
from fleetd.api.v2.removals import Removals
from fleetd.api.v2.reports import Reports
from fleetd.api.v2.rollouts import Rollouts
from fleetd.api.v2.secrets import Secrets
from fleetd.api.v2.services import Services, service_routes
from fleetd.api.v2.settings import Settings
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.machine import Machine
from fleetd.model.permission import Permission
from fleetd.registry.registry import Registry
from fleetd.trust.sealing_process import Sealing

if TYPE_CHECKING:
    from fleetd.api.peer_streams import PeerStreams

VIEW, OPERATE, SUBMIT, ADMIN = Permission
V1, V2 = schema.V1, schema.V2


class Parts(msgspec.Struct, frozen=True):
    """What handlers are made of; routes.Api says what each is."""

    registry: Registry
    token_limit: int
    shadows: Callable[[str], str]
    quota: Quota
    audit: Audit
    now: Callable[[], float]
    unix_now: Callable[[], float]
    new_id: Callable[[], str]
    machine: Callable[[], Machine]
    offload: Offload
    trust: Trust | None
    sealing: Sealing | None
    peers: "PeerStreams | None"
    event_mark_s: float
    epoch: StoreEpoch
    agent_ttl_s: float


def make_routes(parts: Parts) -> tuple[Route, ...]:
    """The routes about the cluster. Those about the daemon that is asked are beside them (routes.Api)."""
    locks = Locks(parts.registry, parts.epoch, parts.audit, parts.now, parts.unix_now)
    services = Services(parts.registry)
    settings = Settings(parts.registry, parts.machine, parts.unix_now)
    return (
        *_unit_routes(parts),
        *_change_routes(parts),
        *_machine_routes(parts),
        *_reboot_routes(parts),
        *_trust_routes(parts),
        *_insight_routes(parts),
        *locks.routes(),
        *service_routes(services),
        *consul_routes(services),
        Route("GET", f"{V2}/settings", settings.get_all, VIEW, answer=schema.Settings),
        Route("PATCH", f"{V2}/settings", settings.patch, ADMIN, schema.SettingChanges),
    )


def _unit_routes(parts: Parts) -> tuple[Route, ...]:
    """Units and their states."""
    registry = parts.registry
    units = Units(
        registry, parts.token_limit, parts.shadows, parts.quota, parts.audit, parts.unix_now, parts.agent_ttl_s
    )
    states, reports = States(registry, parts.token_limit), Reports(registry)
    operations = Operations(registry, units, parts.shadows)
    results, found = schema.Results, schema.UnitReports
    return (
        # v1/discovery.py describes those of version 1.
        Route("GET", f"{V1}/units", units.get_all, VIEW, has_token=True),
        Route("GET", f"{V1}/units/{{unitName}}", units.get, VIEW),
        Route("PUT", f"{V1}/units/{{unitName}}", units.put, OPERATE, by_name=True),
        Route("DELETE", f"{V1}/units/{{unitName}}", units.delete, SUBMIT, by_name=True),
        Route("GET", f"{V1}/state", states.get_all, VIEW, on_workers=True, has_token=True),
        Route("GET", f"{V1}/state/{{unitName}}", states.get, VIEW, on_workers=True),
        Route("GET", f"{V2}/units", reports.get_all, VIEW, answer=found, query="name", has_token=True),
        Route("GET", f"{V2}/units/{{unitName}}", Contents(registry).get, VIEW, answer=schema.UnitContent),
        Route("POST", f"{V2}/units", operations.post, OPERATE, schema.UnitOperations, results, by_name=True),
        Route("POST", f"{V2}/reports", reports.post, VIEW, schema.ReportRequest, found),
        Route("POST", f"{V2}/restart", operations.restart, OPERATE, schema.Restarts, results, by_name=True),
    )


def _change_routes(parts: Parts) -> tuple[Route, ...]:
    """What changes many units, or one after the other: moves, applies, rollouts, secrets."""
    registry, audit, unix_now = parts.registry, parts.audit, parts.unix_now
    moves = Moves(registry, audit, unix_now)
    applies = Applies(registry, parts.quota, parts.shadows, audit, unix_now, parts.new_id, parts.agent_ttl_s)
    rollouts = Rollouts(registry, applies.undo, audit, unix_now, parts.new_id)
    secrets = Secrets(registry, parts.sealing, rollouts.restart, audit, unix_now)
    return (
        Route("GET", f"{V2}/units/{{unitName}}/move", moves.get, VIEW, answer=schema.MoveReport),
        Route("PUT", f"{V2}/units/{{unitName}}/move", moves.put, OPERATE, schema.MoveRequest, by_name=True),
        Route("POST", f"{V2}/apply", applies.post, SUBMIT, schema.Apply, schema.Applied, by_name=True),
        Route("POST", f"{V2}/scale", applies.scale, OPERATE, schema.Scale, schema.Applied, by_name=True),
        Route("GET", f"{V2}/sets", applies.get_sets, VIEW, answer=schema.UnitSets),
        Route("GET", f"{V2}/versions/{{group}}", applies.get_versions, VIEW, answer=schema.Versions),
        Route("GET", f"{V2}/rollouts", rollouts.get_all, VIEW, answer=schema.Rollouts, query="group"),
        Route("POST", f"{V2}/rollouts/{{group}}", rollouts.post, OPERATE, schema.RolloutCommand, by_name=True),
        Route("GET", f"{V2}/secrets", secrets.get_all, VIEW, answer=schema.SecretReports),
        Route(
            "PUT",
            f"{V2}/secrets/{{secret}}",
            secrets.put,
            SUBMIT,
            schema.SecretChange,
            schema.SecretChanged,
            by_name=True,
        ),
        Route("DELETE", f"{V2}/secrets/{{secret}}", secrets.delete, SUBMIT, query="force", by_name=True),
    )


def _machine_routes(parts: Parts) -> tuple[Route, ...]:
    """Machines, and what keeps units off them."""
    registry, unix_now = parts.registry, parts.unix_now
    machines = Machines(registry, parts.token_limit)
    cordons, drains = Cordons(registry, unix_now), Drains(registry, unix_now)
    removals = Removals(registry, parts.trust, parts.machine, unix_now)
    return (
        Route("GET", f"{V1}/machines", machines.get_all, VIEW, on_workers=True, has_token=True),
        Route("PATCH", f"{V1}/machines", machines.patch, ADMIN),
        Route("DELETE", f"{V2}/machines/{{machine}}", machines.delete, ADMIN),
        Route("PUT", f"{V2}/machines/{{machine}}/cordon", cordons.put, OPERATE, schema.CordonRequest),
        Route("DELETE", f"{V2}/machines/{{machine}}/cordon", cordons.delete, OPERATE),
        Route(
            "GET",
            f"{V2}/machines/{{machine}}/drain",
            drains.get,
            VIEW,
            answer=schema.DrainReport,
            query="unit",
            on_workers=True,
        ),
        Route("PUT", f"{V2}/machines/{{machine}}/drain", drains.put, OPERATE, schema.DrainRequest),
        Route("DELETE", f"{V2}/machines/{{machine}}/drain", drains.delete, OPERATE),
        Route(
            "GET",
            f"{V2}/host-keys",
            HostKeys(registry).get_all,
            VIEW,
            answer=schema.MachineHostKeys,
            query="machine",
        ),
        Route("POST", f"{V2}/machines/{{machine}}/remove", removals.post, ADMIN, schema.MachineRemoval),
    )


def _reboot_routes(parts: Parts) -> tuple[Route, ...]:
    """Reboots of machines."""
    reboots = Reboots(parts.registry, parts.unix_now, parts.new_id)
    return (
        Route(
            "PUT",
            f"{V2}/machines/{{machine}}/reboot",
            reboots.put,
            ADMIN,
            schema.RebootRequest,
            schema.RebootReport,
        ),
        Route("DELETE", f"{V2}/machines/{{machine}}/reboot", reboots.delete, ADMIN),
        Route(
            "GET",
            f"{V2}/reboots",
            reboots.get_all,
            VIEW,
            answer=schema.RebootReports,
            query="machine",
            on_workers=True,
        ),
    )


def _trust_routes(parts: Parts) -> tuple[Route, ...]:
    """How machines and people come to be known."""
    clusters = Clusters(parts.registry, parts.trust)
    joining = Joining(parts.registry, parts.trust, parts.audit, parts.unix_now)
    logins = Logins(parts.registry, parts.trust, parts.audit, parts.unix_now)
    return (
        Route("GET", f"{V2}/cluster", clusters.get, VIEW, answer=schema.ClusterReport),
        Route(
            "POST",
            f"{V2}/machine-tokens",
            joining.post_token,
            ADMIN,
            schema.MachineTokenRequest,
            schema.MachineToken,
        ),
        Route("GET", f"{V2}/authorities", joining.get_authorities, None, answer=schema.Authorities, anonymous=True),
        Route("POST", f"{V2}/authorities", joining.post_authority, ADMIN, answer=schema.NewAuthority),
        Route("GET", f"{V2}/authority-keys", joining.get_keys, None, answer=schema.AuthorityKeys, for_servers=True),
        Route("POST", f"{V2}/join", joining.join, None, schema.JoinRequest, schema.JoinAnswer, anonymous=True),
        Route("POST", f"{V2}/renew", joining.renew, None, schema.RenewalRequest, schema.Renewal, anonymous=True),
        Route("POST", f"{V2}/login", logins.post, VIEW, schema.LoginRequest, schema.Login),
        Route("POST", f"{V2}/revocations", logins.revoke, ADMIN, schema.RevocationRequest, by_name=True),
    )


def _insight_routes(parts: Parts) -> tuple[Route, ...]:
    """What would happen, why it is so, what has happened, and what units say."""
    registry, unix_now = parts.registry, parts.unix_now
    plans = Plans(registry, parts.shadows, unix_now, parts.offload, parts.now)
    events = Events(registry, unix_now, mark_s=parts.event_mark_s)
    explanations = Explanations(registry, parts.offload, events.history)
    asking = Asking(registry, parts.machine, parts.new_id, parts.now, parts.peers)
    insight = Insight(registry, asking, events.kept, unix_now)
    return (
        Route("GET", f"{V2}/explain/{{unitName}}", explanations.get, VIEW, answer=schema.Explanation),
        Route("POST", f"{V2}/plan", plans.post, VIEW, schema.PlanRequest, schema.Plan),
        Route(
            "GET",
            f"{V2}/journal",
            insight.get_journal,
            VIEW,
            answer=bytes,
            query="unit machine after",
            options="lines since grep follow previous",
        ),
        Route(
            "POST",
            f"{V2}/images",
            Images(registry, asking).post,
            SUBMIT,
            schema.ImageQuestion,
            schema.ResolvedImage,
            by_name=True,
        ),
        Route("GET", f"{V2}/status", insight.get_status, VIEW, answer=schema.UnitStatuses, query="unit machine"),
        Route(
            "GET",
            f"{V2}/events",
            events.get,
            VIEW,
            answer=schema.Event,
            query="kind unit machine",
            options="after since follow latest",
            is_streamed=True,
        ),
    )
