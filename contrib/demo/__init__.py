"""A tour on real machines: start units, list them, and see them survive the loss of a machine. Each step is checked."""
