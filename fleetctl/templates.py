"""Text files made of what units announce: rendered with Jinja2, and put in place of the former one."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleetctl import output
from fleetctl.errors import CommandFailed, cause_of
from fleetd.api import schema
from fleetd.model.announcement import refuse_service_name
from fleetd.model.machine import is_address
from fleetd.model.names import InvalidName, validate_name
from fleetd.small_files import replace_file

COMMAND_TIMEOUT_S = 60.0
MOST_BYTES = 16 * 1024 * 1024
LOWEST_JINJA = "3.1"  # as in pyproject.toml
HOW_TO_INSTALL = (
    "template needs the library Jinja2, which is not installed (fleet's extra `template`): "
    f"{sys.executable} -m pip install 'jinja2>={LOWEST_JINJA}'"
)
_STDERR = 2
_WORD = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)


def usable(services: Sequence[schema.Service]) -> dict[str, list[schema.Service]]:
    """The services that pass, by name, in the order told. What could be more than a word in a configuration is left
    out: root of any machine of the cluster has a say in what is announced there."""
    found: dict[str, list[schema.Service]] = {}
    for service in services:
        if not service.failing and _is_plain(service):
            found.setdefault(service.service, []).append(service)
    return found


def _is_plain(service: schema.Service) -> bool:
    try:
        validate_name(service.unit)
    except InvalidName:
        return False
    return (
        not refuse_service_name(service.service)
        and is_address(service.address)
        and all(map(_WORD.fullmatch, (service.machine, service.protocol, service.zone)))
    )


class Template:
    """A template in a file, which may include others of its folder."""

    def __init__(self, path: Path) -> None:
        """Raises CommandFailed if Jinja2 is not installed."""
        try:
            import jinja2
        except ModuleNotFoundError as error:
            if error.name not in ("jinja2", "markupsafe"):
                raise
            raise CommandFailed(HOW_TO_INSTALL) from error
        self._path = path
        self._errors = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError)
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(path.parent),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # noqa: S701 (it makes no pages)
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def render(self, services: Mapping[str, Sequence[schema.Service]]) -> str:
        """The text. `services` has the units by the name that they announce; of one that none announces, service(NAME)
        is empty. Raises CommandFailed, which names the file, the line and the cause."""
        import jinja2

        try:
            template = self._environment.get_template(self._path.name)
            return template.render(services=services, service=lambda name: services.get(name, ()))
        except jinja2.TemplateNotFound as error:
            path = self._path.parent / (error.name or "")
            raise CommandFailed(f"{path}: there is no such file, or it cannot be read") from error
        except jinja2.TemplateSyntaxError as error:
            raise CommandFailed(f"{error.filename or self._path}:{error.lineno}: {error.message}") from error
        except OSError as error:
            raise CommandFailed(f"{self._path}: {cause_of(error)}") from error
        except self._errors as error:
            raise CommandFailed(f"{self._path}{self._line_of(error)}: {error}") from error

    def _line_of(self, error: BaseException) -> str:
        """Where in the template an error is: `:LINE`, '' if that is not known."""
        found, at = "", error.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename == os.fspath(self._path):
                found = f":{at.tb_lineno}"
            at = at.tb_next
        return found


class Target:
    """The file that a template is rendered into."""

    def __init__(self, path: Path, check: str, run: str) -> None:
        """`check` and `run` are commands for the shell, '' for none."""
        self._path = path
        self._check = check
        self._run = run
        self._is_to_run = False  # also after a failure: it is tried again

    def write(self, text: str) -> None:
        """Put the text there if it is another, have it checked, and then used. If the check fails, what was there is
        put back. Raises CommandFailed."""
        before = self._read()
        if before is None or before[0] != text.encode():
            self._replace(text.encode(), before)
            if self._check and (failure := execute(self._check)):
                self._put_back(before)
                raise CommandFailed(f"{self._path} is as it was: the check {self._check!r} {failure}")
            self._is_to_run = True
            output.note(f"{self._path} was written")
        if self._is_to_run and self._run and (failure := execute(self._run)):
            raise CommandFailed(f"{self._path} was written, but {self._run!r} {failure}")
        self._is_to_run = False

    def _read(self) -> tuple[bytes, os.stat_result] | None:
        try:
            with open(self._path, "rb") as file:
                return file.read(MOST_BYTES), os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandFailed(f"cannot read {self._path}: {cause_of(error)}") from error

    def _replace(self, content: bytes, like: tuple[bytes, os.stat_result] | None) -> None:
        """Raises CommandFailed; what was there is there, then."""
        try:
            path = self._path.resolve()  # a link stays one
            replace_file(path, content, for_all=like is None, like=like[1] if like else None)
        except OSError as error:
            raise CommandFailed(f"cannot write {self._path}: {cause_of(error)}") from error

    def _put_back(self, before: tuple[bytes, os.stat_result] | None) -> None:
        if before is not None:
            self._replace(before[0], before)
        else:
            self._path.unlink(missing_ok=True)


def execute(command: str) -> str:
    """Run a command in a shell, with its output where fleetctl's errors go. Returns how it has failed, '' if not."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=_STDERR, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"has not ended within {COMMAND_TIMEOUT_S:g} s"
    except OSError as error:
        return f"cannot be run: {cause_of(error)}"
    return f"ended with status {done.returncode}" if done.returncode else ""
