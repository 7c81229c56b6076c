"""The present moment in the history of the store, as a token of model/token.py."""

from fleetd.model.token import Token, token_at
from fleetd.registry.registry import Registry


async def read_moment(registry: Registry) -> Token:
    """The token of the store as it is now. Raises Unavailable."""
    cluster_id = await registry.store.cluster_id()
    found = await registry.store.get_many([registry.history_key])
    history = found.items[0].value.decode("utf-8", "replace") if found.items else None
    return token_at(cluster_id if history is None else f"{cluster_id}/{history}", found.revision)
