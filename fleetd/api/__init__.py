"""The HTTP API: the shapes that travel, what each request does, and the server that carries them."""
