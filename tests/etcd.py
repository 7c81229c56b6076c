"""Where the tests find their etcd: it is the testbed's."""

from contrib.testbed.etcd import EtcdServer, etcd_is_installed, free_port

__all__ = ["EtcdServer", "etcd_is_installed", "free_port"]
