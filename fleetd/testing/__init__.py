"""A simulated systemd, for fleet's own tests and for those of programs that build on fleet."""
