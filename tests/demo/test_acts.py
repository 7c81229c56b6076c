"""Which acts the demo has. tests/cluster/test_demo.py plays one."""

import pytest

from contrib.demo.__main__ import ACTS, main


def test_an_unknown_act_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finale"]) == 2
    assert (
        capsys.readouterr().err
        == "contrib.demo: there is no act 'finale'. The acts are tour, change, reboot, services.\n"
    )


def test_the_tour_is_the_act_without_a_name() -> None:
    assert next(iter(ACTS)) == "tour"
