"""One machine's decisions, as pure functions: what to do next about its units, and what to report of them."""
