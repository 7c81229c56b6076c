"""fleet.conf: which options there are, and how they are read."""
