"""One machine's decisions, as pure functions: what to do next about the units placed on it, what to report of them."""
