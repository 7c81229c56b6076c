"""A TPM in software (swtpm), for the real systemd-creds.

`software_tpm.py FOLDER ARGUMENTS…` runs systemd-creds with the TPM whose memory is in this folder, which is switched on
for that and off again. Another folder is another TPM, one that is not there no TPM.
"""

import ctypes
import fcntl
import os
import pty
import subprocess
import sys
import tty
from contextlib import suppress
from pathlib import Path

SHUTDOWN = bytes.fromhex("8001 0000000c 00000145 0000")  # TPM2_Shutdown(CLEAR); without, a TPM suspects an attack
ANSWER_BYTES = 10
NO_TPM = 11  # of `systemd-creds has-tpm2`


def command(folder: Path) -> tuple[str, ...]:
    """What is systemd-creds on a machine with this TPM."""
    return (sys.executable, __file__, str(folder))


def missing() -> list[str]:
    """What is not installed of what a TPM in software needs."""
    found = []
    with suppress(OSError):
        found.append(ctypes.CDLL("libtss2-esys.so.0"))
    lacking = [] if found else ["libtss2-esys is not installed"]
    for program in ("swtpm", "systemd-creds"):
        if not any((Path(folder) / program).exists() for folder in os.get_exec_path()):
            lacking.append(f"{program} is not installed")
    return lacking


def main(folder: Path, arguments: list[str]) -> int:
    """Returns the exit status of systemd-creds."""
    if "has-tpm2" in arguments:
        return 0 if folder.is_dir() else NO_TPM
    ours, device = pty.openpty()
    tty.setraw(device)
    with open(folder / "in-use", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["--tpm2", "--tpmstate", f"dir={folder}", "--fd", str(ours), "--flags", "not-need-init,startup-clear"]
        with subprocess.Popen(["swtpm", "chardev", *options], pass_fds=[ours]) as tpm:
            environment = {**os.environ, "SYSTEMD_TPM2_DEVICE": os.ttyname(device)}
            done = subprocess.run(["systemd-creds", *arguments], env=environment, check=False)
            os.write(device, SHUTDOWN)
            os.read(device, ANSWER_BYTES)
            tpm.terminate()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
