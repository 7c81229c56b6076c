"""What a changed unit file needs of a running unit: nothing, a reload, or a restart."""

import time

import pytest

from fleetd.model.content_change import Impact, impact

BEFORE = "[Unit]\nDescription=web\nAfter=a.service\n\n[Service]\nExecStart=/bin/web\nMemoryMax=10M\n"


@pytest.mark.parametrize(
    ("change", "kind", "because"),
    [
        (("", ""), "none", "nothing that systemd acts on changed"),
        (("[Unit]", "# a remark\n[Unit]"), "none", "nothing that systemd acts on changed"),
        (("=web\n", "=the web\nDocumentation=man:web\n"), "none", "nothing that systemd acts on changed"),
        (("[Service]", "[X-Fleet]\nGlobal=true\n[Service]"), "none", "nothing that systemd acts on changed"),
        (("[Service]", "[Install]\nWantedBy=x.target\n[Service]\nX-Note=x"), "none", "nothing that systemd acts on"),
        (("10M", "20M"), "reload", "MemoryMax= changed"),
        (("MemoryMax=10M\n", ""), "reload", "MemoryMax= changed"),
        (("10M", "10M\nRestart=always\nRestartSec=1"), "reload", "Restart=, RestartSec= changed"),
        (("[Service]", "StartLimitBurst=9\nOnFailure=x.service\n[Service]"), "reload", "StartLimitBurst=, OnFailure="),
        (("/bin/web", "/bin/new"), "restart", "ExecStart= changed"),
        (("/bin/web\nMemoryMax=10M", "/bin/new\nMemoryMax=20M"), "restart", "ExecStart= changed"),
        (("After=a", "After=b"), "restart", "After= changed"),
        (("[Service]", "[Service]\nMemoryDenyWriteExecute=yes"), "restart", "MemoryDenyWriteExecute= changed"),
        (("[Service]", "MemoryMax=1M\n[Service]"), "restart", "MemoryMax= changed"),  # has no meaning in [Unit]
        (("[Unit]", "[Unit] x"), "restart", "its file cannot be compared: "),
        (
            ("/bin/web", "/bin/web\n" + "\n".join(f"Environment=A{number}=1\nZ{number}=1" for number in range(9))),
            "restart",
            "Environment=, Z0=, Z1=, Z2=, Z3=, … changed",
        ),
    ],
)
def test_a_change_needs_the_least_that_applies_it(change: tuple[str, str], kind: str, because: str) -> None:
    found, why = impact(BEFORE, BEFORE.replace(*change))
    assert found == Impact(kind)
    assert why.startswith(because)
    assert impact(BEFORE.replace(*change), BEFORE)[0] == Impact(kind)


def test_the_order_of_options_matters_only_within_a_section() -> None:
    one = "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n"
    other = "[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n[Unit]\nAfter=a.service\n"
    swapped = "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/b\nExecStart=/bin/a\n"
    assert impact(one, other)[0] is Impact.NONE
    assert impact(one, swapped) == (Impact.RESTART, "ExecStart= changed")


def test_a_large_file_is_compared_quickly() -> None:
    one = "[Service]\n" + "".join(f"Environment=A{number}=1\n" for number in range(10_000))
    began_s = time.process_time()
    assert impact(one, one.replace("=1", "=2"))[0] is Impact.RESTART
    assert time.process_time() - began_s < 5
