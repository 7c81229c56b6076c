"""The configuration of fleetd: every option, and how files, environment and command line become one Config."""
