"""Images of containers: the digest that a tag has at this moment. Servers of the cluster ask the registry.

Servers reach more than who asks through them: a service that listens inside, or metadata of a cloud. So who may not do
everything learns of an address only whether a registry is there. Whatever else is, or is not, gives the same answer
after the same time, and the journal of the server that was asked says why.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import NoReturn

from fleetd.api import schema
from fleetd.api.asking import Asking
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.model.image import by_digest, explain_refusal, refuse_image
from fleetd.model.machine import Capability, MachineMode
from fleetd.model.machine_request import ANSWER_S, MachineAnswer, MachineRequest
from fleetd.model.permission import Permission
from fleetd.registry.registry import Registry

log = logging.getLogger(__name__)

REFUSED_S = 2 * ANSWER_S + 1.0  # after which it is said that no registry has answered: longer than both rounds take
OTHERS = 8  # machines that are asked at most, beside this one


class Images:
    """The resource."""

    def __init__(self, registry: Registry, asking: Asking) -> None:
        self._registry = registry
        self._asking = asking

    async def post(self, request: Request, _: str) -> Response:
        """Ask the registry of an image which digest its tag has now. This machine asks it, or else other servers
        that have skopeo; that none has is no error, and said as the reason. Workers are not asked: the answer decides
        what all machines run. Who may not do everything is not told what else than a registry has answered."""
        began_s = asyncio.get_running_loop().time()
        image = parse_json(request.body, schema.ImageQuestion).image
        if refusal := refuse_image(image):
            raise ApiError(400, refusal)
        able = await self._find_machines()
        own = [id_ for id_ in able if id_ == self._asking.asker]
        others = [id_ for id_ in able if id_ not in own]
        refused, silent = "", ""
        for machines in (own, others[:OTHERS]):
            for id_, answer in (await self._ask(image, machines)).items():
                if answer.image and answer.image.digest:
                    return render_json(schema.ResolvedImage(image, by_digest(image, answer.image.digest)))
                if answer.image and not answer.image.cannot_ask:
                    refused = refused or answer.image.failure
                elif not answer.image and answer.failure:
                    silent = silent or f"{id_}: {answer.failure}"
        if (refused or silent) and not request.actor.rights.allow(Permission.ADMIN):
            await _refuse(image, refused or silent, explain_refusal(refused), began_s)
        if refused:
            raise ApiError(409, f"the registry does not give the image {image}: {refused}")
        reason = f"no server could ask its registry: {silent}" if silent else "no server that was asked has skopeo"
        return render_json(schema.ResolvedImage(image, reason=reason))

    async def _find_machines(self) -> list[str]:
        """The servers that can be asked, by id."""
        machines = await self._registry.machines()
        return sorted(
            id_
            for id_, machine in machines.items()
            if machine.mode is not MachineMode.PARKED
            and not machine.is_worker
            and machine.capabilities.get(Capability.ANSWERS)
        )

    async def _ask(self, image: str, machines: Sequence[str]) -> dict[str, MachineAnswer]:
        request = MachineRequest(self._asking.asker, image=image)
        return await self._asking.ask(dict.fromkeys(machines, request)) if machines else {}


async def _refuse(image: str, why: str, told: str, began_s: float) -> NoReturn:
    """Raises ApiError with what may be told, and logs why."""
    log.info("no server resolves the image %s: %s", image, why)
    if told:
        raise ApiError(409, f"the registry does not give the image {image}: {told}")
    await asyncio.sleep(began_s + REFUSED_S - asyncio.get_running_loop().time())
    raise ApiError(
        409,
        f"no registry has answered the servers about the image {image}: look at its spelling, or name it by its digest "
        "(the journal of the server says why)",
    )
