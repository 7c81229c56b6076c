"""The order of start jobs: a unit that systemd would start first in one transaction is queued first."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.content import Content, DropIn
from fleetd.reconciler.start_order import order_starts

NAMES = [f"{letter}.service" for letter in "abcdefgh"]


def unit(*lines: str) -> str:
    return "[Unit]\n" + "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        ({"b.service": "", "a.service": ""}, "a.service b.service"),
        ({"a.service": unit("After=z.service"), "z.service": ""}, "z.service a.service"),
        ({"a.service": "", "z.service": unit("Before=b.service a.service")}, "z.service a.service"),
        ({"a.service": unit("After=m.target"), "z.service": unit("Before=m.target")}, "z.service a.service"),
        ({"a@1.service": unit("After=z@%i.service"), "z@1.service": ""}, "z@1.service a@1.service"),
        ({"a.service": unit("After=z.service", "After="), "z.service": ""}, "a.service z.service"),
        ({"a.service": unit("After=b.service \\\n z.service"), "z.service": ""}, "z.service a.service"),
        ({"a.service": unit("After=db.service"), "z.service": "[Install]\nAlias=db.service\n"}, "z.service a.service"),
        ({"a.service": "[Install]\nAlias=b.service\n", "b.service": ""}, "a.service b.service"),
        ({"a.service": "", "web.socket": "[Socket]\nService=a.service\n"}, "web.socket a.service"),
        ({"web.service": "", "web.socket": ""}, "web.socket web.service"),
        ({"a.service": "[Service]\nSockets=z.socket\n", "z.socket": ""}, "z.socket a.service"),
        ({"a.service": "", "z.timer": "[Timer]\nUnit=a.service\n"}, "z.timer a.service"),
        ({"a.service": "", "z.path": "[Path]\nUnit=a.service\n"}, "z.path a.service"),
        ({"data.mount": "", "data.automount": ""}, "data.automount data.mount"),
        ({"a.service": unit("After=a.service")}, "a.service"),
        ({"a.service": unit("After=b.service"), "b.service": unit("After=a.service")}, "b.service a.service"),
        ({"a.service": "no unit file: After=\n[broken\nAfter=z.service\n", "z.service": ""}, "a.service z.service"),
        ({"nodot": unit("After=z.service"), "z.service": ""}, "nodot z.service"),
    ],
)
def test_the_earlier_unit_is_queued_first(texts: dict[str, str], order: str) -> None:
    assert order_starts({name: Content(text) for name, text in texts.items()}) == tuple(order.split())


def test_drop_ins_order_units_too() -> None:
    dropin = DropIn("a.conf", unit("After=z.service"))
    assert order_starts({"a.service": Content("", (dropin,)), "z.service": Content("")}) == ("z.service", "a.service")


@given(st.permutations(NAMES), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.booleans()), max_size=20))
def test_every_relation_holds_without_cycles(ranked: list[str], relations: list[tuple[int, int, bool]]) -> None:
    texts = dict.fromkeys(ranked, "[Unit]\n")
    expected = []
    for one, other, is_after in relations:
        first, then = ranked[min(one, other)], ranked[max(one, other)]
        texts[then if is_after else first] += f"After={first}\n" if is_after else f"Before={then}\n"
        expected.append((first, then))
    order = order_starts({name: Content(text) for name, text in texts.items()})
    assert sorted(order) == NAMES
    assert all(order.index(first) <= order.index(then) for first, then in expected)


def test_time_with_many_cycles_grows_with_the_number_of_relations() -> None:
    names = [f"u{number}.service" for number in range(400)]
    random.Random(7).shuffle(names)
    text = unit(*(f"After={' '.join(names[start : start + 40])}" for start in range(0, 400, 40)))
    began_s = time.process_time()
    assert sorted(order_starts(dict.fromkeys(names, Content(text)))) == sorted(names)
    assert time.process_time() - began_s < 5
