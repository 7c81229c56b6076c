"""Remove a testbed by its name: processes, links, mounts, cgroups, the folder.

It needs no state of the run, so it works at a run's end and after a run that was killed.
"""

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

END_TIMEOUT_S = 10.0
PROGRAMS = (b"systemd-nspawn", b"etcd")


def sweep(name: str, directory: Path) -> None:
    """Remove everything with the testbed's name. What is gone already is no error."""
    kill_processes(_processes_of(directory))
    for link in [*_links_of(name), name]:
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    for mount in _mounts_under(directory):
        subprocess.run(["umount", "--recursive", "--lazy", mount], check=False, capture_output=True)
    for group in control_groups(name):
        remove_control_group(group)
    if directory.exists():
        shutil.rmtree(directory)


def kill_processes(pids: list[int]) -> None:
    """Send SIGKILL to the processes and wait until they are gone. A container ends with its first process."""
    descriptors = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        descriptors.append(descriptor)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    for descriptor in descriptors:
        # Readable means ended; only its parent can reap it.
        select.select([descriptor], [], [], END_TIMEOUT_S)
        os.close(descriptor)


def control_groups(name: str) -> list[Path]:
    """The cgroups that the testbed made for machines, in every hierarchy that systemd in a container uses."""
    return [group for root in control_group_roots() for group in sorted(root.glob(f"{name}-*"))]


def control_group_roots() -> list[Path]:
    """The mount points of cgroup v2 and of systemd's v1 hierarchy, those that exist."""
    roots = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(target))
    return roots


def remove_control_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def _processes_of(directory: Path) -> list[int]:
    """The testbed's own programs, started with a path below the folder, each followed by its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or _read_or_nothing(entry / "comm").strip() not in PROGRAMS:
            continue
        if f"{directory}/".encode() in _read_or_nothing(entry / "cmdline"):
            found += [int(entry.name), *_children_of(entry)]
    return found


def _children_of(process: Path) -> list[int]:
    return [int(pid) for task in process.glob("task/*") for pid in _read_or_nothing(task / "children").split()]


def _read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a process may end at any moment
        return b""


def _links_of(name: str) -> list[str]:
    return [link.name for link in sorted(Path("/sys/class/net").glob(f"vb-{name}-*"))]


def _mounts_under(directory: Path) -> list[str]:
    """Mount points at and below the folder, the last mounted first."""
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [target for target in reversed(targets) if Path(target).is_relative_to(directory)]
