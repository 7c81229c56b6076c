"""Version 1 of the HTTP API: that of CoreOS fleet."""
