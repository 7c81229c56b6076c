"""The leader's decisions, as pure functions over a snapshot of the cluster: which unit runs where, and why."""
