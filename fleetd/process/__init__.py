"""The fleetd process: it wires all parts, handles signals, logs, and reports to systemd."""
