"""What all suites share: a clean environment, and tests of real machines that run where they can or say why not."""

import os
import random
import signal

import pytest

from contrib.testbed import missing_requirements
from tests.examples import register_profiles
from tests.requirements import require

# What a test may know of who runs it; all else that is set there would make it another test.
KEPT = {"CI", "FLEET_STORMS", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER"}
KEPT_KINDS = ("COVERAGE_", "COV_CORE_", "FLEET_TEST_", "HYPOTHESIS_", "LD_", "PIP_", "PYTEST_", "PYTHON", "SSL_CERT_")

register_profiles()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scramble", type=int, metavar="SEED", help="run the tests in the order that this number draws")


def pytest_configure() -> None:
    """Clean the environment of this process, and so of its children, before anything reads it.

    Let tests press Ctrl-C also where this run was put in the background, whose children would be deaf to it.
    """
    for name in [name for name in os.environ if name not in KEPT and not name.startswith(KEPT_KINDS)]:
        del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests, those that wait for machines come first, and short ones fill the end."""
    if (seed := config.getoption("scramble")) is not None:
        random.Random(seed).shuffle(items)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("machines") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `machines` where no machine can be booted, and say why; on CI that is a failure."""
    if item.get_closest_marker("machines") is None:
        return
    require(missing_requirements(), "boots real machines")
