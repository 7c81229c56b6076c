"""Acts on real machines: each shows commands with their output, and checks what they claim. A tour, and changes."""
