"""Version 2 of the HTTP API: operations on many units in one request, and reports on units."""
