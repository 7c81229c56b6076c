"""A tour on real machines: units started, listed, and outliving the machine that ran them. Each step is checked."""
