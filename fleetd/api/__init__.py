"""The HTTP API: its JSON types, its handlers, and the server."""
