"""What all suites share: tests that boot real machines run where they can, and never go missing unnoticed."""

import os
import signal

import pytest

from contrib.testbed import missing_requirements


def pytest_configure() -> None:
    """Let tests press Ctrl-C also where this run was put in the background, whose children would be deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `machines` where no machine can be booted, and say why; on CI that is a failure."""
    if item.get_closest_marker("machines") is None:
        return
    if missing := missing_requirements():
        reason = f"boots real machines, but {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
