"""What the cluster consists of, by the API."""

import json

from fleetd.model.certificate import TrustedAuthority
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from tests.api.conftest import Fleet


async def test_machines_have_roles_and_authorities_are_in_order(fleet: Fleet) -> None:
    await fleet.put(Machine("m1", address="10.0.0.1", https=":7443", etcd_member="e1", certificate_expires_s=5.0), "m1")
    await fleet.put(Machine("m2", address="10.0.0.2"), "m2")
    await fleet.put(MachineIdentity(role="worker", address="10.0.0.2"), "m2")
    for number in (10, 2):
        await fleet.put(TrustedAuthority(number, f"PEM {number}", by="ann", at_s=7.0), str(number))
    response = await fleet.ask("GET /fleet/v2/cluster")
    assert (response.status, json.loads(response.body)) == (
        200,
        {
            "authorities": [
                {"number": 2, "certificate": "PEM 2", "by": "ann", "at": 7.0},
                {"number": 10, "certificate": "PEM 10", "by": "ann", "at": 7.0},
            ],
            "members": [],
            "machines": [
                {
                    "id": "m1",
                    "address": "10.0.0.1",
                    "role": "server",
                    "etcdMember": "e1",
                    "https": "https://10.0.0.1:7443",
                    "certificateExpires": 5,
                },
                {"id": "m2", "address": "10.0.0.2", "role": "worker"},
            ],
        },
    )
