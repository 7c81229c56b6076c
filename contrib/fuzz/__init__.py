"""Coverage-guided fuzzing of what reads bytes from outside: `python -m contrib.fuzz NAME --seconds N`."""
