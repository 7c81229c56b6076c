"""How Chromium is started: it asks nobody but the page's own server."""

PATIENCE_S = 120.0  # for what takes a moment on a machine with nothing else to do
FLAGS = [
    "--no-first-run",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
]
