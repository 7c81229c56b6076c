"""translate: the unit that a `.container` file makes, with the volumes and networks that it names."""

from collections.abc import Callable, Sequence

from fleetd.model.quadlet.container import make_service, named_files
from fleetd.model.quadlet.resources import make_resource, make_resource_service
from fleetd.model.quadlet.source import keep_source
from fleetd.model.unit_option import UnitOption

Find = Callable[[str], Sequence[UnitOption] | None]

CONTAINER_SUFFIX = ".container"
SUFFIXES = (CONTAINER_SUFFIX, ".network", ".volume")


def service_name(file: str) -> str:
    """The unit that a file of Quadlet's makes: `hello.service` of `hello.container`, `data-volume.service` of
    `data.volume`."""
    stem, _, suffix = file.rpartition(".")
    return f"{stem}.service" if f".{suffix}" == CONTAINER_SUFFIX else f"{stem}-{suffix}.service"


def translate(file: str, options: Sequence[UnitOption], find: Find) -> list[UnitOption]:
    """The options of the service that a file with these options makes, and what the unit keeps of its source. `find`
    returns the options of a volume or network beside it, by the name of its file, None if there is none. Raises
    InvalidQuadlet."""
    if not file.endswith(CONTAINER_SUFFIX):
        return make_resource_service(file, options)
    named = {name: found for name in named_files(options) if (found := find(name)) is not None}
    service = make_service(file, options, {name: make_resource(name, found) for name, found in named.items()})
    kept = keep_source(file, options)
    for name, found in named.items():
        kept += keep_source(name, found)
    return [*service, *kept]
