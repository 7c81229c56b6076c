"""Every unit file of the corpus is read as CoreOS fleet reads it, but for the differences listed here.

The corpus (unit files of users, synthetic hard cases, and CoreOS fleet's results) is not in the repository: it is
searched in `shared/corpus` beside the checkout. Without it these tests are skipped.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetd.model.constraints import (
    InvalidRequirements,
    parse_requirements,
    requirement_values,
    unknown_requirements,
    validate_requirements,
)
from fleetd.model.names import InvalidName, UnitName, expand_specifiers, parse_name, validate_name, with_default_suffix
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import (
    UnitFileError,
    check_options,
    decode_unit_file,
    first_value,
    hash_unit_file,
    parse_unit_file,
    render_unit_file,
)

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

if not CORPUS.is_dir():
    pytest.skip("no corpus: there is no shared/corpus beside the checkout", allow_module_level=True)


# Entries of expected.json that are no results, and the alternatives that agrees() looks up itself.
ABOUT_THE_FILE = {"file", "file_sha256", "file_bytes", "source", "err_any_of", "options_err_any_of"}
REQUIREMENT_FIELDS = (
    "requirements", "conflicts", "peers", "replaces", "metadata", "global", "has_machine_id", "machine_id"
)  # fmt: skip


class Difference(msgspec.Struct, frozen=True):
    """Fields in which we differ from CoreOS fleet for one file, with our values, and why."""

    ours: dict[str, Any]
    why: str


JOINED = (
    "a continued line is joined before it is taken apart, as systemd does; a backslash names no unit and no machine"
)
TEXT_SHOWN = "the original leaves the section's name out and prints the text as a list of byte values"
ANY_LENGTH = "a line may be as long as systemd takes it; the original's 2,048 bytes hit real ExecStart= lines"
COMMENT = "a comment ends with its line, and does not end a value, as systemd.syntax(7) says"
EVERY_TYPE = "a name that ends in any type of units is complete: else a target could not be named to fleetctl"
ONE_LIMIT = "contents are kept in a store with bounded requests"
NO_NUL = "systemd ends a line at a NUL byte: what it would run is not what was read"
ONLY_UTF8 = "contents travel as JSON, whose strings cannot hold these bytes: they would not arrive as they were sent"
WORDS = "a pattern with a blank in it can match no unit name: Replaces is parted at blanks as Conflicts is"
NO_NAME = "without a dot it is no name, so there is nothing to put in a specifier's place: we refuse earlier"

READ = {"error": None}
A_TYPE = {"recognized_type": True}

DIFFERENCES = {
    "edge/big-1mib-options.service": Difference(
        {
            "error": "the unit file has 1102076 bytes, and at most 262144 are allowed: "
            "move what is large into a file of its own"
        },
        ONE_LIMIT,
    ),
    "edge/comment-backslash.service": Difference(
        {
            "description": "lost",
            "hash": "ff788a4264cdf4c31198425bae2916d72ae060ca",
            "options": [
                ["Unit", "Description", "lost"],
                ["Unit", "After", "kept"],
                ["Unit", "Before", "lost?"],
                ["X-Fleet", "Global", "true"],
            ],
            "options_count": 4,
            "options_sha256": "588d9075eb4ab02e406573ee52a05edc6423cd261cb22302650baba127944699",
            "reserialized_hash": "ff788a4264cdf4c31198425bae2916d72ae060ca",
        },
        COMMENT,
    ),
    "edge/cont-eof.service": Difference({"requirements": {"MachineOf": ["a.service"]}, "peers": ["a.service"]}, JOINED),
    "edge/cont-hash-comment.service": Difference(
        {
            "hash": "00e107d9615b3aafc1ce4b58efad40b1acd654a2",
            "options": [["Service", "ExecStart", "/bin/x \\\n  --flag"], ["X-Fleet", "Global", "true"]],
            "options_sha256": "71252d195c0335f85804afbbbb53217356018bade817928fd3c8efbe72f3f311",
            "reserialized_hash": "00e107d9615b3aafc1ce4b58efad40b1acd654a2",
        },
        COMMENT,
    ),
    "edge/cont-only-backslash.service": Difference(
        {"requirements": {"Conflicts": ["a*"]}, "conflicts": ["a*"]},
        JOINED,
    ),
    "edge/cont-simple.service": Difference(
        {"requirements": {"Conflicts": ["a* b* c*"]}, "conflicts": ["a*", "b*", "c*"]},
        JOINED,
    ),
    "edge/cr-only.service": Difference(
        {"error": r"found garbage after section name 'Unit': 'Description=x\r[X-Fleet]\rGlobal=true'"},
        TEXT_SHOWN,
    ),
    "edge/edge-target@.target": Difference(
        {
            "as_instance": {
                "conflicts": [],
                "global": False,
                "has_machine_id": False,
                "instance": "1",
                "is_instance": True,
                "is_template": False,
                "machine_id": "",
                "metadata": {"a": ["1"]},
                "name": "edge-target@1.target",
                "name_err": "",
                "peers": [],
                "prefix": "edge-target",
                "recognized_type": True,
                "replaces": [],
                "requirements": {"MachineMetadata": ["a=1"]},
                "template": "edge-target@.target",
            },
            "recognized_type": True,
        },
        EVERY_TYPE,
    ),
    "edge/line-2048-first.service": Difference(READ, ANY_LENGTH),
    "edge/line-3000-at-1500.service": Difference(READ, ANY_LENGTH),
    "edge/line-3000-first.service": Difference(READ, ANY_LENGTH),
    "edge/line-blanks-3000.service": Difference(READ, ANY_LENGTH),
    "edge/line-long-comment.service": Difference(READ, ANY_LENGTH),
    "units/coreos__fleet/local.target": Difference(A_TYPE, EVERY_TYPE),
    "units/coreos__init/8f11fe0/coreos-startup.target": Difference(A_TYPE, EVERY_TYPE),
    "units/coreos__init/coreos-startup.target": Difference(A_TYPE, EVERY_TYPE),
    "edge/meta-continued.service": Difference(
        {"requirements": {"MachineMetadata": ["a=1", "b=2", "c=3"]}},
        JOINED,
    ),
    "edge/nosuffix": Difference(dict.fromkeys(REQUIREMENT_FIELDS), NO_NAME),
    "edge/nul-value.service": Difference(
        {"error": "NUL byte at offset 20 (line 2) of the unit file: remove it"},
        NO_NUL,
    ),
    "edge/quoted-replaces.service": Difference(
        {"replaces": ["a.service", "b.service", "c.service", "d.service"]},
        WORDS,
    ),
    "edge/section-garbage.service": Difference(
        {"error": "found garbage after section name 'Unit': 'junk'"},
        TEXT_SHOWN,
    ),
    "edge/utf8-invalid-edges.service": Difference(
        {"error": "byte 0x85 at offset 19 (line 2) of the unit file is not UTF-8: save the file in UTF-8"},
        ONLY_UTF8,
    ),
    "edge/utf8-invalid-value.service": Difference(
        {"error": "byte 0xff at offset 20 (line 2) of the unit file is not UTF-8: save the file in UTF-8"},
        ONLY_UTF8,
    ),
}


def observe_unit(name: UnitName, options: tuple[UnitOption, ...]) -> dict[str, Any]:
    """Our reading of a content under a name, in the form of expected.json."""
    requirements = parse_requirements(options, name)
    return {
        "name": name.full,
        "prefix": name.prefix,
        "instance": name.instance,
        "template": name.template,
        "is_template": name.is_template,
        "is_instance": name.is_instance,
        "recognized_type": with_default_suffix(name.full) == name.full,
        "name_err": message_of(validate_name, name.full),
        "requirements": {
            key: [expand_specifiers(item, name) for item in items] for key, items in requirement_values(options).items()
        },
        "conflicts": list(requirements.conflicts),
        "peers": list(requirements.machine_of),
        "replaces": list(requirements.replaces),
        "metadata": {key: sorted(alternatives) for key, alternatives in requirements.metadata},
        "global": requirements.is_global,
        "has_machine_id": requirements.machine_id is not None,
        "machine_id": requirements.machine_id or "",
    }


def message_of(check: Any, subject: Any) -> str:
    """The error that a check raises for its subject; '' without one."""
    try:
        check(subject)
    except (InvalidName, InvalidRequirements, UnitFileError) as error:
        return str(error)
    return ""


def observe_content(options: tuple[UnitOption, ...]) -> dict[str, Any]:
    """Our reading of a content whatever its name."""
    text = render_unit_file(options)
    unknown = unknown_requirements(options)
    listed = "".join(f"{part}\0" for option in options for part in msgspec.structs.astuple(option))
    return {
        "hash": hash_unit_file(text),
        "description": first_value(options, "Unit", "Description") or "",
        "options_count": len(options),
        "options_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        "options": [list(msgspec.structs.astuple(option)) for option in options],
        "valid": not unknown,
        "err": f'unrecognized requirement in [X-Fleet] section: "{unknown[0]}"' if unknown else "",
        "options_err": message_of(check_options, options) or message_of(validate_requirements, options),
        "reserialized_hash": hash_unit_file(render_unit_file(parse_unit_file(text))),
    }


def observe_file(path: Path) -> dict[str, Any]:
    """Our value for each field that expected.json has of a file."""
    try:
        options = parse_unit_file(decode_unit_file(path.read_bytes()))
    except UnitFileError as error:
        return {"error": str(error), "valid": False, "accepted": False}
    seen = observe_content(options)
    try:
        name = parse_name(path.name)
    except InvalidName as error:
        no_parts = {"recognized_type": False, "is_template": False, "is_instance": False}
        return seen | no_parts | {"name": path.name, "name_err": str(error), "accepted": False}
    seen |= observe_unit(name, options)
    seen["accepted"] = seen["valid"] and not seen["options_err"] and not seen["name_err"]
    if name.is_template:
        seen["as_instance"] = observe_unit(parse_name(f"{name.prefix}@1.{name.suffix}"), options)
    return seen


def differences(seen: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The fields in which we differ from CoreOS fleet. If only one of the two reads the file, the error alone."""
    if "error" in seen or "error" in expected:
        return {} if seen.get("error") == expected.get("error") else {"error": seen.get("error")}
    fields = [field for field in expected if field not in ABOUT_THE_FILE]
    return {field: seen.get(field) for field in fields if not agrees(field, seen.get(field), expected)}


