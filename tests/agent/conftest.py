"""A machine for each test of the agent, on a virtual clock."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

import pytest

from tests.agent.machine import MachineUnderTest
from tests.virtual_time import VirtualLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs in a loop whose clock is virtual."""
    return {"virtual": VirtualLoop}


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncGenerator[MachineUnderTest, None]:
    under_test = MachineUnderTest(tmp_path)
    yield under_test
    if under_test.running is not None:
        await under_test.stop()
    await under_test.store.close()
