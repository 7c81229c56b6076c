"""ContainerRegistry: a registry of images on one machine of a cluster, whose machines are set up for podman."""

from contrib.testbed.cluster import Cluster
from contrib.testbed.machine import Machine

PORT = 5000
_REGISTRY = f"""\
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/containers/registry
http:
  addr: :{PORT}
"""
# Machines of the testbed have neither an overlay file system nor cgroups of their own for containers, so podman runs
# without the option that units have for that. What names the Docker Hub finds the registry instead.
_PODMAN = """\
set -e
mkdir -p /var/lib/containers /etc/containers/registries.conf.d
mountpoint -q /var/lib/containers || mount -t tmpfs tmpfs /var/lib/containers
echo "tmpfs /var/lib/containers tmpfs defaults" > /etc/fstab  # after a reboot
printf '[containers]\\nkeyring=false\\ncgroups="disabled"\\n' > /etc/containers/containers.conf
cat > /etc/containers/registries.conf.d/fleet.conf <<END
[[registry]]
location="$1"
insecure=true
[[registry]]
prefix="docker.io"
location="$1"
insecure=true
END
[ -e /usr/lib/podman/podman ] || cp /usr/bin/podman /usr/lib/podman/podman
rm /usr/bin/podman
cat > /usr/bin/podman <<'END'
#!/bin/bash
exec /usr/lib/podman/podman "${@/#--cgroups=split/--cgroups=disabled}"
END
chmod 755 /usr/bin/podman
"""
_LOGIN = """\
auth:
  htpasswd:
    realm: testbed
    path: /run/registry.users
"""
_HASH_OF_SECRET = "$2b$04$o6csSdDmroMM6cOzXM/Xl.8iNlpcsZAS9MWaZuRRDx5Ts7FDWSIie"
_PUSH = """\
set -e
rm -rf /run/image && mkdir -p /run/image/bin /run/image/tmp
cp /usr/bin/busybox /run/image/bin/busybox
for name in sh sleep cat httpd; do ln -s busybox /run/image/bin/$name; done
echo "$2" > /run/image/version
tar -C /run/image -c . | podman import -q ${3:+--arch="$3"} - "$1" >/dev/null
podman push -q "$1"
podman rmi "$1" >/dev/null
"""


class ContainerRegistry:
    """A registry on `machine`; all machines of the cluster can pull from it."""

    def __init__(self, cluster: Cluster, machine: Machine) -> None:
        self._machine = machine
        self.location = f"{machine.address}:{PORT}"
        for each in cluster.machines:
            self.prepare(each)
        machine.run(["sh", "-c", "cat > /run/registry.yml"], stdin=_REGISTRY)
        self._cluster = cluster
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        serve = ["docker-registry", "serve", "/run/registry.yml"]
        self._machine.run(["systemd-run", "--quiet", "--collect", "--unit=registry", *serve])
        self._cluster.wait_until("the registry answers", self._answers)

    def stop(self) -> None:
        """Stop it. It keeps its images."""
        self._machine.run(["systemctl", "stop", "registry.service"])

    def prepare(self, machine: Machine) -> None:
        """Set up podman on a machine that has booted for the first time."""
        machine.run(["sh", "-c", _PODMAN, "sh", self.location])

    def freeze(self, *, thaw: bool = False) -> None:
        """Have it answer nothing, or go on."""
        signal = "--signal=CONT" if thaw else "--signal=STOP"
        self._machine.run(["systemctl", "kill", signal, "registry.service"])

    def require_login(self) -> None:
        """Answer from now on only who logs in as `ann` with the password `secret`."""
        self.stop()
        self._machine.run(["sh", "-c", "cat > /run/registry.users"], stdin=f"ann:{_HASH_OF_SECRET}\n")
        self._machine.run(["sh", "-c", "cat >> /run/registry.yml"], stdin=_LOGIN)
        self.start()

    def log_in(self, machine: Machine, path: str) -> None:
        """Write the login into this file of a machine."""
        login = ["podman", "login", f"--authfile={path}", "--username=ann", "--password-stdin", self.location]
        machine.run(login, stdin="secret")

    def push(self, name: str, version: str, arch: str = "") -> str:
        """Make an image with busybox that holds this version, under this name and tag, and says that it is for an
        architecture ('': the machine's). Returns what a container names."""
        image = f"{self.location}/{name}"
        self._machine.run(["sh", "-c", _PUSH, "sh", image, version, arch])
        return image

    def _answers(self) -> bool:
        asked = self._machine.run(["busybox", "wget", "-q", "-O", "-", f"http://{self.location}/v2/"], check=False)
        return asked.returncode == 0 or "401" in asked.stderr
