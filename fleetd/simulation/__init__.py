"""Clusters in virtual time, for `fleetctl simulate`: real fleetds over one store in memory, with simulated systemds.

Nothing that runs in production imports it.
"""
