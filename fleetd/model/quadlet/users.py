"""Users of a container: who its processes are in it, and how its ids are mapped to those of the machine."""

import re

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.section import Section

_OLD_KEYS = ("RemapUid", "RemapGid", "RemapUsers")  # of the first podman with Quadlet
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


def user_options(container: Section) -> list[str]:
    """The options of podman run about users and ids. Raises InvalidQuadlet."""
    user, group = container.last("User"), container.last("Group")
    if group and not user:
        raise InvalidQuadlet(f"[Container] Group={group} needs User=: add it")
    words = ["--user", f"{user}:{group}" if group else user] if user else []
    mapped = _mapped(container)
    if not mapped:
        return [*words, *_remapped(container)]
    if old := [key for key in _OLD_KEYS if container.has(key)]:
        raise InvalidQuadlet(f"[Container] {old[0]}= does not go with UserNS= and the maps of ids: remove it")
    return [*words, *mapped]


def _mapped(container: Section) -> list[str]:
    words = ["--userns", userns] if (userns := container.last("UserNS")) else []
    for key, option in (("UIDMap", "--uidmap"), ("GIDMap", "--gidmap")):
        words += [word for value in container.plain_words(key) for word in (option, value)]
    for key, option in (("SubUIDMap", "--subuidname"), ("SubGIDMap", "--subgidname")):
        words += [option, value] if (value := container.last(key)) else []
    return words


def _remapped(container: Section) -> list[str]:
    """The same by the older keys."""
    uids, gids = container.plain_words("RemapUid"), container.plain_words("RemapGid")
    kind = container.last("RemapUsers")
    if kind == "manual":
        return [
            word
            for option, values in (("--uidmap", uids), ("--gidmap", gids))
            for value in values
            for word in (option, value)
        ]
    if kind == "auto":
        size = container.last("RemapUidSize")
        if size and not _NUMBER.fullmatch(size):
            raise InvalidQuadlet(f"[Container] RemapUidSize={size} is no number: write one")
        options = [f"uidmapping={value}" for value in uids] + [f"gidmapping={value}" for value in gids]
        return _userns("auto", [*options, *([f"size={int(size)}"] if size and int(size) else [])])
    if kind == "keep-id":
        if len(uids) > 1 or len(gids) > 1:
            raise InvalidQuadlet(
                "[Container] RemapUsers=keep-id takes one RemapUid= and one RemapGid=: remove the others"
            )
        return _userns("keep-id", [f"uid={value}" for value in uids] + [f"gid={value}" for value in gids])
    if kind:
        raise InvalidQuadlet(f"[Container] RemapUsers={kind} is not possible: write UserNS= for what you mean")
    if uids or gids:
        raise InvalidQuadlet(
            f"[Container] {'RemapUid' if uids else 'RemapGid'}= needs RemapUsers=: write "
            f"{'UIDMap' if uids else 'GIDMap'}= instead, which does not"
        )
    return []


def _userns(kind: str, options: list[str]) -> list[str]:
    return ["--userns", f"{kind}:{','.join(options)}" if options else kind]
