"""The configuration that a text is, and the messages about it."""

from fleetd.config.config import Config, parse_config


def config(text: str = "", environ: dict[str, str] | None = None, overrides: dict[str, str] | None = None) -> Config:
    return parse_config(text, "fleet.conf", environ or {}, overrides or {})[0]


def notices(text: str = "", environ: dict[str, str] | None = None) -> list[str]:
    return [str(notice) for notice in parse_config(text, "fleet.conf", environ or {}, {})[1]]
