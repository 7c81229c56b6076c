"""The key that secrets are sealed to for this machine: made once in its life, in the background."""

import asyncio
import logging

from fleetd.membership.registration import Membership
from fleetd.store.protocol import StoreError
from fleetd.trust.sealing_process import Sealing, SealingFailed

log = logging.getLogger(__name__)

RETRY_S = 60.0


async def publish_seal_key(sealing: Sealing, membership: Membership) -> None:
    """Make this machine's seal key, or try the one that a TPM has to open, and publish its public half; then wait until
    cancelled."""
    if not sealing.awaits_tpm():  # which units wait for
        await membership.registered.wait()
    public = ""
    while not public:
        try:
            public = await sealing.make_key()
            if public != membership.machine.seal_key:
                await membership.announce(seal_key=public)
        except SealingFailed as error:
            log.warning("cannot use the key for secrets, retrying; no unit with Secret= starts here: %s", error)
            await asyncio.sleep(RETRY_S)
        except StoreError as error:  # it is part of the record now, and is published with the next change
            log.info("cannot publish the key for secrets yet: %s", error)
    await asyncio.Event().wait()
