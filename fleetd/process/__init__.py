"""fleetd as a process: it wires all parts, follows signals, logs, and tells systemd how it is."""
