"""fleetctl: the command line of fleet. It speaks the daemon's HTTP API, and imports of fleetd only core and schema."""
