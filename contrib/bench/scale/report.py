"""The report of a run, in Markdown: its phases, the requests to etcd, the cost of etcd alone, and of more machines."""

from collections.abc import Iterable, Sequence

from contrib.bench.figure import Figure
from contrib.bench.scale.floor import WATCHES_A_MACHINE
from contrib.bench.scale.phases import JOIN, LOSE_LEADER, LOSE_ONE, LOSE_TENTH, ONE, ONE_BY_ONE, REST, START, Phase
from contrib.bench.scale.run import Findings

FACTORS = (1, 2, 5, 10)
KINDS_SHOWN = 8


def render_report(findings: Findings) -> str:
    """All of it."""
    size = findings.size
    a_second = size.units / findings.submitted_s
    parts = (
        f"# {size.machines} machines, {size.units} units",
        "Processor time of etcd, of the leader's process, of the API's, and of one agent.",
        *_describe_workers(findings),
        _render_phases(findings),
        f"All units were submitted after {findings.submitted_s:.1f} s, {a_second:.0f} a second.",
        "What the store was asked most often (requests, keys, KiB of keys and values):",
        "\n".join(f"- {phase.name}: {_render_requests(phase)}" for phase in findings.phases.values()),
        _render_memory(findings),
        _render_floor(findings),
        _render_more(findings),
    )
    return "\n\n".join(parts) + "\n"


def _describe_workers(findings: Findings) -> Iterable[str]:
    """What is different if most machines are workers; nothing if none is."""
    size = findings.size
    if size.servers:
        yield (
            f"{size.servers} machines are servers, the leader and the API's among them, and the other "
            f"{size.machines - size.servers} are workers, which ask them over TLS. Requests are those of servers to "
            "etcd. What is said of more machines below holds for servers alone."
        )


def figures_of(findings: Findings) -> list[Figure]:
    """What of it the history keeps."""
    start, rest = findings.phases[START], findings.phases[f"{REST}, with all units"]
    figures = [
        Figure("start", START, "s", (start.took_s,), (findings.floor.took_s,)),
        Figure("start_etcd", f"{START}: etcd", "s", (start.etcd_cpu_s,), (findings.floor.etcd_cpu_s,)),
        Figure("start_leader", f"{START}: the leader", "s", (start.leader_cpu_s,)),
        Figure("rest_etcd", "at rest: etcd", "%", (rest.etcd_cpu_s / rest.lasted_s * 100,)),
    ]
    keys = {ONE: "one", LOSE_ONE: "cut", LOSE_TENTH: "cut_tenth", LOSE_LEADER: "cut_leader"}
    return figures + [Figure(key, name, "s", (findings.phases[name].took_s,)) for name, key in keys.items()]


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _render_phases(findings: Findings) -> str:
    """Processor times as seconds where something was done, in % of a core where nothing was."""
    rows: list[Sequence[str]] = [("phase", "took", "etcd", "leader", "API", "agent", "requests", "MiB in", "MiB out")]
    agents = findings.size.machines - 2
    for phase in findings.phases.values():
        over_s = phase.lasted_s if phase.name.startswith(REST) else 0
        cpu = (phase.etcd_cpu_s, phase.leader_cpu_s, phase.api_cpu_s, phase.agents_cpu_s / agents)
        took = f"{phase.took_s:.3f} s" if phase.took_s < 1 else f"{phase.took_s:.1f} s"
        costs = [f"{seconds / over_s * 100:.2f} %" if over_s else f"{seconds:.3f} s" for seconds in cpu]
        wire = (f"{phase.received_mib:.1f}", f"{phase.sent_mib:.1f}")
        rows.append((phase.name, took, *costs, str(_requests_of(phase)), *wire))
    return _table(rows)


def _requests_of(phase: Phase) -> int:
    return sum(count.requests for label, count in phase.counts.items() if not label.startswith("watch told"))


def _render_requests(phase: Phase) -> str:
    most = sorted(phase.counts.items(), key=lambda item: -item[1].requests)[:KINDS_SHOWN]
    return "; ".join(f"{label} {count.requests}, {count.keys}, {count.size / 1024:.0f}" for label, count in most)


def _render_memory(findings: Findings) -> str:
    memory = findings.memory
    agent_kib = memory.agents_mib * 1024 / (findings.size.machines - 2)
    return f"""\
Memory with all units: etcd {memory.etcd_mib:.0f} MiB ({memory.etcd_alone_mib:.0f} before anybody came; its database is
{memory.database_mib:.0f} MiB), the leader {memory.leader_mib:.0f} MiB, the API's machine {memory.api_mib:.0f} MiB, and
an agent in a process of many {agent_kib:.0f} KiB."""


def _render_floor(findings: Findings) -> str:
    start, floor = findings.phases[START], findings.floor
    python_s = start.leader_cpu_s + start.api_cpu_s + start.agents_cpu_s
    return f"""\
The floor of the start: a bare client had etcd carry out the same requests, with as many watches open, in
{floor.took_s:.1f} s: etcd used {floor.etcd_cpu_s:.1f} s of processor time, the client {floor.client_cpu_s:.1f} s. The
cluster took {start.took_s / floor.took_s:.1f} times as long: etcd used {start.etcd_cpu_s:.1f} s, Python \
{python_s:.1f} s in all machines together
(the API {start.api_cpu_s:.1f} s, the leader {start.leader_cpu_s:.1f} s, the agents {start.agents_cpu_s:.1f} s)."""


def _render_more(findings: Findings) -> str:
    """What more machines would cost, with as many units on each."""
    size, memory = findings.size, findings.memory
    join, rest, start, one = (findings.phases[name] for name in (JOIN, f"{REST}, with all units", START, ONE))
    etcd_rest = rest.etcd_cpu_s / rest.lasted_s * 100
    etcd_each_mib = (memory.etcd_mib - memory.database_mib - memory.etcd_alone_mib) / size.machines
    rows: list[Sequence[str]] = [
        (
            "machines",
            "units",
            "etcd at rest",
            "its memory",
            "join: etcd",
            "start: leader",
            "etcd",
            "an API",
            "one: etcd",
        )
    ]
    for factor in FACTORS:
        etcd_mib = memory.etcd_alone_mib + (etcd_each_mib * size.machines + memory.database_mib) * factor
        seconds = (join.etcd_cpu_s, start.leader_cpu_s, start.etcd_cpu_s, start.api_cpu_s, one.etcd_cpu_s / ONE_BY_ONE)
        rows.append(
            (
                str(size.machines * factor),
                str(size.units * factor),
                f"{etcd_rest * factor:.1f} %",
                f"{etcd_mib:.0f} MiB",
                *(f"{each * factor:.1f} s" for each in seconds),
            )
        )
    return f"""\
More machines with as many units each, every term in proportion (the first row is measured):

- etcd at rest: one heartbeat a machine each third of `agent_ttl`, and nothing else, whatever runs.
- etcd's memory: {WATCHES_A_MACHINE} watches a machine, {etcd_each_mib * 1024:.0f} KiB each machine, and the database.
- The leader: it plans each unit once and writes it once; one more machine is one more candidate. It is one process, and
  so the first bound on how fast units start.
- etcd at the start: one transaction for each submission; those of leader and agents are batches.
- An API: each submission is a request; another machine's API takes a share of them.
- One unit: every machine learns with its next beat that the store has changed, and looks whether that concerned it.
- An agent: its own units alone, so nothing of this grows for it.

{_table(rows)}"""
