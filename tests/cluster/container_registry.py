"""ContainerRegistry: a registry of images on one machine of a cluster, whose machines are set up for podman."""

from contrib.testbed import Cluster, Machine

PORT = 5000
_REGISTRY = f"""\
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/containers/registry
http:
  addr: :{PORT}
"""
# Machines of the testbed have neither an overlay file system nor cgroups of their own for containers.
_PODMAN = """\
set -e
mkdir -p /var/lib/containers /etc/containers/registries.conf.d
mountpoint -q /var/lib/containers || mount -t tmpfs tmpfs /var/lib/containers
printf '[containers]\\nkeyring=false\\ncgroups="disabled"\\n' > /etc/containers/containers.conf
printf '[[registry]]\\nlocation="%s"\\ninsecure=true\\n' "$1" > /etc/containers/registries.conf.d/fleet.conf
"""
_PUSH = """\
set -e
rm -rf /run/image && mkdir -p /run/image/bin
cp /usr/bin/busybox /run/image/bin/busybox
for name in sh sleep cat; do ln -s busybox /run/image/bin/$name; done
echo "$2" > /run/image/version
tar -C /run/image -c . | podman import -q - "$1" >/dev/null
podman push -q "$1"
podman rmi "$1" >/dev/null
"""
# Says its version, and ends at once when it is told to.
EXEC = "/bin/sh -c \"cat /version; trap 'exit 0' TERM; sleep infinity & wait\""


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
        """Set up podman on a machine that has booted."""
        machine.run(["sh", "-c", _PODMAN, "sh", self.location])

    def push(self, name: str, version: str) -> str:
        """Make an image that holds this version, under this name and tag. Returns what a container names."""
        image = f"{self.location}/{name}"
        self._machine.run(["sh", "-c", _PUSH, "sh", image, version])
        return image

    def _answers(self) -> bool:
        asked = self._machine.run(["busybox", "wget", "-q", "-O", "-", f"http://{self.location}/v2/"], check=False)
        return asked.returncode == 0


def container(image: str, *lines: str, sections: str = "") -> str:
    """A container file for this image, which podman can run on machines of the testbed."""
    options = (f"Image={image}", "Network=none", "PodmanArgs=--cgroups=disabled", f"Exec={EXEC}", *lines)
    return "\n".join(("[Container]", *options)) + "\n" + sections
