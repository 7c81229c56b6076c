"""Container files for tests with a registry of images (contrib/testbed/registry.py)."""

from contrib.testbed.registry import ContainerRegistry

__all__ = ["EXEC", "ContainerRegistry", "container"]

# Says its version, and ends at once when it is told to.
EXEC = "/bin/sh -c \"cat /version; trap 'exit 0' TERM; sleep infinity & wait\""


def container(image: str, *lines: str, sections: str = "") -> str:
    """A container file for this image, which podman can run on machines of the testbed."""
    options = (f"Image={image}", "Network=none", "PodmanArgs=--cgroups=disabled", f"Exec={EXEC}", *lines)
    return "\n".join(("[Container]", *options)) + "\n" + sections
