"""A machine's root file system: an overlay over the host's, with the files that it has before the first boot.

A machine sees the host's programs, but not the host's configuration and enabled units: those folders are opaque.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SIZE = "1G"  # size of the tmpfs for a machine's writes: a full disk of one machine fills no other
CHECKOUT = Path(__file__).resolve().parents[2]

# The host's configuration is hidden from machines: nothing below these folders is visible there.
OPAQUE = (
    "etc/systemd/system",
    "etc/systemd/network",
    "etc/systemd/user",
    "etc/systemd/journald.conf.d",
    "etc/init.d",
    "etc/tmpfiles.d",
    "etc/fleet",
    "root/.ssh",
    "var/lib/fleet",
)

# Services and timers of the distribution that a test machine does not need. They cost boot time.
MASKED = (
    "console-getty.service",
    "e2scrub_reap.service",
    "getty.target",
    "ldconfig.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-flush.service",
    "systemd-modules-load.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "timers.target",
)

ENABLED = {
    "default.target": "multi-user.target",
    "multi-user.target.wants/systemd-networkd.service": "systemd-networkd.service",
    "sockets.target.wants/systemd-networkd.socket": "systemd-networkd.socket",
    "network-online.target.wants/systemd-networkd-wait-online.service": "systemd-networkd-wait-online.service",
    "multi-user.target.wants/network-online.target": "network-online.target",  # so that a booted machine is reachable
}

FLEET_UNITS = {  # by what starts them, '' for nothing
    "fleet.service": "multi-user.target.wants",
    "fleet.socket": "sockets.target.wants",
    "fleet-credentials.service": "",
    "fleet-credentials.socket": "",
    "fleet-dns.path": "",
    "fleet-dns.service": "",
}

ETCD_UNIT = """\
[Unit]
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
Restart=always
LimitNOFILE=65536
"""

HOST0_NETWORK = """\
[Match]
Name=host0

[Network]
Address={address}/24
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def build(directory: Path, *, machine_id: str, hostname: str, address: str, gateway: str) -> Path:
    """Mount a new root below the directory and prepare it for a first boot. Return its path."""
    root = _mount(directory)
    _write(root / "etc/machine-id", f"{machine_id}\n")
    _write(root / "etc/hostname", f"{hostname}\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n{address} {hostname}\n")
    _write(root / "etc/fstab", "")
    _write(root / "etc/systemd/journald.conf.d/testbed.conf", "[Journal]\nStorage=volatile\n")
    _write(root / "etc/systemd/network/10-host0.network", HOST0_NETWORK.format(address=address, gateway=gateway))
    # tmpfiles would clear /tmp at boot, and this checkout may be bound below it.
    _link(root / "etc/tmpfiles.d/tmp.conf", "/dev/null")
    system = root / "etc/systemd/system"
    for name in MASKED:
        _link(system / name, "/dev/null")
    for name, unit in ENABLED.items():
        _link(system / name, f"/lib/systemd/system/{unit}")
    return root


def install_fleet(root: Path, config: dict[str, str]) -> None:
    """Install fleet as a package does: enabled units, group, configuration, and links to the programs."""
    for program in ("fleetd", "fleetctl", "fleet-credentials", "fleet-dns"):
        target = Path(sys.prefix) / "bin" / program
        assert target.exists(), f"{target} is missing: install this checkout into the environment (contrib/setup)"
        _link(root / "usr/bin" / program, str(target))
    sysusers = (CHECKOUT / "contrib/sysusers.d/fleet.conf").read_text()
    subprocess.run(
        ["systemd-sysusers", f"--root={root}", "-"], input=sysusers, text=True, check=True, capture_output=True
    )
    write_config(root, config)
    system = root / "etc/systemd/system"
    for name, target_wants in FLEET_UNITS.items():
        _write(system / name, (CHECKOUT / "units" / name).read_text())
        if target_wants:
            _link(system / target_wants / name, f"/etc/systemd/system/{name}")
        user_unit = CHECKOUT / "units/user" / name
        if user_unit.exists():
            _write(root / "etc/systemd/user" / name, user_unit.read_text())
    # The programs are in this checkout, perhaps below a home directory or /tmp. A private or protected /proc would hide
    # the machine's own boot id, which nspawn mounts there: a reboot would look like a restart of fleetd.
    settings = (
        "ProtectHome=no",
        "PrivateTmp=no",
        "ProtectProc=default",
        "ProtectKernelTunables=no",
        "ProtectControlGroups=no",
    )
    for name in ("fleet.service", "fleet-credentials.service", "fleet-dns.service"):
        _write(system / f"{name}.d/testbed.conf", "\n".join(("[Service]", *settings, "")))


def disable_fleet(root: Path) -> None:
    """Have the machine start fleet only when it is told to."""
    for target_wants, name in (("multi-user.target.wants", "fleet.service"), ("sockets.target.wants", "fleet.socket")):
        (root / "etc/systemd/system" / target_wants / name).unlink()


def install_etcd(root: Path, name: str, client_url: str, members: Mapping[str, str]) -> None:
    """Have the machine run the member of this name of an etcd cluster, whose `members` are name → peer URL."""
    options = {
        "name": name,
        "data-dir": "/var/lib/etcd",
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": members[name],
        "initial-advertise-peer-urls": members[name],
        "initial-cluster": ",".join(f"{each}={url}" for each, url in members.items()),
    }
    command = " ".join(["/usr/bin/etcd", *(f"--{option}={value}" for option, value in options.items())])
    system = root / "etc/systemd/system"
    _write(system / "etcd.service", ETCD_UNIT.format(command=command))
    _link(system / "multi-user.target.wants/etcd.service", "/etc/systemd/system/etcd.service")


def write_config(root: Path, config: dict[str, str]) -> None:
    _write(root / "etc/fleet/fleet.conf", "".join(f'{key}="{value}"\n' for key, value in config.items()))


def install_ssh(root: Path, public_key: str) -> None:
    """Let root log in with this key."""
    _write(root / "root/.ssh/authorized_keys", public_key, mode=0o600)
    (root / "root/.ssh").chmod(0o700)
    subprocess.run(["ssh-keygen", "-q", "-A", "-f", root], check=True)  # only missing keys
    _link(root / "etc/systemd/system/multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service")


def binds() -> list[str]:
    """The host's folders that a machine needs for nspawn beside its root: an overlay shows one mount alone."""
    paths = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}
    outermost = [path for path in sorted(paths) if not any(other in paths for other in path.parents)]
    return [f"--bind-ro={path}" for path in outermost if not path.is_relative_to("/usr")]


def _mount(directory: Path) -> Path:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755,size={SIZE}", directory.name, directory], check=True)
    upper, work, root = (directory / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir(mode=0o755)
    for name in OPAQUE:
        (upper / name).mkdir(parents=True, exist_ok=True)
        os.setxattr(upper / name, "trusted.overlay.opaque", b"y")
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, directory.name, root], check=True)
    return root


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link that leads out of this root
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
