"""A machine for each test of the agent."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.agent.machine import MachineUnderTest


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncGenerator[MachineUnderTest, None]:
    under_test = MachineUnderTest(tmp_path)
    yield under_test
    if under_test.running is not None:
        await under_test.stop()
    await under_test.store.close()
