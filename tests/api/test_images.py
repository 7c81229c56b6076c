"""Digests of images by the API, from machines that ask registries."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetd.agent.answers import Answers
from fleetd.api.v2.images import REFUSED_S
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.permission import EVERY_RIGHT, NO_RIGHTS, Grant, Permission, Rights
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.api.conftest import Fleet
from tests.scripted_inspector import ScriptedInspector
from tests.virtual_time import run_virtually

ABLE: dict[str, bool] = {Capability.ANSWERS: True}
IMAGE = "reg.example/hello:1"
DIGEST = "sha256:" + "0123456789abcdef" * 4
FOUND = {"image": IMAGE, "resolved": f"reg.example/hello@{DIGEST}"}


class Machines:
    """m1, which is asked, and m2 answer; m3 is older, m4 is parked."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.m1, self.m2 = ScriptedInspector(), ScriptedInspector()
        self.tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        await self.fleet.put(Machine("m1", capabilities=ABLE), "m1")
        await self.fleet.put(Machine("m2", capabilities=ABLE), "m2")
        await self.fleet.put(Machine("m3", version="0.1"), "m3")
        await self.fleet.put(Machine("m4", capabilities=ABLE, mode=MachineMode.PARKED), "m4")
        for id_, inspector in (("m1", self.m1), ("m2", self.m2)):
            answers = Answers(id_, self.fleet.registry, inspector, lambda name: "")
            self.tasks.append(asyncio.create_task(answers.run()))
        await asyncio.sleep(0)

    async def ask(self, image: str = IMAGE) -> tuple[int, Any]:
        response = await self.fleet.ask("POST /fleet/v2/images", {"image": image})
        return response.status, json.loads(response.body)


@pytest.fixture
async def machines(fleet: Fleet) -> AsyncIterator[Machines]:
    found = Machines(fleet)
    await found.fill()
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.wait(found.tasks)


@pytest.mark.parametrize("of_both", [True, False])
async def test_a_tag_is_resolved_by_a_machine_that_can(machines: Machines, of_both: bool) -> None:
    machines.m1.has_skopeo = of_both
    machines.m1.images = machines.m2.images = {IMAGE: DIGEST}
    assert await machines.ask() == (200, FOUND)


async def test_an_image_that_one_machine_does_not_reach_is_asked_of_others(machines: Machines) -> None:
    machines.m2.images = {IMAGE: DIGEST}
    assert await machines.ask() == (200, FOUND)


async def test_no_worker_is_asked_which_could_choose_what_others_run(machines: Machines) -> None:
    machines.m1.has_skopeo = False
    machines.m2.images = {IMAGE: DIGEST}
    await machines.fleet.put(Machine("m2", capabilities=ABLE, is_worker=True), "m2")
    assert await machines.ask() == (200, {"image": IMAGE, "reason": "no server that was asked has skopeo"})


async def test_what_the_registry_says_of_an_image_that_is_not_there_is_told(machines: Machines) -> None:
    machines.m2.has_skopeo = False
    status, answer = await machines.ask()
    assert status == 409
    assert answer["error"]["message"] == (f"the registry does not give the image {IMAGE}: {IMAGE}: manifest unknown")


async def test_that_no_server_has_skopeo_is_the_reason(machines: Machines) -> None:
    machines.m1.has_skopeo = machines.m2.has_skopeo = False
    assert await machines.ask() == (200, {"image": IMAGE, "reason": "no server that was asked has skopeo"})
    machines.m2.failure = "it is away"
    reason = "no server could ask its registry: m2: it is away"
    assert await machines.ask() == (200, {"image": IMAGE, "reason": reason})


@pytest.mark.parametrize("image", ["alpine", "--authfile=/etc/shadow", ""])
async def test_what_is_no_image_of_a_registry_is_refused(machines: Machines, image: str) -> None:
    status, answer = await machines.ask(image)
    assert status == 400
    assert "names no image of a registry" in answer["error"]["message"]


INSIDE = "10.0.0.1:6379/x:1"
WORDS = [
    f"pinging container registry {INSIDE}: dial tcp 10.0.0.1:6379: connect: connection refused",
    f"pinging container registry {INSIDE}: http: server gave HTTP response to HTTPS client",
    'error parsing HTTP 404 response body: invalid character: "denied: the inner page"',
    'unable to retrieve auth token: invalid status code 200: "unauthorized, and the inner page"',
]


def test_what_is_no_registry_looks_like_nothing_at_all_to_who_may_not_do_everything() -> None:
    """Servers reach more than who asks through them: neither words nor times may tell what is there."""

    async def ask(words: str) -> tuple[int, str, float]:
        """The answer, and after how long it came. Without words the servers get none either."""
        store = EmbeddedStore(":memory:", offload=inline)
        machines = Machines(Fleet(Registry(store)))
        await machines.fill()
        for inspector in (machines.m1, machines.m2):
            inspector.refusals, inspector.hangs = {INSIDE: words}, not words
        machines.fleet.rights = Rights([Grant(Permission.SUBMIT, "web-*")])
        began_s = asyncio.get_running_loop().time()
        status, answer = await machines.ask(INSIDE)
        waited_s = asyncio.get_running_loop().time() - began_s
        for task in machines.tasks:
            task.cancel()
        await asyncio.wait(machines.tasks)
        await store.close()
        return status, answer["error"]["message"], round(waited_s, 3)

    answers = {run_virtually(ask(words)) for words in (*WORDS, "")}
    assert answers == {
        (
            409,
            f"no registry has answered the servers about the image {INSIDE}: look at its spelling, or name it by its "
            "digest (the journal of the server says why)",
            REFUSED_S,
        )
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("reading manifest 1 in reg.example/hello: manifest unknown", "it has no such tag (manifest unknown)"),
        ("name unknown: repository name not known to registry", "it has no such repository (name unknown)"),
        ("unauthorized: authentication required", "need podman login as root there"),
        ("requested access to the resource is denied", "need podman login as root there"),
    ],
)
async def test_what_a_registry_says_is_told_in_words_of_ones_own(machines: Machines, words: str, told: str) -> None:
    machines.m1.refusals = machines.m2.refusals = {IMAGE: words}
    machines.fleet.rights = Rights([Grant(Permission.SUBMIT, "web-*")])
    status, answer = await machines.ask()
    assert status == 409
    assert answer["error"]["message"].startswith(f"the registry does not give the image {IMAGE}: ")
    assert answer["error"]["message"].endswith(told)
    machines.fleet.rights = EVERY_RIGHT
    assert words in (await machines.ask())[1]["error"]["message"]


async def test_who_may_submit_nothing_may_not_ask(machines: Machines) -> None:
    machines.fleet.rights = NO_RIGHTS
    assert (await machines.ask())[0] == 403
