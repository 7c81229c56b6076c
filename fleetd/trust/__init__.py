"""Certificates of the machines, and secrets. What needs `cryptography` runs in processes of its own, which end; the
daemon never has it in memory."""
