"""What must hold at every moment of rollouts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.group import group_of
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.records import PLACEMENTS, RecordKey
from fleetd.scheduler.disruption import judge_member
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now
from tests.simulation.handover_invariants import runs_on
from tests.simulation.units import ROLLED

if TYPE_CHECKING:
    from tests.simulation.world import World

NEWS_S = 4.0  # the longest time that a message takes


class DisruptionBudgetIsKept(Checker):
    """No available member of the group is changed or restarted by a rollout while another one is unavailable: because
    the rollout has changed it, or for so long that the leader must know. The first one must have been available for so
    long, too."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._changing: dict[Key, None] = {}
        self._down_since: dict[Key, float] = {}
        self._up_since: dict[Key, float] = {}

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            if path.kind is not PLACEMENTS or group_of(path.names[1]) != ROLLED:
                continue
            if self._is_disturbed(path.names, before.get(path.names)):
                down = [" ".join(other) for other in self._members() if other != path.names and self._is_down(other)]
                if down:
                    self.fail(f"{' '.join(path.names)} is changed while {', '.join(down)} is unavailable")
                self._changing[path.names] = None

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._changing.clear()
        self._down_since.clear()
        self._up_since.clear()

    def see_rest(self) -> None:
        down = {key: self._down_since.get(key, now()) for key in self._members() if self._is_unavailable(key)}
        self._up_since = {key: self._up_since.get(key, now()) for key in self._members() if key not in down}
        self._down_since = down
        self._changing = {key: None for key in self._changing if key in down}

    def _is_disturbed(self, key: Key, former: Placement | None) -> bool:
        placement, rollout = self.records.placements.get(key), self.records.rollouts.get(ROLLED)
        unit = self.records.units.get(key[1])
        if placement is None or former is None or rollout is None or unit is None:
            return False
        if not (placement.is_active and former.is_active) or unit.generation > rollout.generation:
            return False  # an operator moves, stops or restarts it at once
        is_changed = placement.content != former.content or placement.restart_of >= former.generation
        is_known_up = now() - self._up_since.get(key, now()) > NEWS_S
        return is_changed and is_known_up and key[0] in self.records.machines and self._judge(key, former) is None

    def _members(self) -> list[Key]:
        return [
            (machine, name)
            for (machine, name), placement in self.records.placements.items()
            if group_of(name) == ROLLED and placement.is_active and placement.target is TargetState.LAUNCHED
        ]

    def _is_down(self, key: Key) -> bool:
        rollout = self.records.rollouts[ROLLED]
        if not self._is_unavailable(key) or key[1] in [member.unit for member in rollout.accepted]:
            return False
        return key in self._changing or now() - self._down_since.get(key, now()) > NEWS_S

    def _is_unavailable(self, key: Key) -> bool:
        if runs_on(self.records, key[1]):
            return False
        return key[0] not in self.records.machines or self._judge(key, self.records.placements[key]) is not None

    def _judge(self, key: Key, placement: Placement) -> object:
        return judge_member(placement, self.records.states.get(key))
