"""The machines by what they accept, by id and by metadata, as sets that are cheap to combine.

A set of machines is an integer with one bit for each machine, in order of their ids: the lowest bit is the first id.
Five thousand machines take 600 bytes, and two sets are joined or intersected in one operation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from fleetd.model.constraints import Requirements
from fleetd.model.machine import SHORT_ID_LENGTH
from fleetd.model.reason import Rejection, RejectionKind
from fleetd.scheduler.effective_machine import EffectiveMachine

MachineSet = int  # a set of machines
Rejections = tuple[tuple[Rejection, MachineSet], ...]  # a machine is in one of the sets at most

WITHOUT_SEAL_KEY = Rejection(RejectionKind.NO_SEAL_KEY)
TOO_OLD_FOR_DROPINS = Rejection(RejectionKind.OUTDATED, "drop-ins")
TOO_OLD_FOR_ISOLATION = Rejection(RejectionKind.OUTDATED, "IsolationSec= and Lock=")
MAX_KEPT = 10_000  # answers; when there are more, all are dropped and computed again


class MachineIndex:
    """The registered machines of one snapshot.

    `accepting` are those that take new units, `admitting` those that take at least global ones; `rejecting` are all
    that are not accepting, by why.
    """

    def __init__(self, machines: Mapping[str, EffectiveMachine]) -> None:
        """`machines` by id, in order."""
        self.machines = list(machines)
        self.bits = {machine: 1 << at for at, machine in enumerate(self.machines)}
        self.everywhere: MachineSet = (1 << len(self.machines)) - 1
        self.accepting = self.everywhere
        self.admitting = self.everywhere
        self.rejecting: dict[Rejection, MachineSet] = {}
        self._ids: dict[str, MachineSet] = {}  # by full and by short id
        self._metadata: dict[tuple[str, str], MachineSet] = {}  # by key and value
        self._with_dropins: MachineSet = 0
        self._with_seal_key: MachineSet = 0
        self._isolating: MachineSet = 0
        self._answers: dict[tuple[object, ...], tuple[MachineSet, Rejections]] = {}
        for machine, bit in self.bits.items():
            effective = machines[machine]
            if why := effective.rejects or effective.cordon:
                self.accepting ^= bit
                self.rejecting[why] = self.rejecting.get(why, 0) | bit
                self.admitting ^= 0 if effective.accepts_work else bit
            self._with_dropins |= bit if effective.has_dropins else 0
            self._with_seal_key |= bit if effective.has_seal_key else 0
            self._isolating |= bit if effective.isolates else 0
            for name in {machine: None, machine[:SHORT_ID_LENGTH]: None}:
                self._ids[name] = self._ids.get(name, 0) | bit
            for item in effective.metadata.items():
                self._metadata[item] = self._metadata.get(item, 0) | bit

    def mask(self, machines: Iterable[str]) -> MachineSet:
        """The set of these machines; those that are not registered are left out."""
        found = 0
        for machine in machines:
            found |= self.bits.get(machine, 0)
        return found

    def ids(self, machines: MachineSet) -> Iterator[str]:
        """The ids of the machines of this set, in order."""
        while machines:
            bit = machines & -machines
            yield self.machines[bit.bit_length() - 1]
            machines ^= bit

    def matching(self, requirements: Requirements) -> MachineSet:
        """The machines that meet the unit's MachineID= and MachineMetadata=, and know all that it needs, whether or not
        they accept work."""
        return self._answer(requirements)[0]

    def accepting_matches(self, requirements: Requirements) -> MachineSet:
        """Those of them that take this unit, if it is new."""
        return self.matching(requirements) & (self.admitting if requirements.is_global else self.accepting)

    def rejections(self, requirements: Requirements) -> Rejections:
        """The machines that are not among them, by the first requirement that they miss."""
        return self._answer(requirements)[1]

    def _answer(self, requirements: Requirements) -> tuple[MachineSet, Rejections]:
        key = (
            requirements.machine_id,
            requirements.metadata,
            requirements.has_dropins,
            bool(requirements.secrets),
            requirements.isolation.is_set,
        )
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= MAX_KEPT:
                self._answers.clear()
            rejections = tuple(self._find_rejections(requirements))
            matching = self.everywhere
            for _, machines in rejections:
                matching ^= machines
            found = self._answers[key] = matching, rejections
        return found

    def missing(self, requirements: Requirements) -> Iterator[tuple[Rejection, MachineSet]]:
        """Each requirement, in order, with the machines that do not meet it, whatever else they do not meet."""
        wanted = requirements.machine_id
        if wanted is not None:
            yield Rejection(RejectionKind.MACHINE_ID, wanted), self.everywhere & ~self._ids.get(wanted, 0)
        if requirements.has_dropins:
            yield TOO_OLD_FOR_DROPINS, self.everywhere & ~self._with_dropins
        if requirements.isolation.is_set:
            yield TOO_OLD_FOR_ISOLATION, self.everywhere & ~self._isolating
        if requirements.secrets:
            yield WITHOUT_SEAL_KEY, self.everywhere & ~self._with_seal_key
        for key, alternatives in requirements.metadata:
            lacking = Rejection(RejectionKind.METADATA, f"{key}={'|'.join(alternatives)}")
            yield lacking, self.everywhere & ~self._offering(key, alternatives)

    def _find_rejections(self, requirements: Requirements) -> Iterator[tuple[Rejection, MachineSet]]:
        rest = self.everywhere
        for rejection, machines in self.missing(requirements):
            yield rejection, rest & machines
            rest &= ~machines

    def _offering(self, key: str, alternatives: Sequence[str]) -> MachineSet:
        """The machines whose metadata has one of these values."""
        found = 0
        for value in alternatives:
            found |= self._metadata.get((key, value), 0)
        return found
