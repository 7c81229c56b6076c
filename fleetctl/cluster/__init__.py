"""What `fleetctl cluster` and `fleetctl machine` do: the first server of a cluster, further servers and workers over
SSH, join tokens, and the etcd that servers run.

Begin with initialise.py (`cluster init`) and add_server.py (`machine add --server`). Both go in steps that are repeated
without harm, on a Host (host.py): this machine, or one behind SSH. etcd_members.py decides and does what changes the
members of etcd; layout.py says where files are and what is in them.
"""
