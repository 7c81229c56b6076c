"""Results of a unit's last job, as systemd names them (org.freedesktop.systemd1(5), JobRemoved). For two it has no name
of its own: it says `failed` for REFUSED and `done` for SKIPPED."""

REFUSED = "refused"  # the job failed before the unit began to start
SKIPPED = "condition"  # a condition was not met, which is no failure
ASSERT = "assert"
CANCELED = "canceled"
DEPENDENCY = "dependency"
WAITS_FOR_LOCK = "lock"  # fleet's own: there was no job yet, because the unit waits for its lock (Lock=)

NEVER_RAN = (DEPENDENCY, REFUSED)  # the unit did not begin to start: retried
FORGOTTEN = (SKIPPED, ASSERT)  # systemd forgets these together with a unit that nothing refers to
