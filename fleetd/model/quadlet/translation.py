"""translate: the unit that a `.container` file makes, with the volumes and networks that it names."""

from collections.abc import Callable, Sequence

from fleetd.model.image import by_digest, is_digest, refuse_image
from fleetd.model.quadlet.container import make_service, named_files
from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.keys import CONTAINER
from fleetd.model.quadlet.names import CONTAINER_SUFFIX
from fleetd.model.quadlet.resources import make_resource, make_resource_service
from fleetd.model.quadlet.section import Section
from fleetd.model.quadlet.source import keep_image, keep_source, resolved_image, sources_of
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, check_options, parse_unit_file, render_unit_file

Find = Callable[[str], Sequence[UnitOption] | None]


def translate(file: str, options: Sequence[UnitOption], find: Find, image: str = "") -> list[UnitOption]:
    """The options of the service that a file with these options makes, and what the unit keeps of its source. `find`
    returns the options of a volume or network beside it, by the name of its file, None if there is none. `image` is the
    container's by its digest, '' for that of the file. Raises InvalidQuadlet."""
    if not file.endswith(CONTAINER_SUFFIX):
        return _checked(file, make_resource_service(file, options))
    named = {name: found for name in named_files(options) if (found := find(name)) is not None}
    resources = {name: make_resource(name, found) for name, found in named.items()}
    service = make_service(file, options, resources, image)
    kept = keep_source(file, options)
    for name, found in named.items():
        kept += keep_source(name, found)
    return _checked(file, [*service, *([keep_image(image)] if image else []), *kept])


def _checked(file: str, unit: list[UnitOption]) -> list[UnitOption]:
    """The options, each of which is one of the unit's: an escape in a value of the file could end a line, and begin
    another option or section. Raises InvalidQuadlet."""
    try:
        check_options(unit)
    except UnitFileError as error:
        raise InvalidQuadlet(f"{file}: {error}") from error
    return unit


def with_image(unit: Sequence[UnitOption], image: str) -> list[UnitOption]:
    """The options of a unit that was made of a container, made again with this image. Raises InvalidQuadlet, and
    UnitFileError."""
    container, *others = sources_of(unit)
    files = {file.name: parse_unit_file(file.text) for file in others}
    return translate(container.name, parse_unit_file(container.text), files.get, image)


def refuse_service(text: str) -> str:
    """Why a unit file that keeps what it was made of may not be stored: it is not what those files make, so that they
    would hide what runs; '' if it is."""
    try:
        unit = parse_unit_file(text)
        image = resolved_image(unit)
        if not sources_of(unit):
            return "it keeps an image, and no container that would run it: submit the container"
        made = render_unit_file(with_image(unit, image))
        named = image_to_resolve(unit)
    except (InvalidQuadlet, UnitFileError) as error:
        return str(error)
    if image and (not named or refuse_image(named) or not _is_by_digest(image, named)):
        return f"its container does not name the image {image}, which it keeps: submit the container again"
    if made != text:
        return (
            "its service is not what its container makes: submit the container, by a fleetctl of the version that the "
            "servers have"
        )
    return ""


def _is_by_digest(image: str, named: str) -> bool:
    digest = image.rpartition("@")[2]
    return is_digest(digest) and by_digest(named, digest) == image


def image_to_resolve(unit: Sequence[UnitOption]) -> str:
    """The image of the container that a unit was made of, as its file names it; '' if the unit was made of none, or if
    its image has no tag that could come to mean another one: it is named by its digest, by a specifier, or is the
    machine's own."""
    files = sources_of(unit)
    if not files:
        return ""
    container = Section(CONTAINER, parse_unit_file(files[0].text))
    image = container.last("Image")
    is_own = image.startswith("localhost/") or container.last("Pull") == "never"
    return "" if is_own or "@" in image or "%" in image else image
