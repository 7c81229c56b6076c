"""Metrics counted since a moment. A process has one set of metrics, and tests run in it one after another."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from fleetd import metrics


def exported() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, as Prometheus reads it: (name, sorted labels) → value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


class Counted:
    """Samples minus their values when this object was created."""

    def __init__(self) -> None:
        self._before = exported()

    def __call__(self, name: str, **labels: Any) -> float:
        key = (name, tuple(sorted(labels.items())))
        return exported().get(key, 0.0) - self._before.get(key, 0.0)
