"""The file of an export, and what an import finds different: properties and tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.exports.compare import Change, plan_import
from fleetctl.exports.file import (
    MAX_FAULTS,
    BrokenExport,
    Exported,
    ExportedMachine,
    ExportedSetting,
    ExportedUnit,
    parse_export,
    render_export,
)
from fleetd.model.content import DropIn
from fleetd.model.unit import TargetState

SERVICE = "[Service]\nExecStart=/bin/true\n"
WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
UNITS = st.builds(
    lambda name, value, target, dropin, set_, on: ExportedUnit(
        f"u-{name}.service",  # no name is reserved
        f"{SERVICE}Environment=A={value}\n",
        target,
        (DropIn("10.conf", f"[Service]\nEnvironment=B={value}\n"),) if dropin else (),
        set_,
        on,
    ),
    WORDS,
    VALUES,
    st.sampled_from(TargetState),
    st.booleans(),
    st.one_of(st.just(""), WORDS),
    st.lists(WORDS, max_size=2).map(tuple),
)
MACHINES = st.builds(
    ExportedMachine, WORDS, VALUES, st.dictionaries(VALUES, VALUES, max_size=2), st.one_of(st.none(), st.text())
)
SETTINGS = st.builds(ExportedSetting, WORDS, st.text())
EXPORTS = st.builds(
    lambda settings, machines, units: Exported(
        {each.name: each for each in settings},
        {each.id: each for each in machines},
        {each.name: each for each in units},
    ),
    st.lists(SETTINGS, max_size=3),
    st.lists(MACHINES, max_size=3),
    st.lists(UNITS, max_size=3),
)


@given(EXPORTS)
def test_what_is_written_is_read_again(exported: Exported) -> None:
    assert parse_export("".join(render_export(exported, version="1", at=2.0)).encode()) == exported


@given(EXPORTS)
def test_a_file_cut_off_at_the_end_of_a_line_is_refused(exported: Exported) -> None:
    lines = list(render_export(exported))
    if len(lines) > 1:
        with pytest.raises(BrokenExport, match="it was cut off"):
            parse_export("".join(lines[:-1]).encode())


@given(EXPORTS)
def test_a_cluster_needs_nothing_of_its_own_export(exported: Exported) -> None:
    plan = plan_import(exported, exported, replace=True)
    assert (plan.settings, plan.units, plan.cordons) == ((), (), ())
    assert plan.unchanged == len(exported.settings) + len(exported.units)


@given(EXPORTS, EXPORTS, st.booleans())
def test_nothing_that_is_there_is_changed_without_replace_but_to_join_a_set(
    file: Exported, cluster: Exported, replace: bool
) -> None:
    plan = plan_import(file, cluster, replace=replace)
    for unit in plan.units:
        if unit.change is Change.CHANGED and not replace:
            assert (unit.has_new_content, unit.has_new_target) == (False, False)
            assert unit.before is not None
            assert unit.before.set == ""
        assert (unit.change is Change.NEW) == (unit.after.name not in cluster.units)
    assert {setting.change for setting in plan.settings} <= {Change.NEW, Change.CHANGED if replace else Change.KEPT}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (ExportedUnit("a.service", SERVICE), ExportedUnit("a.service", "[Service]\nExecStart=/x\n"), "unit file"),
        (ExportedUnit("a.service", SERVICE, set="x"), ExportedUnit("a.service", SERVICE, set="y"), 'set "x" → "y"'),
        (ExportedUnit("a.service", SERVICE, set="x"), ExportedUnit("a.service", SERVICE), ""),
        (
            ExportedUnit("a.service", SERVICE),
            ExportedUnit("a.service", SERVICE, TargetState.LOADED, (DropIn("x.conf", ""),)),
            "drop-ins, inactive → loaded",
        ),
    ],
)
def test_a_difference_is_said_in_words(before: ExportedUnit, after: ExportedUnit, said: str) -> None:
    units = plan_import(Exported(units={"a.service": after}), Exported(units={"a.service": before})).units
    assert [unit.describe() for unit in units] == ([said] if said else [])
    assert all(unit.change is Change.KEPT for unit in units)


def test_many_faults_are_not_all_listed() -> None:
    with pytest.raises(BrokenExport) as found:
        parse_export(b'{"kind":"fleet","format":1}\n' + b"[]\n" * (MAX_FAULTS + 5))
    assert found.value.faults[-1] == "and 5 more"
