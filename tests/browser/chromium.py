"""Starts Chromium without netlink, of which it learns that interfaces of this machine come and go: it then gives up its
requests, even those to this machine (ERR_NETWORK_CHANGED), and other tests boot machines meanwhile.

`python chromium.py PROGRAM ARGUMENT…` becomes the program.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from pathlib import Path

_SOCKET = {"x86_64": 41, "aarch64": 198}  # numbers of the system call
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl(2)
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of the filter's machine
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def launcher(program: str, folder: Path) -> Path:
    """An executable file in this folder that starts the program so."""
    path = folder / "chromium"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {program} "$@"\n')
    path.chmod(0o755)
    return path


def refuse_netlink(number: int) -> None:
    """Have socket(2), the system call of this number, fail for netlink in this process and in those that it starts."""
    steps = [
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_IF_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, 16),  # its first argument
        (_JUMP_IF_EQUAL, 0, 1, socket.AF_NETLINK),
        (_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(described), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    if platform.machine() in _SOCKET:
        refuse_netlink(_SOCKET[platform.machine()])
    os.execv(sys.argv[1], sys.argv[1:])
