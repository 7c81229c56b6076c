"""Acts on real machines, each of commands with their output, which check their claims: a tour, changes, reboots."""
