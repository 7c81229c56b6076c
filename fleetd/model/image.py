"""References to images of containers: which a registry can be asked about, and the same image by its digest."""

import re

MAX_CHARACTERS = 512

_REFERENCE = re.compile(
    r"""
    (?P<repository>
      (?: [A-Za-z0-9-]+ (?: [.] [A-Za-z0-9-]+ )+ (?: : [0-9]{1,5} )?  # a registry has a dot in its name, or a port
        | [A-Za-z0-9-]+ : [0-9]{1,5} )
      (?: / [a-z0-9]+ (?: [._-]+ [a-z0-9]+ )* )+
    )
    (?: : [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127} )?
    """,
    re.VERBOSE | re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# Of these, skopeo repeats what somebody has answered that need not be a registry.
_NO_REGISTRY = re.compile(r"response body|auth token|invalid character|status code", re.IGNORECASE)
_REFUSALS = (
    (re.compile("manifest unknown", re.IGNORECASE), "it has no such tag (manifest unknown)"),
    (re.compile("name unknown", re.IGNORECASE), "it has no such repository (name unknown)"),
    (
        re.compile("unauthorized|authentication required|denied", re.IGNORECASE),
        "the servers may not have it: it may be spelt differently, or need podman login as root there",
    ),
)


def refuse_image(image: str) -> str:
    """Why no registry can be asked about an image, '' if one can. A tag may be missing, and nothing else."""
    if len(image) <= MAX_CHARACTERS and _REFERENCE.fullmatch(image):
        return ""
    return f"{image[:MAX_CHARACTERS]!r} names no image of a registry: write it as REGISTRY/NAME:TAG"


def explain_refusal(words: str) -> str:
    """What a registry says when it does not give an image, in words that hold nothing of what it has sent; '' if these
    words of skopeo do not show that a registry has answered."""
    if _NO_REGISTRY.search(words):
        return ""
    return next((meaning for pattern, meaning in _REFUSALS if pattern.search(words)), "")


def is_digest(text: str) -> bool:
    """Whether the text is a digest, as `sha256:` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def by_digest(image: str, digest: str) -> str:
    """The same image by this digest, `REGISTRY/NAME@sha256:…`. The image is one that a registry can be asked about."""
    found = _REFERENCE.fullmatch(image)
    assert found is not None
    return f"{found['repository']}@{digest}"
