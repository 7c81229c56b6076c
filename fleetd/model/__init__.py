"""What there is: units, unit files, machines, placements. Values and rules: no I/O, clock, randomness or logging."""
