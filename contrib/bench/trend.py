"""Whether something that was looked at again and again has stayed as it was, or grows. Nothing is measured here."""

from collections.abc import Sequence

import msgspec

WARM_UP = 0.25  # the share of the time after which what a program fills once is full


class Trend(msgspec.Struct, frozen=True):
    """One quantity over time. `samples` are (seconds since the beginning, value), in order; `slack` is how much it may
    seem to have risen in the time and still count as flat: what it moves up and down by itself."""

    name: str
    unit: str
    samples: tuple[tuple[float, float], ...]
    slack: float

    @property
    def rise(self) -> float:
        """How much it rose once it had warmed up: the slope (least squares) times the time."""
        begin = WARM_UP * self.samples[-1][0]
        samples = [sample for sample in self.samples if sample[0] >= begin]
        span = samples[-1][0] - samples[0][0]
        return _slope(samples) * span

    @property
    def is_flat(self) -> bool:
        return self.rise <= self.slack

    def describe(self) -> str:
        """One line: where it began, where it ended, how it rose, and the verdict."""
        first, last = self.samples[0][1], self.samples[-1][1]
        verdict = "flat" if self.is_flat else "GROWS"
        return f"{self.name}: {first:.1f} → {last:.1f} {self.unit}, rise {self.rise:+.2f} (≤ {self.slack:g}): {verdict}"


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """Of the line that lies nearest to the samples, per second."""
    count = len(samples)
    mean_at, mean = sum(at for at, _ in samples) / count, sum(value for _, value in samples) / count
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    return sum((at - mean_at) * (value - mean) for at, value in samples) / spread if spread else 0.0
