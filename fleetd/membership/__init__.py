"""This machine's membership of the cluster: its registration, its parking, and which store it belongs to."""
