"""A whole cluster without real machines: many real agents, a real leader, a real API, a real etcd, on the real clock.

Only systemd is simulated (fleetd/testing), so that a thousand machines fit on one, and what is left is
what fleet itself costs. All agents share this machine's processor with etcd: the processor times tell more than the
seconds on the clock. What fleet takes on real machines is measured by the rest of contrib/bench.
"""
