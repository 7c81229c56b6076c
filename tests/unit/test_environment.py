"""Variables that the environment sets for other programs do not reach the tests."""

import os
import subprocess
import sys

import pytest

SET = {"FLEET_AGENT_TTL": "never", "FLEETCTL_TUNNEL": "nowhere", "ETCD_NAME": "mine", "NOTIFY_SOCKET": "/nowhere"}


def test_no_variable_of_other_programs_is_set() -> None:
    assert not SET.keys() & os.environ.keys()


@pytest.mark.long
def test_tests_begin_in_a_clean_environment() -> None:
    this = f"{__file__}::{test_no_variable_of_other_programs_is_set.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this]
    done = subprocess.run(command, env=os.environ | SET, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
