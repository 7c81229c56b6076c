"""The machine's service manager: the interface, and systemd over D-Bus behind it."""
