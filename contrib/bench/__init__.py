"""The figures of docs/performance.md, measured on real machines, each beside its floor: what systemd needs on its own.

Only differences between runs on one machine mean something, and ratios to the floor; so both are taken in one run, in
turns. Nothing is tuned for the measuring: etcd, fleetd and the machines are those of the testbed.
"""
