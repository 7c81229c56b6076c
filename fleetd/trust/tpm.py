"""Binds a small secret to the TPM of this machine, as an encrypted credential of systemd (systemd-creds(1)): what is on
the disk then opens on this machine alone.

It is bound to the TPM, not to what the machine has booted: an update of firmware or kernel must not lose it.
"""

import subprocess
import threading
from collections.abc import Sequence

COMMAND = ("systemd-creds",)
TIMEOUT_S = 20.0  # a TPM takes up to a second; several processes may have to wait for it
# Registers that the secret is bound to: none. systemd 252 opens no credential without any; for it, register 22, which
# nothing but a measured launch (Intel TXT, AMD SKINIT) changes, and no program can.
_REGISTERS = ("", "22")


class TpmFailed(OSError):
    """The TPM, or systemd-creds, did not do what was asked. The message says why."""


class Tpm:
    """The TPM of this machine. `command` is systemd-creds; a call of it that lasts longer has failed."""

    def __init__(self, command: Sequence[str] = COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._opened: tuple[str, bytes, bytes] | None = None

    def is_there(self) -> bool:
        """True if this machine has a TPM that systemd can use; False, too, where there is no systemd-creds."""
        try:
            self._run(b"", "has-tpm2", "--quiet")
        except TpmFailed:
            return False
        return True

    def bind(self, name: str, value: bytes) -> bytes:
        """The value, bound to the TPM under a name: a credential that `open` has opened. Raises TpmFailed."""
        failures = []
        for registers in _REGISTERS:
            try:
                bound = self._run(value, "encrypt", "--with-key=tpm2", f"--tpm2-pcrs={registers}", f"--name={name}")
                if self.open(name, bound) == value:
                    return bound
                failures.append(f"{self._command[0]} did not give back what it was given")
            except TpmFailed as error:
                failures.append(str(error))
        raise TpmFailed(failures[-1])

    def open(self, name: str, bound: bytes) -> bytes:
        """The value in a credential of this name. What was opened last is not asked of the TPM again. Raises
        TpmFailed."""
        with self._lock:
            if self._opened is None or self._opened[:2] != (name, bound):
                self._opened = (name, bound, self._run(bound, "decrypt", f"--name={name}"))
            return self._opened[2]

    def _run(self, given: bytes, verb: str, *options: str) -> bytes:
        """What systemd-creds writes to its standard output. Neither values nor credentials are among its arguments."""
        files = () if verb == "has-tpm2" else ("-", "-")
        try:
            done = subprocess.run(
                [*self._command, *options, verb, *files],
                input=given,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise TpmFailed(f"{self._command[0]} is not installed") from error
        except OSError as error:
            raise TpmFailed(f"cannot start {self._command[0]}: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise TpmFailed(f"{self._command[0]} did not answer within {self._timeout_s:g} s") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise TpmFailed(said[-1] if said else f"{self._command[0]} {verb} ended with {done.returncode}")
        return done.stdout
