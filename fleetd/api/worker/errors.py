"""Why a worker gets no answer, beside what the store itself raises."""

from fleetd.store.protocol import StoreError, Unavailable


class Forbidden(StoreError):
    """A worker may not do that."""


class Lagging(Unavailable):
    """The store that this server sees is behind what the worker has seen; another server may answer."""
