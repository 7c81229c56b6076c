"""What servers answer to workers, which reach the store through them alone."""
