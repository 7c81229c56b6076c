"""Units made of the files of tests."""

import shlex

from fleetd.model.quadlet.source import without_sources
from fleetd.model.quadlet.translation import translate
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import check_options, parse_unit_file

RESOURCES_OF_TEMPLATE = {"data@_volume": "[Volume]\n", "net@_network": "[Network]\n"}
IMAGE = "Image=reg.example/hello:1"


def convert(text: str, file: str = "hello.container", **others: str) -> tuple[UnitOption, ...]:
    """The service of a file with this text; `others` are the volumes and networks beside it (`data_volume`)."""
    files = {name.replace("_", "."): parse_unit_file(other) for name, other in others.items()}
    options = translate(file, parse_unit_file(text), files.get)
    check_options(options)
    return without_sources(options)


def container(*lines: str, file: str = "hello.container", **others: str) -> tuple[UnitOption, ...]:
    return convert("\n".join(("[Container]", IMAGE, *lines)) + "\n", file, **others)


def values(options: tuple[UnitOption, ...], key: str, section: str = "Service") -> list[str]:
    return [each.value for each in options if (each.section, each.name) == (section, key)]


def arguments(options: tuple[UnitOption, ...]) -> list[str]:
    """The arguments of `podman run`, as systemd splits them."""
    [command] = values(options, "ExecStart")
    program, verb, *rest = shlex.split(command)
    assert (program, verb) == ("/usr/bin/podman", "run")
    return rest


def has(words: list[str], *wanted: str) -> bool:
    """Whether these words follow each other somewhere."""
    return any(words[at : at + len(wanted)] == list(wanted) for at in range(len(words)))
