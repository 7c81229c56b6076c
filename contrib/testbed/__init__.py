"""Real machines on one machine: systemd in containers, a network between them, and a real etcd.

Tests, the demo and the benchmarks use it. fleet does not need it, and it imports nothing of fleet: the machines run
`fleetd` and `fleetctl` as users do.
"""

from contrib.testbed.cluster import Cluster, missing_requirements
from contrib.testbed.etcd import OWN_TIMEOUTS, EtcdServer
from contrib.testbed.machine import Machine
from contrib.testbed.network import Network

__all__ = ["OWN_TIMEOUTS", "Cluster", "EtcdServer", "Machine", "Network", "missing_requirements"]
