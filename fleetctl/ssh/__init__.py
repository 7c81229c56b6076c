"""SSH: connections to machines and bastions, and what runs over them.

Begin with connection.py (connect, check the host key, authenticate); sessions.py runs commands, tunnel.py reaches the
API, both over channels.py; ../remote.py runs commands on the machines of a unit.
"""
