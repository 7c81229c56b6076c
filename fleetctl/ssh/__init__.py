"""SSH: connections to machines and bastions, who logs in with which keys, and what runs over them.

Nothing here knows units: ../remote.py runs commands where a unit is. Begin with connection.py, where connections are
dialled, the host's key is checked and somebody logged in; the API is reached through tunnel.py.
"""
