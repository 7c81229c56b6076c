"""The key that secrets are sealed to for this machine: made once in its life, in the background."""

import asyncio
import logging

from fleetd.membership.registration import Membership
from fleetd.store.protocol import StoreError
from fleetd.trust.sealing_process import Sealing, SealingFailed

log = logging.getLogger(__name__)

RETRY_S = 60.0


async def publish_seal_key(sealing: Sealing, membership: Membership) -> None:
    """Make this machine's seal key and publish its public half; then wait until cancelled."""
    await membership.registered.wait()
    while not membership.machine.seal_key:
        try:
            await membership.announce(seal_key=await sealing.make_key())
        except SealingFailed as error:
            log.warning("cannot make the key for secrets, retrying; units with Secret= are not placed here: %s", error)
            await asyncio.sleep(RETRY_S)
        except StoreError as error:  # it is part of the record now, and is published with the next change
            log.info("cannot publish the key for secrets yet: %s", error)
    await asyncio.Event().wait()
