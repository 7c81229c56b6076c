"""What a test needs of the machine that runs it. Where it is missing the test is skipped; on CI it fails."""

import os
from collections.abc import Sequence

import pytest

from contrib.testbed.etcd import etcd_is_installed


def require(missing: Sequence[str], what: str) -> None:
    """Skip this test (on CI: fail it) if something is missing for it to do `what`."""
    if not missing:
        return
    reason = f"{what}, but {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_etcd() -> None:
    require([] if etcd_is_installed() else ["etcd is not installed (Debian: etcd-server)"], "runs a real etcd")
