"""What makes a machine a server: etcd installed and Debian's own kept off, certificates, fleet.conf, the services.

Each step may be repeated; it returns what it has done, in words, '' if there was nothing to do.
"""

import json
import re
import shlex
import time
from collections.abc import Iterable, Mapping

import msgspec

from fleetctl import output
from fleetctl.cluster import layout
from fleetctl.cluster.host import Host
from fleetctl.cluster.package import APT
from fleetctl.errors import CommandFailed
from fleetd.config.config import Config, ConfigError, parse_config
from fleetd.config.file_edit import set_options
from fleetd.model.certificate import Authority
from fleetd.model.ip_address import is_ip_address

STARTED_S = 60.0
POLL_S = 0.5

_APT = shlex.join(APT)
_INSTALL_ETCD = f"""\
systemctl mask --quiet --runtime etcd.service 2>/dev/null
install() {{ {_APT} install --yes --no-install-recommends etcd-server </dev/null; }}
install >/dev/null 2>&1 || {{ {_APT} update >/dev/null; install >/dev/null; }}
status=$?
systemctl unmask --quiet --runtime etcd.service 2>/dev/null
systemctl disable --quiet etcd.service 2>/dev/null
exit $status
"""
_COUNT_KEYS = """\
import json, urllib.request
every = json.dumps({"key": "AA==", "range_end": "AA==", "count_only": True}).encode()
answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:2379/v3/kv/range", every), timeout=5)
print(json.load(answer).get("count", 0))
"""
_HOST_NAME = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.-]{0,250}[0-9A-Za-z])?", re.ASCII)
_AUTHORITY = re.compile(r"authority-[0-9]{1,9}\.pem", re.ASCII)


class FleetConf(msgspec.Struct, frozen=True):
    """A machine's fleet.conf: its text, and what it means."""

    text: str
    config: Config

    @property
    def has_own_etcd(self) -> bool:
        """True if it names other etcd servers than those that are made here, or the default ones."""
        servers = self.config.etcd_servers
        return servers[:1] != (layout.LOCAL_ENDPOINT,) and servers != _DEFAULT.etcd_servers

    @property
    def listen(self) -> str:
        return ",".join(map(str, self.config.listen))

    @property
    def peer_listen(self) -> str:
        return ",".join(map(str, self.config.peer_listen))


_DEFAULT, _ = parse_config("", layout.CONFIG, {}, {})


def read_conf(host: Host) -> FleetConf:
    """The machine's fleet.conf. Raises CommandFailed."""
    text = host.read(layout.CONFIG) or ""
    try:
        config, _ = parse_config(text, layout.CONFIG, {}, {})
    except ConfigError as error:
        raise CommandFailed(f"{host.name}: {error}") from error
    return FleetConf(text, config)


def write_conf(host: Host, options: Mapping[str, str]) -> str:
    """Set options of fleet.conf. Raises CommandFailed."""
    before = read_conf(host).text
    if not host.write(layout.CONFIG, set_options(before, options), mode=0o640):
        return ""
    listed = ", ".join(f"{name}=" for name in options)
    return f"Set {listed} in {layout.CONFIG}"


def install_etcd(host: Host) -> str:
    """Install Debian's etcd-server, whose own service is neither started nor enabled. Raises CommandFailed."""
    if host.has(layout.ETCD_PROGRAM):
        return ""
    done = host.try_to("sh", "-c", _INSTALL_ETCD)
    if done.status or not host.has(layout.ETCD_PROGRAM):
        raise CommandFailed(
            f"{host.name}: etcd-server could not be installed: {done.last_words}. Install it (apt install "
            "etcd-server), and run this command again"
        )
    return "Installed etcd-server; its own etcd.service stays off"


def quiet_other_etcd(host: Host) -> str:
    """Stop and disable Debian's etcd.service, which would take the ports, if it holds nothing. Raises CommandFailed."""
    runs = is_active(host, "etcd.service")
    is_enabled = host.try_to("systemctl", "is-enabled", "--quiet", "etcd.service").status == 0
    if not runs and not is_enabled:
        return ""
    if runs:
        counted = host.try_to("python3", "-c", _COUNT_KEYS)
        if counted.status or counted.output.strip() != "0":
            held = "is in use" if counted.status else f"holds {counted.output.strip()} keys"
            raise CommandFailed(
                f"{host.name}: an etcd {held} here (etcd.service), on the ports that the cluster's needs. If it is "
                f"this cluster's store, set etcd_servers= in {layout.CONFIG} and start fleet first; if nobody needs "
                "it, stop it: systemctl disable --now etcd.service. Then run this command again"
            )
    host.run("systemctl", "disable", "--now", "--quiet", "etcd.service", doing="stop Debian's own etcd.service")
    return "Stopped and disabled etcd.service, Debian's own, which held nothing" if runs else ""


def is_active(host: Host, unit: str) -> bool:
    """True if the unit runs there."""
    return host.try_to("systemctl", "is-active", "--quiet", unit).status == 0


