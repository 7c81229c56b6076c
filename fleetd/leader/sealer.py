"""Has secrets sealed for the machines that are to run units with them, before these learn of their placements.

What cannot be sealed holds nothing else up: the placement is written all the same, the machine says of the unit that
the secret is not there yet, and the leader tries again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.model.secret import SealedSecret, SealedVersion, Secret, SecretVersion, with_sealed
from fleetd.registry.records import SEALED_SECRETS, SECRETS
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.scheduler.sealing import SealingPlan, may_lead, plan_sealing
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import Comparison, Delete, Unchanged
from fleetd.trust.sealing_process import Sealing, SealingFailed
from fleetd.trust.sealing_wire import Share

log = logging.getLogger(__name__)

RETRY_S = 5.0
BATCH = 100  # keys that one process seals: it has to answer in time


class CannotOpenHere(Exception):
    """Another machine that could lead can open a secret that this one cannot. The message names the secret."""


class Sealer:
    """Seals in one term. `seal_key()` is this machine's public key, `guards` hold while the term lasts, and `observe`
    is called with the store's revision after each transaction."""

    def __init__(
        self,
        registry: Registry,
        sealing: Sealing,
        seal_key: Callable[[], str],
        guards: Sequence[Comparison],
        observe: Callable[[int], object],
    ) -> None:
        self.revision = 0  # of the last transaction; 0: there was none
        self._registry = registry
        self._sealing = sealing
        self._seal_key = seal_key
        self._guards = guards
        self._observe = observe
        self._trouble = ""

    async def seal(self, snapshot: Snapshot, coming: Sequence[Placement]) -> float | None:
        """Seal what is missing for the placements that there are and for those to be written. Returns in how many
        seconds to try again, if something could not be sealed. Raises CannotOpenHere and what the store raises."""
        if not (snapshot.sealing_is_due or coming):
            return None
        plan = plan_sealing(snapshot, coming)
        snapshot.sealing_is_due = False
        if not plan:
            return None
        try:
            await self._carry_out(plan, snapshot)
        except SealingFailed as error:
            if str(error) != self._trouble:
                log.warning("cannot seal secrets, retrying: %s", error)
            self._trouble = str(error)
            snapshot.sealing_is_due = True
            return RETRY_S
        self._trouble = ""
        return None

    async def _carry_out(self, plan: SealingPlan, snapshot: Snapshot) -> None:
        found = await self._registry.get_many(SECRETS, [(name,) for name in plan.secrets])
        secrets = {name: secret for (name,), secret in found.items()}
        recipients = {machine: snapshot.machines[machine].seal_key for machine, _ in plan.seal}
        keys, failure = await self._share(plan, secrets, recipients, snapshot.machines)
        sealed = await self._registry.get_many(SEALED_SECRETS, list(plan.seal))
        write_sets = [*_sealed_sets(self._registry, plan, secrets, sealed, recipients, keys)]
        write_sets += _shared_sets(self._registry, plan, secrets, keys)
        write_sets += [WriteSet((), (Delete(self._registry.key(SEALED_SECRETS, *at)),)) for at in plan.delete]
        for transaction in cut_into_transactions(write_sets, self._guards):
            self.revision = await self._registry.store.transact(transaction.comparisons, transaction.operations)
            self._observe(self.revision)
        if failure:
            raise SealingFailed(failure)

    async def _share(
        self,
        plan: SealingPlan,
        secrets: Mapping[str, Secret],
        recipients: Mapping[str, str],
        machines: Mapping[str, Machine],
    ) -> tuple[dict[tuple[str, int], dict[str, bytes]], str]:
        """The keys of versions, by secret and version, sealed to all that are to have them; and why some are not."""
        wanted: dict[tuple[str, int], dict[str, None]] = {}
        for (machine, name), numbers in plan.seal.items():
            for number in numbers:
                wanted.setdefault((name, number), {})[recipients[machine]] = None
        for at, servers in plan.share.items():
            wanted.setdefault(at, {}).update(dict.fromkeys(servers))
        own, failure = self._seal_key(), ""
        shares: list[Share] = []
        for (name, number), public in wanted.items():
            version = _find(secrets.get(name), number)
            if version is None:
                continue  # it is gone meanwhile, which the next pass sees
            if own not in version.keys:
                failure = f"the secret {name} is not sealed to this machine, which leads: set it again"
                if any(machine.seal_key in version.keys and may_lead(machine) for machine in machines.values()):
                    raise CannotOpenHere(f"another machine can open the secret {name}, and this one cannot")
                continue
            shares += [Share(name, number, version.keys[own], part) for part in _parts(tuple(public))]
        keys: dict[tuple[str, int], dict[str, bytes]] = {}
        for first in range(0, len(shares), BATCH):
            part = shares[first : first + BATCH]
            for share, answer in zip(part, await self._sealing.share(part), strict=True):
                failure = answer.error or failure
                keys.setdefault((share.name, share.version), {}).update(answer.keys)
        return keys, failure


def _parts(public: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [public[first : first + BATCH] for first in range(0, len(public), BATCH)]


def _find(secret: Secret | None, number: int) -> SecretVersion | None:
    return next((each for each in secret.versions if each.number == number), None) if secret else None


def _sealed_sets(
    registry: Registry,
    plan: SealingPlan,
    secrets: Mapping[str, Secret],
    sealed: Mapping[tuple[str, str], SealedSecret],
    recipients: Mapping[str, str],
    keys: Mapping[tuple[str, int], Mapping[str, bytes]],
) -> list[WriteSet]:
    """What machines are given; not if the secret has changed or gone meanwhile."""
    write_sets = []
    for (machine, name), numbers in plan.seal.items():
        record = before = sealed.get((machine, name))
        for number in numbers:
            version, key = _find(secrets.get(name), number), keys.get((name, number), {}).get(recipients[machine])
            if version is not None and key is not None:
                record = with_sealed(record, recipients[machine], SealedVersion(number, key, version.box))
        if record is not None and record != before:
            guard = Unchanged(registry.key(SECRETS, name), secrets[name].revision)
            write_sets.append(WriteSet((guard,), (registry.put(record, machine, name),)))
    return write_sets


def _shared_sets(
    registry: Registry,
    plan: SealingPlan,
    secrets: Mapping[str, Secret],
    keys: Mapping[tuple[str, int], Mapping[str, bytes]],
) -> list[WriteSet]:
    """Secrets that more servers can open. They come last: the writes before are guarded by their revisions."""
    write_sets = []
    for name in dict.fromkeys(name for name, _ in plan.share):
        secret = secrets.get(name)
        if secret is None:
            continue
        versions = []
        for version in secret.versions:
            servers, found = plan.share.get((name, version.number), ()), keys.get((name, version.number), {})
            added = {public: found[public] for public in servers if public in found}
            versions.append(replace(version, keys=version.keys | added))
        if tuple(versions) != secret.versions:
            guard = Unchanged(registry.key(SECRETS, name), secret.revision)
            write_sets.append(WriteSet((guard,), (registry.put(replace(secret, versions=tuple(versions)), name),)))
    return write_sets
