"""What the daemon asks of the process that seals (sealing.py), as JSON on its standard input and output."""

import msgspec


class MakeKey(msgspec.Struct, tag="make-key", frozen=True):
    """Make a seal key, unless there is one, in this file or bound to the TPM; and bind it to the TPM if there is one.
    Answer: its public half, which is kept beside it as well."""

    path: str


class Encrypt(msgspec.Struct, tag="encrypt", frozen=True):
    """Encrypt a value, and seal its key to these public keys, each in base64."""

    name: str
    version: int
    value: bytes
    recipients: tuple[str, ...]


class Share(msgspec.Struct, frozen=True):
    """Seal the key of one version, which is sealed to this machine, to further public keys."""

    name: str
    version: int
    key: bytes
    recipients: tuple[str, ...]


class ShareAll(msgspec.Struct, tag="share", frozen=True):
    """All of these, with this machine's key in the file `path`."""

    path: str
    items: tuple[Share, ...]


Request = MakeKey | Encrypt | ShareAll


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer: `public` of MakeKey, in base64, whether it is bound to the TPM, and a warning; `box` and `keys` (by
    public key) of Encrypt; `keys` of a Share. `error` says why there is none."""

    public: str = ""
    bound: bool = False
    warning: str = ""
    box: bytes = b""
    keys: dict[str, bytes] = {}
    error: str = ""


class Answer(msgspec.Struct, frozen=True):
    """One answer for each part of the request."""

    sealed: tuple[Sealed, ...]
