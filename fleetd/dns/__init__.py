"""fleet-dns: a process that answers DNS questions about the cluster from a file that fleetd writes."""