def agrees(field: str, value: Any, expected: dict[str, Any]) -> bool:
    if f"{field}_any_of" in expected:
        return value in expected[f"{field}_any_of"]
    if field == "as_instance":
        return not differences(value, expected[field])
    if field == "options" and expected[field] is None:  # left out because of its size: options_sha256 stands for them
        return expected["file_bytes"] > 100_000
    return bool(value == expected[field])


EXPECTED = json.loads((CORPUS / "expected.json").read_bytes())


def test_every_file_of_the_corpus_has_its_entry():
    found = {path for folder in ("edge", "units") for path in (CORPUS / folder).rglob("*") if path.is_file()}
    assert found == {CORPUS / entry["file"] for entry in EXPECTED}
    assert len(EXPECTED) >= 423


@pytest.mark.covers("10.4.2")
@pytest.mark.parametrize("entry", EXPECTED, ids=lambda entry: entry["file"])
def test_a_file_is_read_as_coreos_fleet_reads_it_but_for_differences(entry):
    path = CORPUS / entry["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["file_sha256"]
    listed = DIFFERENCES.get(entry["file"])
    assert differences(observe_file(path), entry) == (listed.ours if listed else {}), listed and listed.why


def test_every_listed_difference_is_of_an_existing_file():
    assert set(DIFFERENCES) <= {entry["file"] for entry in EXPECTED}
