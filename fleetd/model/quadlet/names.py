"""Names of containers, volumes and networks, and of the services that are made of them.

A module of its own, so that fleetctl's list commands start without what translates.
"""

CONTAINER_SUFFIX = ".container"
SUFFIXES = (CONTAINER_SUFFIX, ".network", ".volume")


def service_name(file: str) -> str:
    """The unit that a file of Quadlet's makes: `hello.service` of `hello.container`, `data-volume.service` of
    `data.volume`."""
    stem, _, suffix = file.rpartition(".")
    return f"{stem}.service" if f".{suffix}" == CONTAINER_SUFFIX else f"{stem}-{suffix}.service"
