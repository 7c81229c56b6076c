"""A scenario is a text with one action on each line, at a time in seconds.

    # Why this must be so.
    machines m1 disk=ssd, m2, m3
    config failover_delay=60s
    certificates 120
    seed 5
    0   start web@1.service
    10  power-cut m1 for 60
    40  expect web@1.service runs once

`#` begins a comment. A machine with `role=worker` beside its metadata is a worker. `config` (optional) has lines of
fleet.conf for every machine. With `certificates`, those of machines live for so many seconds; without it, workers are
believed. `seed` (else 0) decides how long each message takes. After the last line all faults end, and the cluster must
converge (convergence.py).
actions.py has the verbs, expectations.py the expectations. A failing seed, shrunk, is printed in this form.
"""

from collections.abc import Mapping, Sequence

import msgspec

import tests.simulation.announcement_actions
import tests.simulation.certificate_actions
import tests.simulation.download_actions
import tests.simulation.expectations
import tests.simulation.limit_actions
import tests.simulation.reboot_actions
import tests.simulation.secret_actions
import tests.simulation.systemd_actions
import tests.simulation.worker_actions  # noqa: F401 (adds verbs)
from tests.simulation.actions import VERBS, Action

Offers = dict[str, dict[str, str]]


class Scenario(msgspec.Struct, frozen=True):
    """Machines with their metadata, the actions, the lines of fleet.conf, how long certificates live, and the seed."""

    machines: Offers
    actions: tuple[Action, ...]
    config: tuple[str, ...] = ()
    life_s: float = 0.0  # of certificates
    seed: int = 0


def parse_scenario(text: str) -> Scenario:
    """Raises ValueError, which names the line."""
    machines: Offers = {}
    config: list[str] = []
    life_s, seed = 0.0, 0
    actions = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == "machines":
                machines = _parse_machines(" ".join(words[1:]))
            elif words[0] == "config":
                config += words[1:]
            elif words[0] == "certificates":
                life_s = float(words[1])
            elif words[0] == "seed":
                seed = int(words[1])
            else:
                actions.append(_parse_action(words))
        except ValueError as error:
            raise ValueError(f"line {number}, {line.strip()!r}: {error}") from None
    if not machines:
        raise ValueError("no line says which machines there are: machines m1, m2")
    return Scenario(machines, tuple(actions), tuple(config), life_s, seed)


def _parse_machines(text: str) -> Offers:
    offers: Offers = {}
    for part in text.split(","):
        name, *metadata = part.split()
        offers[name] = dict(item.split("=", 1) for item in metadata)
    return offers


def _parse_action(words: Sequence[str]) -> Action:
    at, verb, *args = words
    if verb not in VERBS:
        raise ValueError(f"{verb} is no verb; these are: {', '.join(sorted(VERBS))}")
    for_s = None
    if len(args) >= 2 and args[-2] == "for" and verb != "expect":
        for_s = float(args[-1])
        args = args[:-2]
    return Action(float(at), verb, tuple(args), for_s)


def render_scenario(
    machines: Mapping[str, Mapping[str, str]],
    actions: Sequence[Action],
    config: Sequence[str] = (),
    life_s: float = 0.0,
) -> str:
    """The text from which parse_scenario makes the same machines, actions and configuration."""
    offers = (" ".join((name, *(f"{k}={v}" for k, v in offer.items()))) for name, offer in machines.items())
    told = [f"config {line}" for line in config] + ([f"certificates {life_s:g}"] if life_s else [])
    return "\n".join((f"machines {', '.join(offers)}", *told, *map(str, actions), ""))
