"""Locks are tested on a virtual clock, so that no lease takes real time."""

import asyncio
from collections.abc import Callable

import pytest

from tests.virtual_time import VirtualLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on it."""
    return {"virtual": VirtualLoop}
