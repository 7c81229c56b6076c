"""The machine's service manager: one small protocol, the real systemd behind it, and a simulated one beside it."""
