"""The web page of the cluster on a port of this machine, for one person: what `fleetctl ui` serves.

`gate` decides who may pass, `owners` tells whose a connection is, `upstream` asks fleetd, `server` is HTTP towards the
browser. The page itself is fleetd's.
"""
