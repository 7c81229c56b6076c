"""Text files made of what units announce: rendered with Jinja2, and put in place of the former one."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleetctl import output
from fleetctl.errors import CommandFailed, cause_of
from fleetd.api import schema
from fleetd.model.announcement import refuse_service_name
from fleetd.model.machine import is_address
from fleetd.model.names import InvalidName, validate_name
from fleetd.small_files import replace_file

if TYPE_CHECKING:
    import jinja2

COMMAND_TIMEOUT_S = 60.0
MOST_BYTES = 16 * 1024 * 1024
LOWEST_JINJA = "3.1"  # as in pyproject.toml
HOW_TO_INSTALL = (
    "template needs the library Jinja2, which is not installed (fleet's extra `template`): "
    f"{sys.executable} -m pip install 'jinja2>={LOWEST_JINJA}'"
)
_STDERR = 2
_STATUSES = {126: ": it may not be run", 127: ": there is no such command"}  # of the shell's own
_SERVICE = f"'{schema.Service.__module__}.Service object'"  # what Jinja2 calls one
_LOCALS = "Template.render.<locals>."
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
            import jinja2.sandbox
        except ModuleNotFoundError as error:
            if error.name not in ("jinja2", "markupsafe"):
                raise
            raise CommandFailed(HOW_TO_INSTALL) from error
        self.path = path
        # In the sandbox no loop is longer than 100,000 rounds, so that a slip does not fill the memory.
        self._environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(path.parent),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def check(self) -> None:
        """Raises CommandFailed if the file cannot be read, or is no template."""
        self._compile()

    def render(self, services: Mapping[str, Sequence[schema.Service]]) -> str:
        """The text. `services` has the units by the name that they announce; of one that none announces, service(NAME)
        is empty. Raises CommandFailed, which names the file, the line and the cause."""
        import jinja2

        def service(name: str) -> Sequence[schema.Service]:
            return services.get(name, ())

        template = self._compile()
        parts, size = [], 0
        try:
            for part in template.generate(services=services, service=service):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise ValueError(f"its text would be longer than {MOST_BYTES // 2**20} MiB")
        except jinja2.TemplateNotFound as error:
            path = self.path.parent / (error.name or "")
            raise CommandFailed(f"{path}: there is no such file, or it cannot be read") from error
        except jinja2.TemplateSyntaxError as error:  # of a file that is included
            raise CommandFailed(f"{error.filename or self.path}:{error.lineno}: {error.message}") from error
        except Exception as error:  # whatever it is, the template has asked for it
            cause = str(error).replace(_SERVICE, "a service").replace(_LOCALS, "") or type(error).__name__
            raise CommandFailed(f"{self.path}{self._line_of(error)}: {cause}") from error
        return "".join(parts)

    def _compile(self) -> "jinja2.Template":
        """Raises CommandFailed, which names the file, the line and the cause."""
        import jinja2

        try:
            self.path.read_bytes()  # says why it cannot be read, where Jinja2 finds no template
            return self._environment.get_template(self.path.name)
        except OSError as error:
            raise CommandFailed(f"cannot read the template {self.path}: {cause_of(error)}") from error
        except UnicodeDecodeError as error:
            raise CommandFailed(f"{self.path}: it is no text in UTF-8") from error
        except jinja2.TemplateSyntaxError as error:
            raise CommandFailed(f"{self.path}:{error.lineno}: {error.message}") from error

    def _line_of(self, error: BaseException) -> str:
        """Where in the template an error is: `:LINE`, '' if that is not known."""
        found, at = "", error.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename == os.fspath(self.path):
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

    def check(self, template: Path) -> None:
        """Raises CommandFailed if it is plain already that the file cannot be written, or is the template."""
        folder = self._path.resolve().parent
        if not folder.is_dir():
            raise CommandFailed(f"cannot write {self._path}: there is no folder {folder}")
        if self._path.exists() and self._path.samefile(template):
            raise CommandFailed(f"{self._path} is the template itself: name another file to write")
        self._read()

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
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                raise CommandFailed(f"cannot delete {self._path}: {cause_of(error)}") from error


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
    if not done.returncode:
        return ""
    return f"ended with status {done.returncode}" + _STATUSES.get(done.returncode, "")
