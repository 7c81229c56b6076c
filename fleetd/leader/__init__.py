"""Leadership of the cluster: the election, and the term of the elected leader."""
