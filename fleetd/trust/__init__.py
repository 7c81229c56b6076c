"""Certificates of the machines: who makes them, how they are renewed, and which do not count any more."""
