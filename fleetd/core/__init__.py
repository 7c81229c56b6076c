"""Every decision of fleet, as pure functions over frozen values.

Nothing here does I/O, awaits, logs, reads a clock or draws a random number: time, ids and snapshots are arguments,
and plans, verdicts and errors are what comes back. The shells (engine, agent, membership, api) do what is decided here.
"""