def read_authority(host: Host, certificate_path: str, key_path: str, number: int = 1) -> Authority | None:
    """An authority from its files, None if it is not there. Raises CommandFailed."""
    certificate, key = host.read(certificate_path), host.read(key_path)
    if certificate is None:
        return None
    if key is None:
        raise CommandFailed(f"{host.name}: {certificate_path} has no {key_path} beside it: restore that from a backup")
    return Authority(number, certificate, key)


def read_authorities(host: Host) -> list[Authority]:
    """The authorities of the cluster whose keys are on the machine. Raises CommandFailed."""
    listed = host.try_to("ls", layout.TRUST_DIRECTORY).output.split()
    numbers = sorted(int(name[len("authority-") : -len(".pem")]) for name in listed if _AUTHORITY.fullmatch(name))
    found = (read_authority(host, *layout.authority_files(number), number) for number in numbers)
    return [authority for authority in found if authority is not None]


def write_authority(host: Host, authority: Authority, certificate_path: str, key_path: str) -> None:
    """Write an authority to its files, the certificate last: where it is, the key is, too."""
    host.write(key_path, authority.key, mode=0o600)
    host.write(certificate_path, authority.certificate, mode=0o644)


def write_etcd_certificate(
    host: Host, authority: Authority, machine: str, names: Iterable[str], *, make: bool = False
) -> bool:
    """Give the machine's etcd and fleetd their certificate, for these addresses and names; returns whether it was made.
    One that is there stays unless `make` says otherwise."""
    from fleetd.trust import x509

    present = host.read(layout.ETCD_CERTIFICATE)
    if not make and present and host.has(layout.ETCD_KEY) and x509.is_signed_by(present, authority.certificate):
        return False
    key, request = x509.make_request()
    certificate = x509.sign(
        authority,
        request,
        [f"fleet://machine/{machine}"],
        names=[name for name in dict.fromkeys((*names, "127.0.0.1", "localhost")) if _is_name(name)],
        server=True,
        now_s=time.time(),
        life_s=layout.ETCD_LIFE_S,
    )
    host.write(layout.ETCD_KEY, key, mode=0o600)
    host.write(layout.ETCD_CERTIFICATE, certificate, mode=0o644)
    return True


def _is_name(text: str) -> bool:
    """True if a certificate can have it as an address or a host name."""
    return is_ip_address(text) or _HOST_NAME.fullmatch(text) is not None


def start_etcd(host: Host) -> None:
    """Enable and start fleet-etcd.service. Raises CommandFailed with the end of its log if it does not run."""
    host.run("systemctl", "daemon-reload", doing="reload systemd")
    host.run("systemctl", "enable", "--quiet", "fleet-etcd.service", doing="enable fleet-etcd.service")
    host.try_to("systemctl", "reset-failed", "fleet-etcd.service")  # and forget how often it was restarted
    done = host.try_to("systemctl", "restart", "fleet-etcd.service")
    if done.status:
        raise CommandFailed(f"{host.name}: fleet-etcd.service does not start: {etcd_log(host) or done.last_words}")


def etcd_log(host: Host) -> str:
    """The last error that etcd has logged, '' if there is none."""
    command = ("journalctl", "--unit=fleet-etcd.service", "--lines=30", "--output=cat", "--no-pager")
    said = ""
    for line in host.try_to(*command).output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "panic", "fatal"):
            said = ": ".join(str(entry[key]) for key in ("msg", "error") if entry.get(key))
    return output.printable(said[:500])


def start_fleet(host: Host) -> None:
    """Enable and restart fleet; units keep running. Raises CommandFailed."""
    host.run("systemctl", "enable", "--quiet", "fleet.socket", "fleet.service", doing="enable fleet.service")
    done = host.try_to("sh", "-c", "systemctl start fleet.socket && systemctl restart fleet.service")
    if done.status:
        asked = ("--unit=fleet.service", "SYSLOG_IDENTIFIER=fleetd", "--lines=1", "--output=cat", "--no-pager")
        log = output.printable(host.try_to("journalctl", *asked).output)
        raise CommandFailed(f"{host.name}: fleet.service does not start: {log or done.last_words}")


def reload_fleet(host: Host) -> None:
    """Have fleetd read fleet.conf again. Raises CommandFailed."""
    host.run("systemctl", "reload-or-restart", "fleet.service", doing="reload fleet.service")


def why_unlisted(host: Host, machine: str) -> str:
    """Why the machine's fleetd does not list it, '' if it does."""
    done = host.try_to("fleetctl", "list-machines", "--full", "--no-legend", "--fields=machine")
    if done.status:
        return done.last_words
    return "" if machine in done.output.split() else "it is not in the list of machines"


def wait_listed(host: Host, machine: str) -> None:
    """Wait until the machine's fleetd answers and lists it. Raises CommandFailed."""
    deadline = time.monotonic() + STARTED_S
    while why := why_unlisted(host, machine):
        if time.monotonic() > deadline:
            raise CommandFailed(f"{host.name}: fleet was started, but does not answer within {STARTED_S:g} s: {why}")
        time.sleep(POLL_S)
