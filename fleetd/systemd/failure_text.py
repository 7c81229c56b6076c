"""Renders why a unit failed, the same for every service manager."""

import signal
from collections.abc import Sequence

import msgspec

from fleetd.model.job_result import ASSERT, DEPENDENCY, REFUSED, SKIPPED
from fleetd.model.unit import LAST_LINES

_JOB_RESULTS = {
    REFUSED: "systemd refused to start it",
    SKIPPED: "systemd skipped it: a condition is not met",
    ASSERT: "systemd did not start it: an assertion is not met (assert)",
    DEPENDENCY: "systemd did not start it: a unit that it needs failed (dependency)",
}


class Ending(msgspec.Struct, frozen=True):
    """How a unit ended, as systemd knows it; '' and 0 are unknown. `exit_code` is CLD_* of waitid(2)."""

    load_error: str = ""
    result: str = ""
    exit_code: int = 0
    exit_status: int = 0
    status_text: str = ""
    job_result: str = ""


def render_failure(ending: Ending, log: Sequence[str]) -> str:
    """Return the reasons, most important first, then the unit's last log lines without repetitions; '' if there are
    none."""
    reasons = [ending.load_error]
    if ending.result not in ("", "success"):
        reasons.append(f"{ending.result}{_render_exit(ending)}")
    if ending.job_result not in ("", "done", "failed"):  # `failed` says no more than the result does
        reasons.append(_JOB_RESULTS.get(ending.job_result, f"its last job ended with: {ending.job_result}"))
    if ending.status_text:
        reasons.append(f"its status: {ending.status_text}")
    if log:
        lines = [*dict.fromkeys(reversed(log))][::-1]
        reasons.append(f"{LAST_LINES}\n" + "\n".join(lines))
    return "; ".join(reason for reason in reasons if reason)


def _render_exit(ending: Ending) -> str:
    match ending.exit_code:
        case 1:
            return f": main process exited with status {ending.exit_status}"
        case 2 | 3:
            description = signal.strsignal(ending.exit_status)
            return f": main process was killed by signal {ending.exit_status} ({description})"
    return ""
