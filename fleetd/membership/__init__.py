"""This machine's membership of the cluster: registration, parking, and the store's epoch."""
