"""What a server has recorded of a machine that joined with a token."""

import msgspec

from fleetd.model.decoding import FORMAT


class MachineIdentity(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """A machine that joined. Stored under `trust/machines/<machine>` until it is removed.

    What the machine says of itself later does not change `role` (certificate.ROLES), `address`, `metadata` and
    `host_keys` (of its SSH server, as `KIND BASE64`). `by` is who made its token, and `joined_at_s` the Unix time at
    which it joined.
    """

    role: str
    address: str = ""
    metadata: dict[str, str] = {}
    host_keys: tuple[str, ...] = ()
    joined_at_s: float = 0.0
    by: str = ""
