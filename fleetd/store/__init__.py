"""Where the cluster's state lives: one small protocol, and the stores that keep it."""
