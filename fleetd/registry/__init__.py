"""The keys of the store, and the typed records under them."""
