"""What is promised, by the number of machines. A run on another number of them measures, and judges nothing."""

import msgspec


class Targets(msgspec.Struct, frozen=True):
    """Upper bounds. `many`, `requests` and `restart` are ratios to the floor; `cut_s` comes on top of `agent_ttl`."""

    one_s: float
    many: float
    cut_s: float
    memory_mib: float
    growth_kib: float
    fleetd_percent: float
    etcd_percent: float
    requests: float
    restart: float
    apply_s: float


INFINITE = float("inf")
TARGETS = {
    3: Targets(0.10, 1.6, 2.0, 50.0, 4.0, 0.3, 1.5, 1.1, INFINITE, 1.5),
    20: Targets(0.15, 1.5, 3.0, 48.0, 4.0, 0.3, 3.0, 1.1, 2.0, 1.5),
}
NONE = Targets(*[INFINITE] * 10)
