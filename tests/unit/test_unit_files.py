"""What the unit files of fleet itself promise."""

from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "units"


@pytest.mark.parametrize(
    "name", ["fleet.service", "fleet-etcd.service", "fleet-credentials.service", "user/fleet.service"]
)
def test_what_has_keys_or_secrets_in_memory_leaves_no_core_dump(name: str) -> None:
    lines = (UNITS / name).read_text(encoding="utf-8").splitlines()
    assert "LimitCORE=0" in lines
