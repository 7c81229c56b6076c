"""What the cluster consists of: its authority, the members of its store, and its machines with their roles."""

import asyncio

from fleetd.api import schema
from fleetd.api.http import Request, Response, render_json
from fleetd.api.trust import Trust
from fleetd.model.certificate import SERVER, WORKER
from fleetd.model.machine import https_url
from fleetd.registry.records import AUTHORITIES, MACHINE_IDENTITIES, MACHINES
from fleetd.registry.registry import Registry


class Clusters:
    """The resource. `trust` is None where fleetd has no authority."""

    def __init__(self, registry: Registry, trust: Trust | None) -> None:
        self._registry = registry
        self._trust = trust

    async def get(self, request: Request, _: str) -> Response:
        """Show what the cluster consists of: the authority that signs, the members of etcd, and the machines
        with their roles. A machine that is no worker reaches etcd by itself."""
        reader = self._registry.at_one_revision()
        machines = await reader.read(MACHINES)
        identities = await reader.read(MACHINE_IDENTITIES)
        authorities = await reader.read(AUTHORITIES)
        members = await self._registry.store.members()
        healthy = await asyncio.gather(*map(self._registry.store.is_healthy, members))
        return render_json(
            schema.ClusterReport(
                authorities=tuple(
                    schema.AuthorityReport(
                        each.number,
                        each.certificate,
                        each.by,
                        each.at_s,
                        "" if self._trust is None else self._trust.key_file(each),
                    )
                    for each in sorted(authorities.values(), key=lambda each: each.number)
                ),
                members=tuple(
                    schema.StoreMember(member.id, member.name, member.client_urls, is_healthy, member.has_vote)
                    for member, is_healthy in zip(members, healthy, strict=True)
                ),
                machines=tuple(
                    schema.ClusterMachine(
                        id_,
                        machine.address,
                        WORKER if machine.is_worker or (id_,) in identities else SERVER,
                        machine.version,
                        machine.etcd_member,
                        https_url(machine),
                        int(machine.certificate_expires_s),
                    )
                    for (id_,), machine in sorted(machines.items())
                ),
            )
        )
