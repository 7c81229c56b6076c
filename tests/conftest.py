"""Shared by all suites: a clean environment, and a skip with a reason where no machine can be booted."""

import os
import random
import signal

import pytest

from contrib.testbed import missing_requirements
from tests.examples import register_profiles
from tests.requirements import require

# The variables that tests may see. Any other one could change what they test.
KEPT = {"CI", "FLEET_STORMS", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER"}
KEPT_KINDS = ("COVERAGE_", "COV_CORE_", "FLEET_TEST_", "HYPOTHESIS_", "LD_", "PIP_", "PYTEST_", "PYTHON", "SSL_CERT_")

register_profiles()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scramble", type=int, metavar="SEED", help="run the tests in the order that this number draws")


def pytest_configure() -> None:
    """Clean the environment of this process, and so of its children, before anything reads it.

    Enable Ctrl-C for tests that send it: children of a run in the background would ignore it.
    """
    for name in [name for name in os.environ if name not in KEPT and not name.startswith(KEPT_KINDS)]:
        del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers, run tests that wait for machines first, so that short ones fill the end."""
    if (seed := config.getoption("scramble")) is not None:
        random.Random(seed).shuffle(items)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("machines") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `machines` where no machine can be booted, with the reason; on CI this is a failure."""
    if item.get_closest_marker("machines") is None:
        return
    require(missing_requirements(), "boots real machines")
